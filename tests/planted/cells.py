"""Short scenes, each made so that one planted bug must show; they know only what callers see."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

from loyalty_gateway.booking.calls import AccountKey
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.operations import Operation, Sale
from loyalty_gateway.providers.port import Executed, Finding, Question, Send
from tests.booking import vendor as played
from tests.booking.house import PATIENT, QUICK, House, open_house, until
from tests.booking.vendor import (
    QUERY_ANSWERS,
    RESENT,
    FakeVendor,
    Gate,
    books,
    loses_the_answer,
    loses_the_request,
    refuses,
)
from tests.planted import doors
from tests.planted.checker import Callers, Kind
from tests.planted.plants import GIVES_UP_AFTER
from tests.planted.replicas import open_replica
from tests.planted.scene import OTHER, REQUEST_ID, Scene, book, verdict
from tests.providers import fault_server

SECOND_ID = "sale-0002"
_LONG = Sale(caller_reference="x" * 50_000)


async def _a_repeat_after_a_restart(scene: Scene) -> set[Kind]:
    """The vendor does not recognise a booking, so only the journal can."""
    callers, vendor = Callers(), FakeVendor(is_idempotent=False)
    async with open_house(scene.path, vendor, promises={}) as house:
        await book(callers, house)
    async with open_house(scene.path, vendor, promises={}, boot_id="boot-2") as house:
        await book(callers, house)
        return await verdict(callers, vendor, house)


async def _a_crash_while_the_vendor_books(scene: Scene) -> set[Kind]:
    callers = Callers()
    gate = Gate()
    vendor = FakeVendor(gate, is_idempotent=False)
    async with open_house(scene.path, vendor, promises={}) as house:
        caller = asyncio.create_task(book(callers, house))
        await gate.arrived.wait()
        vendor.execute(vendor.sends[0])
        await house.stop(0)
        await caller
    async with open_house(scene.path, vendor, promises={}, boot_id="boot-2") as house:
        await book(callers, house)
        return await verdict(callers, vendor, house)


async def _a_lost_answer(scene: Scene) -> set[Kind]:
    callers, vendor = Callers(), FakeVendor(loses_the_answer)
    async with open_house(scene.path, vendor, policy=PATIENT) as house:
        await book(callers, house, within_s=0.4)
        await book(callers, house)
        return await verdict(callers, vendor, house)


async def _a_vendor_that_is_silent_for_long(scene: Scene) -> set[Kind]:
    callers = Callers()
    silence = [loses_the_request] * (GIVES_UP_AFTER + 3)
    vendor = FakeVendor(loses_the_answer, *silence)
    async with open_house(scene.path, vendor, policy=QUICK) as house:
        await book(callers, house)
        await house.becomes(State.SUCCEEDED, State.NOT_EXECUTED, request_id=REQUEST_ID)
        return await verdict(callers, vendor, house)


async def _a_resend_after_a_lost_answer(scene: Scene) -> set[Kind]:
    """The vendor recognises a booking by our id alone."""
    callers, vendor = Callers(), FakeVendor(loses_the_answer, books)
    async with open_house(scene.path, vendor, policy=QUICK) as house:
        await book(callers, house)
        return await verdict(callers, vendor, house)


async def _a_stray_second_answer(scene: Scene) -> set[Kind]:
    """The vendor answers the first request twice, the second time when the next one comes."""

    async def answers_twice(exchange: fault_server.Exchange) -> bool:
        if exchange.number > 1 and exchange.server.connections == 1:
            await exchange.answer(exchange.server.effects[0])
        await exchange.answer(exchange.body)
        return True

    found: set[Kind] = set()
    async with fault_server.running(answers_twice) as server:
        async with doors.open_way(server) as send:
            for number in (1, 2):
                body = json.dumps({"number": number}).encode()
                if (await send(body)).body != body:
                    found.add(Kind.FOREIGN_ANSWER)
        assert len(server.effects) == 2, "both were booked"
    return found


async def _one_request_id_for_two_requests(scene: Scene) -> set[Kind]:
    callers, vendor = Callers(), FakeVendor()
    async with open_house(scene.path, vendor) as house:
        await book(callers, house)
        await book(callers, house, asked=OTHER)
        return await verdict(callers, vendor, house)


async def _a_repeat(scene: Scene) -> set[Kind]:
    callers, vendor = Callers(), FakeVendor()
    async with open_house(scene.path, vendor) as house:
        await book(callers, house)
        await book(callers, house)
        return await verdict(callers, vendor, house)


async def _an_owner_who_comes_back_after_its_lease(scene: Scene) -> set[Kind]:
    """Its attempt is refused at last, while another replica's attempt is on its way."""
    callers = Callers()
    refused, booked = Gate(refuses()), Gate(books)
    vendor = FakeVendor(refused, booked)
    limits = Limits(lease_s=0.3)
    async with open_replica(scene.dsn, vendor, limits=limits, boot_id="boot-1") as first:
        slow = asyncio.create_task(book(callers, first, within_s=2.0))
        await refused.arrived.wait()
        limits = Limits(lease_s=30.0)
        async with open_replica(scene.dsn, vendor, limits=limits, boot_id="boot-2") as second:
            await booked.arrived.wait()
            refused.go.set()
            # The first replica has judged its own attempt once its booking flies no more.
            await until(lambda: not first.engine._flights.sending())
            booked.go.set()
            await until(lambda: len(vendor.effects) == 1)
            await slow
            await book(callers, second)
            return await verdict(callers, vendor, second)


