"""Two wishes about one booking at one moment: somebody is faster, and both hear the truth."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import NoReturn

import pytest

from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    AMOUNT_ECHO_UNIT,
    InDoubtPolicy,
    Operation,
    Receipt,
    Reference,
)
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.journal.writer import Change, unavailable
from loyalty_gateway.providers.port import Executed, Send
from tests.booking.house import (
    LEAVES_S,
    QUICK,
    TENANT,
    House,
    failure,
    open_house,
    until,
)
from tests.booking.stages import BOOKED, NOT_BOOKED, crashed_while_resending, doubt, resolve
from tests.booking.test_orders import PREPARES
from tests.booking.test_replicas import two_houses
from tests.booking.undoing import AUTO, PROMISES, UNDONE, a_house, a_vendor
from tests.booking.vendor import (
    ASKED,
    QUERY_ANSWERS,
    RESENT,
    FakeVendor,
    Gate,
    books,
    is_not_reached,
    loses_the_answer,
    loses_the_request,
)
from tests.postgres import Place

OTHER_KEYS = Keyring([("k2", b"t" * 32)], b"p" * 32)


def once_before_a_change(house: House, number: int, act: Callable[[], Awaitable[object]]) -> None:
    """Something that happens just before this process's n-th change from now on."""
    left = number

    async def hook() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            house.journal.before_change = None
            await act()

    house.journal.before_change = hook


# --- an undo, and somebody who is faster ------------------------------------------------------


async def test_an_undo_that_another_replica_made_under_the_same_id_is_answered_as_known(
    postgres_dsn: str,
) -> None:
    vendor = a_vendor()
    async with two_houses(postgres_dsn, vendor, promises=PROMISES) as (first, second):
        await first.book()
        once_before_a_change(first, 1, second.undo)
        late = await first.undo()
        early = await second.undo()

    assert late.is_replayed and late.body == early.body
    assert len(vendor.undos) == 1


async def test_an_undo_whose_request_id_was_cancelled_meanwhile_leaves_its_original_standing(
    place: Place,
) -> None:
    async with a_house(place, a_vendor()) as house:
        first = await house.book()
        once_before_a_change(house, 1, lambda: house.cancel("undo-0001"))
        error = await failure(house.undo())
        again = await house.book()

        assert error.reason is Reason.CANCELLED_BEFORE_ARRIVAL
        assert (await house.get()).state is State.SUCCEEDED
        assert again.body == first.body
        assert len(house.vendor.sends) == 1


async def left_to_be_repeated(house: House) -> None:
    """A booking, and its undo that did not leave and may be repeated."""
    await house.book()
    house.vendor.script.append(is_not_reached)
    await failure(house.undo())
    assert (await house.get("undo-0001")).state is State.RESERVED
    assert (await house.get()).state is State.SUCCEEDED


async def test_a_repeated_undo_that_was_cancelled_meanwhile_leaves_its_original_standing(
    place: Place,
) -> None:
    async with a_house(place, a_vendor()) as house:
        await left_to_be_repeated(house)
        once_before_a_change(house, 2, lambda: house.cancel("undo-0001"))
        error = await failure(house.undo())

        assert error.reason is Reason.BOOKING_NOT_EXECUTED
        assert (await house.get()).state is State.SUCCEEDED
        assert len(house.vendor.standing) == 1


@pytest.mark.parametrize("is_race", [False, True])
async def test_a_repeated_undo_of_what_another_undo_undid_is_refused_unsent(
    place: Place, is_race: bool
) -> None:
    async with a_house(place, a_vendor()) as house:
        await left_to_be_repeated(house)
        if is_race:
            once_before_a_change(house, 1, lambda: house.undo("undo-0002"))
        else:
            await house.undo("undo-0002")
        sent = len(house.vendor.sends)
        error = await failure(house.undo())
        undo = await house.get("undo-0001")

        assert error.reason is Reason.ALREADY_REVERSED
        assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, False)
        assert error.booking == undo.name
        assert len(house.vendor.sends) == sent + is_race
        assert len(house.vendor.undos) == 1


async def test_an_undo_of_an_original_whose_key_is_gone_is_refused(place: Place) -> None:
    vendor = a_vendor()
    async with a_house(place, vendor) as house:
        await house.book()
    async with a_house(place, vendor, keyring=OTHER_KEYS) as house:
        error = await failure(house.undo())

        assert error.reason is Reason.ORIGINAL_NOT_REVERSIBLE
        assert (await house.get()).state is State.SUCCEEDED
        assert len(vendor.sends) == 1


