"""The wish to be rid of a booking: kept until the vendor or a person says otherwise, or refused."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from loyalty_gateway.booking.connections import NO_OTHER_CHANNEL_BOOKS
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import Operation, Reference
from loyalty_gateway.journal.writer import Change, unavailable
from loyalty_gateway.providers.port import Executed, Offer, Send
from tests.booking.house import LEAVES_S, QUICK, House, failure, until
from tests.booking.stages import BOOKED, NOT_BOOKED, resolve
from tests.booking.test_replicas import two_houses
from tests.booking.undoing import (
    AUTO,
    BY_OUR_NUMBER,
    PROMISES,
    SETTLED,
    UNDONE,
    a_house,
    a_vendor,
    own_undo,
)
from tests.booking.vendor import (
    ASKED,
    MATCHED,
    QUERY_ANSWERS,
    Act,
    FakeVendor,
    Gate,
    books,
    contradicts,
    finds_nothing,
    is_not_reached,
    limits_the_rate,
    loses_the_answer,
    loses_the_request,
    says_it_refused,
)
from tests.postgres import Place

ASKED_FOR = {**PROMISES, QUERY_ANSWERS: True}


def whose_undo_is_asked_for(*acts: Act, sale: Offer = UNDONE, **changes: Any) -> FakeVendor:
    """A vendor that is asked what became of an undo, since it cannot be sent again on a guess."""
    vendor = a_vendor(*acts, sale=sale, **changes)
    asked = replace(ASKED, call=vendor._book, ask=vendor._ask)
    vendor.operations = {**vendor.operations, Operation.REVERSE_POINTS: asked}
    return vendor


# --- an undo of the gateway's own ---------------------------------------------------------------


async def test_an_own_undo_whose_request_was_lost_is_sent_again(place: Place) -> None:
    """A lost request is no refusal: what was cancelled must not stand for it."""
    vendor = whose_undo_is_asked_for(books, loses_the_request, loses_the_request)
    async with a_house(place, vendor, SETTLED, promises=ASKED_FOR) as house:
        await house.book()
        await house.cancel()
        await house.becomes(State.REVERSED)
        undo = await own_undo(house)
        moves = [it.to_state for it in (await house.story(undo.request_id))[0]] if undo else []

        assert undo is not None and undo.state is State.SUCCEEDED
        assert moves.count(State.RESERVED) >= 2, "it was found not to have been done, twice"
        assert undo.not_found_times == ()
        assert vendor.standing == []
        assert len({it.outbound_id for it in vendor.sends[1:]}) == 1


async def test_an_own_undo_that_shows_late_undoes_once(place: Place) -> None:
    """It was not found as often as proves something, and was done all the same."""
    answers = [finds_nothing] * 3
    vendor = whose_undo_is_asked_for(books, loses_the_answer, answers=answers)
    async with a_house(place, vendor, SETTLED, promises=ASKED_FOR) as house:
        await house.book()
        await house.cancel()
        await house.becomes(State.REVERSED)

        assert len(vendor.undos) == 1


async def test_what_the_vendor_refuses_to_undo_stands(place: Place) -> None:
    vendor = whose_undo_is_asked_for(books, loses_the_request, answers=[says_it_refused])
    async with a_house(place, vendor, SETTLED, promises=ASKED_FOR) as house:
        first = await house.book()
        await house.cancel()
        stands = await house.becomes(State.SUCCEEDED)
        error = await failure(house.cancel())

        assert (error.reason, error.fate) == (Reason.CANCEL_NOT_POSSIBLE, Fate.EXECUTED)
        assert stands.cancel_requested
        assert (await house.book()).body == first.body


@pytest.mark.parametrize("passing", [limits_the_rate(0.01), is_not_reached])
async def test_a_passing_trouble_while_nothing_is_found_to_undo_asks_no_person(
    place: Place, passing: Act
) -> None:
    acts = (loses_the_request, loses_the_request, books, passing)
    vendor = a_vendor(*acts, sale=BY_OUR_NUMBER)
    async with a_house(place, vendor, replace(QUICK, settle_s=0.0)) as house:
        await house.fails()
        await house.becomes(State.REVERSED)
        undo = await own_undo(house)
        states = {it.to_state for it in (await house.story())[0]}

        assert State.NEEDS_REVIEW not in states
        assert undo is not None
        assert (undo.state, len(undo.not_found_times)) == (State.DECLINED, 3)


async def test_what_the_gateway_has_given_up_undoing_is_a_persons_to_decide(place: Place) -> None:
    """Neither the vendor nor a person has said that it is to stand."""
    policy = replace(QUICK, give_up_s=1.5)
    vendor = a_vendor(books, otherwise=is_not_reached)
    async with a_house(place, vendor, policy) as house:
        first = await house.book()
        await house.cancel()
        await house.becomes(State.NEEDS_REVIEW)
        undo = await own_undo(house)

        assert undo is not None and undo.state is State.NOT_EXECUTED
        assert (await house.book()).body == first.body, "what was told once is told for ever"
        assert (await resolve(house, BOOKED)).state is State.SUCCEEDED
        assert len(vendor.standing) == 1


async def undo_of_a_persons(house: House) -> Booking:
    """Books, cancels, and waits until the undo that comes of it needs a person."""
    await house.book()
    await house.cancel()
    await until(lambda: len(house.vendor.sends) == 2)
    undo = await own_undo(house)
    assert undo is not None
    return await house.becomes(State.NEEDS_REVIEW, request_id=undo.request_id)


async def test_what_a_person_says_of_an_undo_is_not_asked_once_more(place: Place) -> None:
    vendor = a_vendor(books, contradicts)
    async with a_house(place, vendor, QUICK) as house:
        undo = await undo_of_a_persons(house)
        await resolve(house, NOT_BOOKED, request_id=undo.request_id)

        assert (await house.get()).state is State.SUCCEEDED


async def test_a_person_who_is_cut_off_is_followed_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit of his word is slower than his client is patient."""
    vendor = a_vendor(books, contradicts)
    async with a_house(place, vendor, QUICK) as house:
        undo = await undo_of_a_persons(house)
        is_written = asyncio.Event()
        writes = house.journal.change

        async def is_slow(change: Change) -> bool:
            has_landed = await writes(change)
            if change.actor.startswith("operator"):
                is_written.set()
                await asyncio.sleep(0.3)
            return has_landed

        monkeypatch.setattr(house.journal, "change", is_slow)
        deciding = asyncio.create_task(resolve(house, NOT_BOOKED, request_id=undo.request_id))
        await is_written.wait()
        deciding.cancel()
        await asyncio.gather(deciding, return_exceptions=True)

        await house.becomes(State.SUCCEEDED)