_OFFERS = {Operation.DEBIT_BALANCE: played.ASKED}
_PROMISED = {QUERY_ANSWERS: True}


async def _an_effect_that_shows_after_the_first_question(scene: Scene) -> set[Kind]:
    """The vendor is asked before it is done, and the booking is there soon after."""

    async def asked_too_early(vendor: FakeVendor, question: Question) -> Finding:
        vendor.execute(vendor.sends[0])
        return Finding()

    callers = Callers()
    vendor = FakeVendor(loses_the_request, answers=[asked_too_early], offers=_OFFERS)
    async with open_house(scene.path, vendor, policy=QUICK, promises=_PROMISED) as house:
        await book(callers, house)
        return await verdict(callers, vendor, house)


async def _an_effect_that_comes_within_the_settle_time_of_a_long_attempt(
    scene: Scene,
) -> set[Kind]:
    """The row is older than the settle time when its attempt ends; what was sent is not."""
    callers = Callers()
    gate = Gate(loses_the_request)

    async def asked_too_early(vendor: FakeVendor, question: Question) -> Finding:
        if len(vendor.questions) == 3:
            vendor.execute(vendor.sends[0])
        return Finding()

    vendor = FakeVendor(gate, answers=[asked_too_early] * 3, offers=_OFFERS)
    policy = replace(QUICK, settle_s=2.0, not_found_waits_s=(0.01, 0.01))
    async with open_house(scene.path, vendor, policy=policy, promises=_PROMISED) as house:
        caller = asyncio.create_task(book(callers, house))
        await gate.arrived.wait()
        booking = await house.find(REQUEST_ID)
        assert booking is not None
        old_enough = booking.create_time + timedelta(seconds=2)
        await until(lambda: house.journal.now() > old_enough)
        gate.go.set()
        await caller
        return await verdict(callers, vendor, house)


async def _a_vendor_that_forgets_our_numbers(scene: Scene) -> set[Kind]:
    """Asked again after half of its memory, it would book a second time."""

    async def forgets_and_books(vendor: FakeVendor, send: Send) -> Executed:
        vendor.is_idempotent = False
        return await books(vendor, send)

    callers = Callers()
    vendor = FakeVendor(loses_the_answer, forgets_and_books, key_lifetime_s=0.2)
    policy = replace(QUICK, schedule_s=(0.5,))
    async with open_house(scene.path, vendor, policy=policy) as house:
        await book(callers, house, within_s=5.0)
        await house.becomes(State.SUCCEEDED, State.NEEDS_REVIEW, request_id=REQUEST_ID)
        return await verdict(callers, vendor, house)


async def _a_refusal_of_a_resend(scene: Scene) -> set[Kind]:
    """The first attempt has taken what the second one is refused for."""
    callers, vendor = Callers(), FakeVendor(loses_the_answer, refuses())
    async with open_house(scene.path, vendor, policy=QUICK) as house:
        await book(callers, house)
        return await verdict(callers, vendor, house)


async def _an_undo_whose_answer_is_lost(scene: Scene) -> set[Kind]:
    """The vendor recognises an undo by our id alone."""
    callers = Callers()
    offers = {
        Operation.DEBIT_BALANCE: replace(RESENT, undo=Operation.REVERSE_POINTS),
        Operation.REVERSE_POINTS: RESENT,
    }
    vendor = FakeVendor(books, loses_the_answer, offers=offers)
    vendor.undoes_again = True
    async with open_house(scene.path, vendor, policy=QUICK) as house:
        await book(callers, house)
        await house.undo(of=REQUEST_ID)
        await house.becomes(State.REVERSED, request_id=REQUEST_ID)
        found = {Kind.UNDONE_TWICE} if len(vendor.undos) > 1 else set()
        assert len(vendor.sends) == 3, "the undo was sent again"
    return found