# --- a repeat -----------------------------------------------------------------------------------


async def test_a_repeat_that_would_be_prepared_must_be_the_same_request_too(place: Place) -> None:
    vendor = FakeVendor(is_not_reached, offers={Operation.DEBIT_BALANCE: PREPARES})
    async with open_house(place, vendor) as house:
        await house.fails()
        error = await house.fails(asked=Money("CHF", 2000))

        assert error.reason is Reason.REQUEST_ID_REUSED
        assert (await house.get()).state is State.RESERVED
        assert len(vendor.sends) == 1


async def test_a_repeat_of_what_cannot_be_opened_any_more_is_not_sent(place: Place) -> None:
    vendor = FakeVendor(is_not_reached)
    async with open_house(place, vendor) as house:
        await house.fails()
    async with open_house(place, vendor, keyring=OTHER_KEYS) as house:
        error = await house.fails()
        booking = await house.get()

    assert (error.reason, error.fate) == (Reason.INTERNAL, Fate.NOT_EXECUTED)
    assert booking.state is State.RESERVED
    assert len(vendor.sends) == 1


# --- cancelling and resolving -------------------------------------------------------------------


async def test_cancelling_twice_while_the_vendor_books_is_one_wish(place: Place) -> None:
    gate = Gate()
    async with a_house(place, a_vendor(gate), QUICK) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        first = await house.cancel()
        second = await house.cancel()
        gate.go.set()
        await failure(caller)
        await house.becomes(State.REVERSED)

    assert first.cancel_requested and second == first
    assert len(house.vendor.undos) == 1


async def moved_by_somebody_else(house: House, known: Booking) -> None:
    """Another replica takes the booking up."""
    taken = replace(known, epoch=known.epoch + 1, owner="boot-9", recovery_tries=9)
    await house.journal.change(Change(known, taken, "somebody else"))


async def test_a_finding_that_somebody_was_faster_than_is_not_taken(place: Place) -> None:
    async with open_house(place, FakeVendor(loses_the_answer)) as house:
        known = await doubt(house)
        once_before_a_change(house, 1, lambda: moved_by_somebody_else(house, known))
        error = await failure(resolve(house, BOOKED))

        assert error.reason is Reason.RESOLUTION_NOT_POSSIBLE
        assert (await house.get()).state is State.IN_DOUBT


async def test_a_cancellation_that_recovery_was_faster_than_is_written_down_all_the_same(
    place: Place,
) -> None:
    """The other move leads to the same state and epoch, and does not carry the wish."""
    async with a_house(place, a_vendor(loses_the_answer)) as house:
        known = await doubt(house)
        once_before_a_change(house, 1, lambda: moved_by_somebody_else(house, known))
        cancelled = await house.cancel()

        assert cancelled.cancel_requested
        assert (await house.get()).cancel_requested


async def test_a_cancellation_of_what_never_stands_still_is_told_as_not_possible(
    place: Place,
) -> None:
    async with a_house(place, a_vendor(loses_the_answer)) as house:
        await doubt(house)

        async def is_always_faster() -> None:
            house.journal.before_change = None
            await moved_by_somebody_else(house, await house.get())
            house.journal.before_change = is_always_faster

        house.journal.before_change = is_always_faster
        error = await failure(house.cancel())

        assert (error.reason, error.fate) == (Reason.CANCEL_NOT_POSSIBLE, Fate.UNKNOWN)
        assert not (await house.get()).cancel_requested


async def test_what_was_given_up_and_cannot_be_undone_any_more_stands_by_a_persons_word(
    place: Place,
) -> None:
    vendor = a_vendor(loses_the_answer, sale=replace(UNDONE, ways=()))
    async with a_house(place, vendor) as house:
        gate = Gate(loses_the_answer)
        vendor.script.appendleft(gate)
        caller = house.booking_task()
        await gate.arrived.wait()
        await house.cancel()
        gate.go.set()
        await failure(caller)
    async with open_house(place, connections={"other": vendor}) as house:
        known = await house.get()
        assert (known.state, known.cancel_requested) == (State.NEEDS_REVIEW, True)
        resolved = await resolve(house, BOOKED)

        assert resolved.state is State.SUCCEEDED
        assert len(vendor.standing) == 1


async def test_a_review_of_a_connection_that_is_gone_cannot_be_asked_once_more(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(loses_the_answer), promises={}) as house:
        await house.fails()
    async with open_house(place, connections={"other": FakeVendor()}) as house:
        error = await failure(resolve(house, None))

        assert error.reason is Reason.RESOLUTION_NOT_POSSIBLE
        assert (await house.get()).state is State.NEEDS_REVIEW