async def test_what_stands_by_a_persons_word_is_not_asked_about_at_each_undo_that_fails(
    place: Place,
) -> None:
    policy = replace(QUICK, give_up_s=1.5)
    vendor = a_vendor(books, otherwise=is_not_reached)
    async with a_house(place, vendor, policy) as house:
        await house.book()
        await house.cancel()
        await house.becomes(State.NEEDS_REVIEW)
        await resolve(house, BOOKED)
        await failure(house.undo())
        await house.becomes(State.SUCCEEDED, State.NEEDS_REVIEW)
        stands = await house.get()
        vendor.otherwise = books
        await house.undo()

        assert stands.state is State.SUCCEEDED
        assert (await house.get()).state is State.REVERSED


# --- AUTO_REVERSE -------------------------------------------------------------------------------


async def books_and_contradicts(vendor: FakeVendor, send: Send) -> Executed:
    vendor.execute(send)
    return await contradicts(vendor, send)


async def test_what_is_a_persons_at_once_is_undone_too_if_it_was_booked(place: Place) -> None:
    """Its caller heard UNKNOWN, and relies on the undo."""
    vendor = a_vendor(books_and_contradicts)
    async with a_house(place, vendor, QUICK) as house:
        error = await house.fails(**AUTO)
        known = await house.get()
        await resolve(house, BOOKED)
        await house.becomes(State.REVERSED)

        assert (error.reason, error.fate) == (Reason.BOOKING_NEEDS_REVIEW, Fate.UNKNOWN)
        assert known.cancel_requested
        assert vendor.standing == []