async def _a_disk_that_is_full_at_either_write(scene: Scene) -> set[Kind]:
    """Once when the intent is to be written, and once when the outcome is; then a crash."""
    callers = Callers()
    gate = Gate(_books_with_a_long_text)
    vendor = FakeVendor(is_idempotent=False)

    async def first(house: House) -> None:
        await book(callers, house, within_s=2.0, sale=_LONG)

    async def second(house: House) -> None:
        # On a card of its own, which a doubt about it may hold.
        account = AccountKey("main", plain_id="10472")
        await book(callers, house, OTHER, 2.0, request_id=SECOND_ID, account=account)

    limits = Limits(settle_retry_s=0.3)
    async with open_house(scene.path, vendor, promises={}, limits=limits) as house:
        await house.journal.fill_the_disk()
        await first(house)
        await house.journal.clear_the_disk()
        vendor.script.append(gate)
        sending = asyncio.create_task(second(house))
        await gate.arrived.wait()
        await house.journal.fill_the_disk()
        gate.go.set()
        await sending
        await house.journal.clear_the_disk()
        await house.stop(0)
    async with open_house(scene.path, vendor, promises={}, boot_id="boot-2") as house:
        await first(house)
        await second(house)
        return await verdict(callers, vendor, house)


async def _books_with_a_long_text(vendor: FakeVendor, send: Send) -> Executed:
    """The effect, and an answer whose text needs room of its own in the journal."""
    return replace(await books(vendor, send), answer_text="x " * 50_000)


async def _a_doubt_that_is_due(scene: Scene) -> set[Kind]:
    """Booked, and the answer lost: recovery takes it up, and so it does what waits unsent."""
    callers, vendor = Callers(), FakeVendor(loses_the_answer)
    async with open_house(scene.path, vendor, policy=QUICK) as house:
        await book(callers, house)
        await house.becomes(State.SUCCEEDED, State.NOT_EXECUTED, request_id=REQUEST_ID)
        return await verdict(callers, vendor, house)


Cell = Callable[[Scene], Awaitable[set[Kind]]]

CELLS: dict[str, Cell] = {
    "M1": _a_repeat_after_a_restart,
    "M2": _a_crash_while_the_vendor_books,
    "M3": _a_lost_answer,
    "M4": _a_vendor_that_is_silent_for_long,
    "M5": _a_resend_after_a_lost_answer,
    "M6": _an_effect_that_shows_after_the_first_question,
    "M7": _an_effect_that_comes_within_the_settle_time_of_a_long_attempt,
    "M8": _a_stray_second_answer,
    "M9": _one_request_id_for_two_requests,
    "M10": _a_repeat,
    "M11": _an_owner_who_comes_back_after_its_lease,
    "M12": _a_vendor_that_forgets_our_numbers,
    "M13": _a_refusal_of_a_resend,
    "M14": _an_undo_whose_answer_is_lost,
    "M15": doors.amounts_that_no_float_holds,
    "M16": doors.a_stranger_who_knows_the_names,
    "M17": doors.a_bug_that_speaks_of_secrets,
    "M18": _a_disk_that_is_full_at_either_write,
    "M19": _a_doubt_that_is_due,
    "M20": doors.an_answer_that_leads_elsewhere,
}
"""The cell that must show each planted bug."""

ON_POSTGRES = frozenset({"M11"})
"""Cells of several replicas, which a SQLite file cannot have."""

SHOWS: dict[str, set[Kind]] = {
    "M1": {Kind.TWO_EFFECTS},
    "M2": {Kind.TWO_EFFECTS},
    "M3": {Kind.REFUSED_WITH_EFFECT, Kind.JOURNAL_DISAGREES},
    "M4": {Kind.REFUSED_WITH_EFFECT, Kind.JOURNAL_DISAGREES},
    "M5": {Kind.TWO_EFFECTS},
    "M6": {Kind.REFUSED_WITH_EFFECT, Kind.JOURNAL_DISAGREES},
    "M7": {Kind.REFUSED_WITH_EFFECT, Kind.JOURNAL_DISAGREES},
    "M8": {Kind.FOREIGN_ANSWER},
    "M9": {Kind.OK_WITHOUT_EFFECT},
    "M10": {Kind.ANSWERS_DIFFER},
    "M11": {Kind.REFUSED_WITH_EFFECT, Kind.JOURNAL_DISAGREES},
    "M12": {Kind.TWO_EFFECTS},
    "M13": {Kind.REFUSED_WITH_EFFECT, Kind.JOURNAL_DISAGREES},
    "M14": {Kind.UNDONE_TWICE},
    "M15": {Kind.ANOTHER_AMOUNT},
    "M16": {Kind.FOREIGN_BOOKING, Kind.FOREIGN_CARD},
    "M17": {Kind.INNER_TEXT},
    "M18": {Kind.TWO_EFFECTS, Kind.OK_FORGOTTEN},
    "M19": {Kind.REFUSED_WITH_EFFECT, Kind.JOURNAL_DISAGREES},
    "M20": {Kind.SENT_ELSEWHERE},
}
"""What the checker must find at least, so that a cell is not red for some other reason."""