async def test_asking_now_for_what_is_under_way_answers_as_it_stands(place: Place) -> None:
    gate = Gate()
    async with open_house(place, FakeVendor(gate)) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        asked = await resolve(house, None)
        gate.go.set()
        await caller

    assert asked.state is State.SENDING
    assert len(house.vendor.sends) == 1


# --- giving up ------------------------------------------------------------------------------------


async def test_a_wish_that_cannot_be_written_down_is_told_in_the_log_and_at_the_bookings_end(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    limits = Limits(settle_retry_s=0.3)
    async with a_house(place, a_vendor(gate), QUICK, limits=limits) as house:
        caller = house.booking_task(**AUTO)
        await gate.arrived.wait()

        async def fails() -> None:
            raise unavailable(OSError("the disk does not answer"))

        house.journal.before_find = fails
        with caplog.at_level(logging.WARNING):
            caller.cancel()
            await asyncio.gather(caller, return_exceptions=True)
            await until(lambda: "could not be written down" in caplog.text)
        house.journal.before_find = None
        gate.go.set()
        await house.becomes(State.REVERSED)


async def test_a_wish_is_written_down_once_the_journal_is_back(place: Place) -> None:
    gate = Gate()
    async with a_house(place, a_vendor(gate), QUICK) as house:
        caller = house.booking_task(**AUTO)
        await gate.arrived.wait()

        async def fails() -> None:
            house.journal.before_find = None
            raise unavailable(OSError("the disk does not answer"))

        house.journal.before_find = fails
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)

        async def is_given_up() -> bool:
            return (await house.get()).cancel_requested

        await until(is_given_up)
        gate.go.set()
        await house.becomes(State.REVERSED)


async def test_a_stop_waits_for_the_wish_of_a_caller_who_has_gone(place: Place) -> None:
    gate, may_read = Gate(loses_the_request), asyncio.Event()
    vendor = a_vendor(gate)
    async with a_house(place, vendor) as house:
        caller = house.booking_task(**AUTO)
        await gate.arrived.wait()
        house.journal.before_find = may_read.wait  # type: ignore[assignment]
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        stopping = asyncio.create_task(house.stop())
        gate.go.set()
        await asyncio.sleep(0)
        assert not stopping.done()
        may_read.set()
        assert await stopping == 0
    async with a_house(place, vendor, boot_id="boot-2") as house:
        assert (await house.get()).cancel_requested


async def test_a_doubt_that_recovery_found_booked_as_its_caller_gave_up_is_answered_ok(
    place: Place,
) -> None:
    """AUTO_REVERSE promises no effect or the truth; where it is booked and told, it is told."""
    vendor = FakeVendor(
        offers={Operation.DEBIT_BALANCE: UNDONE, Operation.REVERSE_POINTS: RESENT},
    )
    gate = Gate()
    vendor.script.append(gate)
    async with a_house(place, vendor, QUICK) as house:
        caller = house.booking_task(within_s=LEAVES_S, in_doubt_policy=InDoubtPolicy.AUTO_REVERSE)
        await gate.arrived.wait()
        finds = 0

        async def it_lands_just_before() -> None:
            nonlocal finds
            finds += 1
            if finds == 1:
                gate.go.set()

                async def has_landed() -> bool:
                    found = await Journal.find(house.journal, TENANT, request_id="sale-0001")
                    return found is not None and found.state is State.SUCCEEDED

                await until(has_landed)

        house.journal.before_find = it_lands_just_before
        answer = await caller

        assert answer.is_replayed
        assert len(vendor.standing) == 1


async def test_a_wish_that_recovery_was_faster_than_is_written_down_over_what_it_found(
    place: Place,
) -> None:
    async with a_house(place, a_vendor(loses_the_answer)) as house:
        gate = Gate(loses_the_answer)
        house.vendor.script.appendleft(gate)
        caller = house.booking_task(within_s=LEAVES_S, **AUTO)
        await gate.arrived.wait()
        known = await house.get()

        async def taken_up() -> None:
            again = replace(known, epoch=known.epoch + 1)
            assert await house.journal.change(Change(known, again, "somebody else"))

        once_before_a_change(house, 1, taken_up)
        error = await failure(caller)
        booking = await house.get()
        gate.go.set()

    assert error.fate is Fate.UNKNOWN
    assert booking.cancel_requested


# --- recovery, and somebody who is faster ---------------------------------------------------------