async def test_whose_number_is_another_bookings_is_undone_by_its_own(place: Place) -> None:
    same = Reference("receipt", "R-same")

    async def books_under_one_number(vendor: FakeVendor, send: Send) -> Executed:
        receipt = replace(vendor.execute(send), references=(same,))
        return Executed(receipt, 200, "200", "", "")

    vendor = a_vendor(books_under_one_number, books_under_one_number)
    async with a_house(place, vendor, QUICK) as house:
        await house.book("sale-0001")
        await house.fails("sale-0002", **AUTO)
        second = await house.get("sale-0002")
        await resolve(house, BOOKED, request_id="sale-0002")
        await house.becomes(State.REVERSED, request_id="sale-0002")

        assert second.cancel_requested
        assert [it.outbound_id for it in vendor.standing] == [vendor.sends[0].outbound_id]


async def test_a_success_that_is_written_before_the_wish_of_who_heard_of_a_doubt_is_undone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the vendor answers; the outcome is the first thing that it takes."""
    is_full = True
    gate = Gate()
    vendor = a_vendor(gate)
    async with a_house(place, vendor, QUICK) as house:
        writes = house.journal.change
        settled = asyncio.Event()

        async def takes_the_outcome_first(change: Change) -> bool:
            is_outcome = change.attempt is not None and change.before.request_id == "sale-0001"
            if is_full or not (is_outcome or settled.is_set()):
                raise unavailable(OSError("the disk is full"))
            has_landed = await writes(change)
            if is_outcome:
                settled.set()
            return has_landed

        caller = house.booking_task(within_s=LEAVES_S, **AUTO)
        await gate.arrived.wait()
        monkeypatch.setattr(house.journal, "change", takes_the_outcome_first)
        gate.go.set()
        error = await failure(caller)
        waiting = house.booking_task(**AUTO)
        await asyncio.sleep(0.05)
        is_full = False
        await settled.wait()
        await house.becomes(State.REVERSED)
        moves = await house.moves()
        repeats = [await failure(waiting), await house.fails(**AUTO)]

        assert (error.reason, error.fate) == (Reason.BOOKING_IN_PROGRESS, Fate.UNKNOWN)
        assert State.SUCCEEDED in moves, "it had been written before the wish could be"
        assert vendor.standing == []
        assert [it.fate for it in repeats] == [Fate.NOT_EXECUTED] * 2, "nobody was ever told OK"


async def test_a_caller_who_is_cut_off_while_its_wish_is_noted_is_undone_all_the_same(
    place: Place,
) -> None:
    """A read of the journal takes longer than what is left of the caller's time."""
    gate = Gate()
    vendor = a_vendor(gate)
    async with a_house(place, vendor, QUICK) as house:
        caller = house.booking_task(within_s=LEAVES_S, **AUTO)
        await gate.arrived.wait()
        is_noting = asyncio.Event()

        async def is_slow() -> None:
            is_noting.set()
            await asyncio.sleep(30)

        house.journal.before_find = is_slow
        await is_noting.wait()
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        house.journal.before_find = None
        gate.go.set()
        await house.becomes(State.REVERSED)

        assert vendor.standing == []


async def test_a_known_booking_is_answered_although_its_undo_could_not_be_promised_any_more(
    place: Place,
) -> None:
    vendor = a_vendor()
    async with a_house(place, vendor, QUICK) as house:
        first = await house.book(**AUTO)
        house.link.proven.clear()
        again = await house.book(**AUTO)
        error = await house.fails("sale-0002", **AUTO)

        assert again.is_replayed and again.body == first.body
        assert (error.reason, error.fate) == (Reason.CAPABILITY_NOT_SUPPORTED, Fate.NOT_EXECUTED)
        assert len(vendor.sends) == 1


