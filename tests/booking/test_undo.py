"""A caller undoes a booking, whole and once; and what a tip has to do with it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from loyalty_gateway.booking.calls import AccountKey, BookingKey, OriginalKey
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    Operation,
)
from tests.booking.house import (
    CARD,
    HELD_S,
    QUICK,
    TENANT,
    UNHURRIED,
    House,
    an_undo,
    failure,
)
from tests.booking.stages import BOOKED, NOT_BOOKED, doubt, resolve
from tests.booking.undoing import a_house, a_vendor
from tests.booking.vendor import (
    books,
    is_not_reached,
    loses_the_answer,
    refuses,
)
from tests.postgres import Place

# --- explicit ---------------------------------------------------------------------------------


async def test_an_undo_undoes_its_original_whole_and_is_linked_to_it(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        first = await house.book()
        await house.undo()
        original, undo = await house.get(), await house.get("undo-0001")
        again = await house.book()
        shown = await house.engine.get(TENANT, BookingKey(request_id="sale-0001"))
        moves = await house.moves()

        assert house.vendor.standing == []
        sent = house.vendor.sends[-1].order

    assert (original.state, undo.state) == (State.REVERSED, State.SUCCEEDED)
    assert moves == [State.SENDING, State.SUCCEEDED, State.REVERSING, State.REVERSED]
    assert undo.original_booking == original.name
    assert (undo.connection, undo.masked_id, undo.asked) == (
        original.connection,
        original.masked_id,
        original.asked,
    )
    assert shown.undo_bookings == (undo.name,)
    assert not shown.is_reversible
    assert original.outcome is Fate.NOT_EXECUTED
    assert again.body == first.body, "what was told once is told for ever"
    assert sent.original is not None
    assert sent.original.references == original.references
    assert (sent.account_id, sent.original.order.account_id) == (CARD, CARD)


@pytest.mark.parametrize("how", ["booking", "request_id", "reference"])
async def test_the_original_may_be_named_in_three_ways(place: Place, how: str) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        original = await house.get()
        reference = original.references[0]
        key = {
            "booking": OriginalKey(booking_id=original.booking_id),
            "request_id": OriginalKey(request_id="sale-0001"),
            "reference": OriginalKey(
                reference_connection="main",
                reference_kind=reference.kind,
                reference_value=reference.value,
            ),
        }[how]
        await house.engine.book(an_undo(original=key))

        assert (await house.get()).state is State.REVERSED


async def test_a_booking_that_can_be_undone_says_so_and_one_that_cannot_does_not(
    place: Place,
) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        await house.book("top-up-01", operation=Operation.TOP_UP_BALANCE)
        page, _ = await house.engine.list(TENANT, _all())

    assert {it.request_id: it.is_reversible for it in page} == {
        "sale-0001": True,
        "top-up-01": False,
    }


def _all() -> Any:
    from loyalty_gateway.booking.calls import BookingFilter

    return BookingFilter()


async def test_repeating_an_undo_answers_what_it_answered(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        first, again = await house.undo(), await house.undo()

        assert (again.body, again.is_replayed) == (first.body, True)
        assert len(house.vendor.sends) == 2


async def test_undoing_what_was_undone_is_refused_without_a_request(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        await house.undo()
        error = await failure(house.undo("undo-0002"))

        assert error.reason is Reason.ALREADY_REVERSED
        assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, False)
        assert await house.find("undo-0002") is None
        assert len(house.vendor.sends) == 2


async def test_an_original_that_nobody_knows_is_not_found(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        error = await failure(house.undo(of="never-seen"))
        await house.cancel("never-seen")
        entombed = await failure(house.undo(of="never-seen"))
        await house.book()
        reused = await failure(house.undo("sale-0001", of="never-seen"))
        await house.cancel("undo-0009")
        cancelled = await failure(house.undo("undo-0009", of="never-sxxx"))

        assert house.vendor.undone == {}
    assert (error.reason, error.fate) == (Reason.ORIGINAL_NOT_FOUND, Fate.NOT_EXECUTED)
    assert entombed.reason is Reason.ORIGINAL_NOT_FOUND
    assert reused.reason is Reason.REQUEST_ID_REUSED
    assert cancelled.reason is Reason.CANCELLED_BEFORE_ARRIVAL


async def test_what_was_not_executed_or_has_no_undo_is_not_reversible(place: Place) -> None:
    async with a_house(place, a_vendor(refuses(), books, loses_the_answer)) as house:
        await house.fails("refused-1")
        await house.book("top-up-01", operation=Operation.TOP_UP_BALANCE)
        await doubt(house, "in-doubt-1")
        errors = [
            await failure(house.undo(f"undo-{of}", of=of))
            for of in ("refused-1", "top-up-01", "in-doubt-1")
        ]

        assert len(house.vendor.sends) == 3
    assert [it.reason for it in errors] == [Reason.ORIGINAL_NOT_REVERSIBLE] * 3
    assert {it.fate for it in errors} == {Fate.NOT_EXECUTED}


async def test_of_many_undos_at_one_moment_one_undoes(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        ends = await asyncio.gather(
            *(house.undo(f"undo-{number:04}") for number in range(6)), return_exceptions=True
        )

        assert len(house.vendor.undone) == 1
        assert len(house.vendor.sends) == 2
        assert sum(not isinstance(end, BaseException) for end in ends) == 1
        assert (await house.get()).state is State.REVERSED


async def test_an_undo_that_did_not_leave_gives_its_original_back_and_may_be_repeated(
    place: Place,
) -> None:
    """T18, and the repeat marks the original again before it sends."""
    async with a_house(place, a_vendor(books, is_not_reached)) as house:
        await house.book()
        error = await failure(house.undo())
        between = await house.get()
        await house.undo()

        assert error.reason is Reason.PROVIDER_UNREACHABLE
        assert between.state is State.SUCCEEDED
        assert between.is_answered
        assert (await house.get()).state is State.REVERSED
        assert len(house.vendor.undone) == 1


async def test_an_undo_that_the_vendor_declines_leaves_its_original_standing(
    place: Place,
) -> None:
    async with a_house(place, a_vendor(books, refuses(Reason.ORIGINAL_NOT_REVERSIBLE))) as house:
        first = await house.book()
        error = await failure(house.undo())
        original = await house.get()
        again = await house.book()

        assert error.reason is Reason.ORIGINAL_NOT_REVERSIBLE
        assert error.is_final
        assert original.state is State.SUCCEEDED
        assert again.body == first.body


async def test_an_original_waits_for_an_undo_in_doubt_and_follows_it(place: Place) -> None:
    async with a_house(place, a_vendor(books, loses_the_answer)) as house:
        first = await house.book()
        error = await failure(house.undo(of="sale-0001"))
        waiting = await house.get()
        told = await house.book()
        assert waiting.state is State.REVERSING
        assert error.reason is Reason.BOOKING_IN_DOUBT
        assert told.body == first.body, "an OK stays an OK while it is being undone"
    async with a_house(place, house.vendor, QUICK, boot_id="boot-2") as house:
        await house.journal.change(await _due(house, "undo-0001"))
        await house.becomes(State.REVERSED)

        assert (await house.get("undo-0001")).state is State.SUCCEEDED
        assert len(house.vendor.undone) == 1


async def _due(house: House, request_id: str) -> Any:
    from loyalty_gateway.journal.writer import Change

    known = await house.get(request_id)
    now = replace(known, epoch=known.epoch + 1, next_attempt_time=house.journal.now())
    return Change(known, now, "test")


async def test_a_resent_undo_that_is_a_duplicate_did_it_before(place: Place) -> None:
    """The vendor says "already reversed", and it was us."""
    vendor = a_vendor(books, loses_the_answer, is_idempotent=False)
    async with a_house(place, vendor, QUICK) as house:
        await house.book()
        await house.undo()
        await house.becomes(State.REVERSED)

        assert len(vendor.sends) == 3


async def test_what_somebody_else_reversed_is_a_refusal_and_reversed_all_the_same(
    place: Place,
) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        original = await house.get()
        house.vendor.undone[original.outbound_id] = "somebody else"
        error = await failure(house.undo())

        assert error.reason is Reason.ALREADY_REVERSED
        assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, True)
        assert (await house.get()).state is State.REVERSED


@pytest.mark.parametrize(
    ("decision", "state"), [(BOOKED, State.REVERSED), (NOT_BOOKED, State.SUCCEEDED)]
)
async def test_a_persons_word_about_an_undo_is_about_its_original_too(
    place: Place, decision: Any, state: State
) -> None:
    async with a_house(place, a_vendor(books, loses_the_answer), promises={}) as house:
        await house.book()
        error = await failure(house.undo())
        assert error.reason is Reason.BOOKING_NEEDS_REVIEW
        assert (await house.get()).state is State.REVERSING
        await resolve(house, decision, request_id="undo-0001")

        assert (await house.get()).state is state


async def test_an_undo_passes_a_hold_on_its_account(place: Place) -> None:
    async with a_house(
        place, a_vendor(books, loses_the_answer), promises={}, limits=UNHURRIED
    ) as house:
        await house.book()
        await house.fails("sale-0002")
        held = await house.fails("sale-0003", within_s=HELD_S)
        await house.undo()

        assert held.reason is Reason.ACCOUNT_ON_HOLD
        assert (await house.get()).state is State.REVERSED


async def test_a_cancelled_undo_leaves_its_original_alone(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        await house.cancel("undo-0001")
        error = await failure(house.undo())

        assert error.reason is Reason.CANCELLED_BEFORE_ARRIVAL
        assert (await house.get()).state is State.SUCCEEDED
        assert house.vendor.undone == {}


async def test_a_validated_undo_changes_nothing(place: Place) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()
        await house.engine.book(an_undo(validate_only=True))
        error = await failure(
            house.engine.book(an_undo(validate_only=True, original=OriginalKey("x")))
        )

        assert (await house.get()).state is State.SUCCEEDED
        assert await house.find("undo-0001") is None
    assert error.reason is Reason.ORIGINAL_NOT_FOUND


# --- tips -------------------------------------------------------------------------------------


async def test_a_tip_is_added_to_an_executed_booking_which_stays_as_it_is(place: Place) -> None:
    tip = {"operation": Operation.ADD_GIFT_TIP, "asked": Money("CHF", 200)}
    async with a_house(place, a_vendor()) as house:
        await house.book()
        before = await house.get()
        await house.book("tip-00001", original=OriginalKey(request_id="sale-0001"), **tip)
        added = await house.get("tip-00001")
        shown = await house.engine.get(TENANT, BookingKey(request_id="sale-0001"))
        other = await house.fails(
            "tip-00002",
            original=OriginalKey(request_id="sale-0001"),
            account=AccountKey("main", plain_id="6299000011112222"),
            **tip,
        )
        await house.undo()
        late = await house.fails("tip-00003", original=OriginalKey(request_id="sale-0001"), **tip)

    assert (added.state, added.original_booking) == (State.SUCCEEDED, before.name)
    assert added.asked == Money("CHF", 200)
    assert (shown.undo_bookings, shown.is_reversible) == ((), True), "a tip is no undo"
    assert other.reason is Reason.REQUEST_INVALID
    assert late.reason is Reason.ALREADY_REVERSED