async def test_an_attempt_that_was_cut_short_is_written_down_before_the_vendor_is_asked(
    place: Place,
) -> None:
    """Where somebody else has taken the booking up meanwhile, nothing is asked here."""
    await crashed_while_resending(place)
    vendor = FakeVendor(offers={Operation.DEBIT_BALANCE: ASKED})
    promises = {QUERY_ANSWERS: True}
    async with open_house(place, vendor, promises=promises, starts=False) as house:

        async def somebody_takes_it() -> None:
            await moved_by_somebody_else(house, await house.get())

        # A file's first change is the start's, which takes the booking over.
        once_before_a_change(house, 1 if house.journal.is_shared else 2, somebody_takes_it)
        await house.engine.start(proves_itself=False)

        async def is_taken() -> bool:
            return (await house.get()).recovery_tries == 9

        await until(is_taken)
        await until(lambda: not house.engine._recovery._busy)
        attempts = (await house.story())[1]

    assert vendor.questions == []
    assert [it.number for it in attempts] == [1]


async def test_an_undo_that_comes_to_nothing_leaves_the_wish_to_be_rid_of_its_original(
    place: Place,
) -> None:
    """CancelBooking of both, between the mark on the original and the undo itself."""
    async with a_house(place, a_vendor(), QUICK) as house:
        await left_to_be_repeated(house)

        async def give_up_on_both() -> None:
            await house.cancel("undo-0001")
            await house.cancel("sale-0001")

        once_before_a_change(house, 2, give_up_on_both)
        error = await failure(house.undo())
        await house.becomes(State.REVERSED)

        assert error.reason is Reason.BOOKING_NOT_EXECUTED
        assert house.vendor.standing == []


async def test_a_cancellation_is_never_told_for_a_booking_that_waits_for_its_account(
    place: Place,
) -> None:
    """Both are written in one batch, and only the cancellation has nothing to wait for."""
    async with open_house(place, FakeVendor(loses_the_answer), promises={}) as house:
        await house.fails("sale-0001")
        waiting = house.booking_task("sale-0002", within_s=8)
        await asyncio.sleep(0.05)
        async with house.journal.writer_held():
            await until(lambda: house.journal.writes_waiting == 1)
            cancelling = asyncio.create_task(house.cancel("sale-0002"))
            await until(lambda: house.journal.writes_waiting == 2)
        cancelled = await cancelling
        error = await failure(waiting)
        await resolve(house, NOT_BOOKED)

        assert (await house.get("sale-0002")) == cancelled
        assert error.reason is Reason.CANCELLED_BEFORE_ARRIVAL
        assert len(house.vendor.sends) == 1


async def test_whose_reference_is_another_bookings_hears_of_the_person_who_decides(
    place: Place,
) -> None:
    """The one that was answered keeps its answer; the other one never had any."""
    same = (Reference("receipt", "R-same"),)

    async def books_under_one_number(vendor: FakeVendor, send: Send) -> Executed:
        receipt = replace(vendor.execute(send), references=same)
        return Executed(receipt, 200, "200", "", "")

    vendor = a_vendor(books_under_one_number, books_under_one_number)
    async with a_house(place, vendor) as house:
        first = await house.book("sale-0001")
        error = await house.fails("sale-0002")
        for request_id in ("sale-0002", "sale-0001"):
            await resolve(house, NOT_BOOKED, request_id=request_id)
        repeated = await house.fails("sale-0002")

        assert (error.reason, error.fate) == (Reason.BOOKING_NEEDS_REVIEW, Fate.UNKNOWN)
        assert repeated.reason is Reason.BOOKING_NOT_EXECUTED
        assert (await house.book("sale-0001")).body == first.body


async def test_a_person_who_finds_a_booking_done_gives_it_no_other_bookings_number(
    place: Place,
) -> None:
    """Else its undo would undo the other one."""
    same = Reference("receipt", "R-same")

    async def books_under_one_number(vendor: FakeVendor, send: Send) -> Executed:
        receipt = replace(vendor.execute(send), references=(same,))
        return Executed(receipt, 200, "200", "", "")

    vendor = a_vendor(books_under_one_number, books_under_one_number)
    async with a_house(place, vendor) as house:
        first = await house.book("sale-0001")
        await house.fails("sale-0002")
        for request_id in ("sale-0002", "sale-0001"):
            await resolve(house, BOOKED, request_id=request_id)
        second = await house.book("sale-0002")
        await house.undo("undo-0002", "sale-0002")
        undone = vendor.sends[-1].order.original
        holder = await house.journal.find_by_reference(TENANT, "main", same.kind, same.value)

        assert undone is not None and same not in undone.references
        assert undone.outbound_id == (await house.get("sale-0002")).outbound_id
        assert same.value.encode() not in second.body
        assert holder is not None and holder.request_id == "sale-0001"
        assert (await house.book("sale-0001")).body == first.body