# --- CancelBooking ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_lost", [True, False])
async def test_what_may_turn_out_to_be_an_untagged_line_is_not_cancelled_in_vain(
    place: Place, is_lost: bool
) -> None:
    """No machine undoes what only account, amount and time tell."""
    gate = Gate(loses_the_answer)
    sale = replace(MATCHED, undo=Operation.REVERSE_POINTS)
    vendor = a_vendor(gate, sale=sale, answers=[finds_nothing] * 50)
    promises = {**PROMISES, NO_OTHER_CHANNEL_BOOKS: True}
    async with a_house(place, vendor, promises=promises) as house:
        caller = house.booking_task(within_s=LEAVES_S)
        await gate.arrived.wait()
        if is_lost:
            gate.go.set()
            await house.becomes(State.IN_DOUBT)
        error = await failure(house.cancel())
        gate.go.set()
        await failure(caller)

        assert (error.reason, error.fate) == (Reason.CANCEL_NOT_POSSIBLE, Fate.UNKNOWN)
        assert not (await house.get()).cancel_requested


# --- two replicas -------------------------------------------------------------------------------


async def test_what_another_replica_undoes_by_now_does_not_follow_an_older_undo(
    postgres_dsn: str,
) -> None:
    """Else it would be given back while it is being undone, and could be undone once more."""
    gate = Gate()
    vendor = a_vendor(books, is_not_reached, gate)
    async with two_houses(postgres_dsn, vendor, promises=PROMISES) as (first, second):
        await first.book()
        changes = 0
        repeats: list[asyncio.Task[Any]] = []

        async def is_overtaken() -> None:
            nonlocal changes
            changes += 1
            if changes != 3:
                return
            # The mark and the end of the undo are written; its original is about to follow, and
            # has followed elsewhere already. Its caller repeats the undo at the other replica.
            original = await second.get()
            assert original.state is State.REVERSING
            stands = replace(
                original,
                state=State.SUCCEEDED,
                epoch=original.epoch + 1,
                owner="",
                lease_until=None,
            )
            assert await second.journal.change(Change(original, stands, "recovery"))
            repeats.append(asyncio.create_task(second.undo()))
            await gate.arrived.wait()

        first.journal.before_change = is_overtaken
        await failure(first.undo())
        first.journal.before_change = None
        between = await second.get()
        gate.go.set()
        await repeats[0]

        assert between.state is State.REVERSING
        assert (await second.get()).state is State.REVERSED
        assert len(vendor.undos) == 1


async def test_who_comes_too_late_with_an_undo_leaves_what_a_newer_one_undoes_alone(
    postgres_dsn: str,
) -> None:
    """The replica was frozen at the vendor for longer than its lease, and for another undo."""
    frozen, newer = Gate(loses_the_request), Gate()
    vendor = a_vendor(books, frozen, newer)
    async with two_houses(postgres_dsn, vendor, promises=PROMISES) as (first, second):
        await first.book()
        late = asyncio.create_task(first.undo())
        await frozen.arrived.wait()
        old, original = await second.get("undo-0001"), await second.get()
        ended = replace(
            old,
            state=State.IN_DOUBT,
            epoch=old.epoch + 1,
            owner="",
            attempt_open=False,
            lease_until=None,
        )
        assert await second.journal.change(Change(old, ended, "recovery"))
        closed = replace(
            ended,
            state=State.NOT_EXECUTED,
            epoch=ended.epoch + 1,
            settle_time=second.journal.now(),
            next_attempt_time=None,
        )
        assert await second.journal.change(Change(ended, closed, "recovery"))
        stands = replace(
            original, state=State.SUCCEEDED, epoch=original.epoch + 1, owner="", lease_until=None
        )
        assert await second.journal.change(Change(original, stands, "undo"))
        undoing = asyncio.create_task(second.undo("undo-0002"))
        await newer.arrived.wait()
        frozen.go.set()
        await failure(late)
        between = await second.get()
        newer.go.set()
        await undoing

        assert between.state is State.REVERSING
        assert (await second.get()).state is State.REVERSED
        assert len(vendor.undos) == 1