async def test_what_another_bookings_answer_told_is_not_told_of_the_one_that_a_person_found(
    place: Place,
) -> None:
    async def books_a_part_under_one_number(vendor: FakeVendor, send: Send) -> Executed:
        receipt = replace(
            vendor.execute(send),
            references=(Reference("receipt", "R-same"),),
            echoed=Money("CHF", 500),
        )
        return Executed(receipt, 200, "200", "", "")

    act = books_a_part_under_one_number
    vendor = a_vendor(act, act, sale=replace(UNDONE, partial_amounts=True))
    async with a_house(place, vendor, promises={**PROMISES, AMOUNT_ECHO_UNIT: True}) as house:
        await house.book("sale-0001", allow_partial=True)
        await house.fails("sale-0002", allow_partial=True)
        first, second = [await house.get(it) for it in ("sale-0001", "sale-0002")]
        found = await resolve(house, BOOKED, request_id="sale-0002")

        assert (first.applied, second.applied) == (Money("CHF", 500),) * 2, "as evidence"
        assert (found.applied, found.balances_after) == (None, ())


async def test_another_content_hears_so_before_it_hears_why_it_is_refused(place: Place) -> None:
    vendor = a_vendor(books, books, is_not_reached)
    async with a_house(place, vendor) as house:
        await house.book("sale-0001")
        await house.undo("undo-0001", "sale-0001")
        await house.fails("sale-0002")
        error = await failure(house.undo("sale-0002", "sale-0001"))

        assert (await house.get("sale-0002")).state is State.RESERVED
        assert error.reason is Reason.REQUEST_ID_REUSED


async def test_a_person_who_finds_a_booking_done_makes_its_number_its_own(place: Place) -> None:
    told = Reference("receipt", "R-told")

    async def tells_of_another_amount(vendor: FakeVendor, send: Send) -> Executed:
        vendor.execute(send)
        return Executed(Receipt((told,), echoed=Money("CHF", 999)), 200, "200", "", "")

    async def books_under_that_number(vendor: FakeVendor, send: Send) -> Executed:
        receipt = replace(vendor.execute(send), references=(told,))
        return Executed(receipt, 200, "200", "", "")

    vendor = a_vendor(tells_of_another_amount, books_under_that_number)
    async with a_house(place, vendor, promises={**PROMISES, AMOUNT_ECHO_UNIT: True}) as house:
        await house.fails("sale-0001")
        await resolve(house, BOOKED, request_id="sale-0001")
        error = await house.fails("sale-0002")

        assert error.reason is Reason.BOOKING_NEEDS_REVIEW
        states = [(await house.get(it)).state for it in ("sale-0001", "sale-0002")]
        assert states == [State.NEEDS_REVIEW] * 2, "the second one names what is the first's"


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_validation_gives_nothing_up(place: Place, leaves: bool) -> None:
    gate = Gate()
    async with a_house(place, a_vendor(gate), limits=Limits(in_flight_max=1)) as house:
        first = house.booking_task(**AUTO)
        await gate.arrived.wait()
        if leaves:
            house.journal.before_find = partial(asyncio.sleep, 30)
            asked = house.booking_task(validate_only=True, **AUTO)
            await asyncio.sleep(0.1)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            house.journal.before_find = None
        else:
            error = await house.fails(validate_only=True, **AUTO)
            assert error.reason is Reason.OVERLOADED
        untouched = await house.get()
        gate.go.set()
        await first

        assert not untouched.cancel_requested
        assert (await house.get()).state is State.SUCCEEDED


async def test_whoever_gives_up_while_the_journal_is_away_still_hears_of_the_doubt(
    place: Place,
) -> None:
    """And is undone: by the end of the attempt itself, whenever that comes."""
    gate = Gate()
    async with a_house(place, a_vendor(gate), QUICK) as house:
        caller = house.booking_task(within_s=LEAVES_S, **AUTO)
        await gate.arrived.wait()

        async def is_away() -> NoReturn:
            raise unavailable(OSError("the disk does not answer"))

        house.journal.before_find = is_away
        error = await failure(caller)
        house.journal.before_find = None
        gate.go.set()
        await house.becomes(State.REVERSED)

        assert (error.reason, error.fate) == (Reason.BOOKING_IN_PROGRESS, Fate.UNKNOWN)
        assert house.vendor.standing == []
