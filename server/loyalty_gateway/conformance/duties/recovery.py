"""Whether the declared ways to the truth really lead there, through the real booking room."""

from collections.abc import Mapping
from typing import Final

from loyalty_gateway.booking.calls import BookingCall, Promise
from loyalty_gateway.conformance.books import Books
from loyalty_gateway.conformance.duties.duty import Duty, to_bookings
from loyalty_gateway.conformance.house import SETTLED, House, open_house
from loyalty_gateway.conformance.stage import Stage
from loyalty_gateway.conformance.subject import Behaviour, Subject
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import Operation, Order, RecoveryMode
from loyalty_gateway.providers.port import Adapter

FAULTS: Final = ("lost-before", "lost-after", "late-effect")
REFUSED_FIRST: Final = "refused-first"
"""The very first request is refused as a repeat of one that there never was."""

ENDS: Final[Mapping[tuple[RecoveryMode, str], tuple[State, ...]]] = {
    **{(RecoveryMode.SAFE_RESEND, fault): (State.SUCCEEDED,) for fault in FAULTS},
    **{
        (mode, fault): (State.NOT_EXECUTED if fault == "lost-before" else State.SUCCEEDED,)
        for mode in (RecoveryMode.STATUS_QUERY, RecoveryMode.STATEMENT_MATCH)
        for fault in FAULTS
    },
    **{(RecoveryMode.REVERSE, fault): (State.REVERSED, State.NOT_EXECUTED) for fault in FAULTS},
    **{(RecoveryMode.MANUAL, fault): (State.NEEDS_REVIEW,) for fault in FAULTS},
    # Whatever the vendor means by it: it has booked nothing, so no state may say that it has.
    **{(mode, REFUSED_FIRST): tuple(SETTLED) for mode in RecoveryMode},
}
"""Where a booking whose answer was lost must end, by the mode that holds for it."""

_EFFECTS: Final[Mapping[State, tuple[int, ...]]] = {
    State.SUCCEEDED: (1,),
    State.NOT_EXECUTED: (0,),
    State.DECLINED: (0,),
    State.REVERSED: (0,),
    # Nobody knows, which is why a person decides; but never two.
    State.NEEDS_REVIEW: (0, 1),
}


async def a_lost_answer_ends_in_the_truth(stage: Stage, operation: Operation) -> None:
    for name, behaviour in stage.subject.behaviours.items():
        proven: Mapping[str, Promise] | None = None
        for fault in (*FAULTS, REFUSED_FIRST):
            await stage.fresh(**behaviour.settings)
            async with open_house(stage, proven=proven) as house:
                await _try_fault(house, operation, name, behaviour, fault)
                proven = house.link.proven


async def _try_fault(
    house: House, operation: Operation, name: str, behaviour: Behaviour, fault: str
) -> None:
    stage, link = house.stage, house.link
    where = f"{fault} where {name or 'the vendor behaves as usual'}"
    for promise, facts in link.adapter.promises.items():
        if facts.is_provable:
            shown = link.promise(promise)
            is_kept = promise not in behaviour.disproves
            assert shown.value is is_kept, f"{where}: the proof of {promise} says {shown.value}"
    mode = link.mode(link.adapter.operations[operation])
    call, before = await _ready(house, operation, fault)
    error = await house.book(call)
    assert error is None or error.fate is not None, f"{where}: no outcome ({error})"
    booking = await house.settle(call.request_id)
    effects = stage.books().count_since(before, operation)
    ends = ENDS[mode, fault]
    assert booking.state in ends, (
        f"{where}, by {mode}: the booking ends {_told(booking)} and not {' or '.join(ends)}"
    )
    assert effects in _EFFECTS[booking.state], f"{where}: {effects} effects, {_told(booking)}"


async def a_booking_given_up_is_undone(stage: Stage, operation: Operation) -> None:
    for name, behaviour in stage.subject.behaviours.items():
        proven: Mapping[str, Promise] | None = None
        for fault in ("", "lost-before", "lost-after"):
            await stage.fresh(**behaviour.settings)
            async with open_house(stage, proven=proven) as house:
                await _try_giving_up(house, operation, fault, name)
                proven = house.link.proven


async def _try_giving_up(house: House, operation: Operation, fault: str, name: str) -> None:
    where = f"{fault or 'no fault'} where {name or 'the vendor behaves as usual'}"
    before = house.stage.books()
    call, _ = await _ready(house, operation, fault)
    await house.book(call)
    error = await house.cancel(call.request_id)
    assert error is None or error.reason is Reason.CANCEL_NOT_POSSIBLE, f"{where}: {error}"
    # Once it is taken, nobody may be told any more that the booking was made.
    than = State.SUCCEEDED if error is None else None
    booking = await house.settle(call.request_id, than=than)
    books = house.stage.books()
    is_left = books.moved_since(before) != (0, 0)
    if booking.state is State.NEEDS_REVIEW:
        assert books.count_since(before, operation) in (0, 1), f"{where}: booked more than once"
    else:
        assert is_left is (booking.state is State.SUCCEEDED), (
            f"{where}: {'something' if is_left else 'nothing'} is left, {_told(booking)}"
        )


async def an_undo_is_whole_and_once(stage: Stage, operation: Operation) -> None:
    undo = stage.adapter.operations[operation].undo
    assert undo is not None, "only what has an undo can be undone"
    async with open_house(stage) as house:
        before = stage.books()
        original = await _booked(house, operation)
        moved = stage.books().moved_since(before)
        assert moved != (0, 0), "the booking that is to be undone has moved nothing"
        order = await stage.content(undo, with_original=False)
        assert isinstance(order, Order)
        error = await house.book(house.call(undo, order, original=original))
        assert error is None, f"a booking that was just made cannot be undone: {error}"
        undone = stage.books()
        assert undone.moved_since(before) == (0, 0), (
            f"of {moved} (money, points), {undone.moved_since(before)} is left after the undo"
        )
        error = await house.book(house.call(undo, order, original=original))
        assert error is not None, "a booking was undone twice"
        assert error.reason in (Reason.ALREADY_REVERSED, Reason.ORIGINAL_NOT_REVERSIBLE)
        assert stage.books().effects == undone.effects, "a second undo changed the books"


async def _ready(house: House, operation: Operation, fault: str) -> tuple[BookingCall, Books]:
    """The call that will lose its answer, and the books before it."""
    original = house.stage.original_of(operation)
    request_id = await _booked(house, original) if original is not None else ""
    order = await house.stage.content(operation, with_original=False)
    assert isinstance(order, Order)
    call = house.call(operation, order, fault=fault, original=request_id)
    return call, house.stage.books()


async def _booked(house: House, operation: Operation) -> str:
    """The request_id of a booking that went well."""
    order = await house.stage.content(operation, with_original=False)
    assert isinstance(order, Order)
    call = house.call(operation, order)
    error = await house.book(call)
    assert error is None, f"an ordinary {operation} fails: {error}"
    return call.request_id


def _told(booking: Booking) -> str:
    return f"at {booking.state} ({booking.reason or 'no reason'}, {booking.attempt_count} attempts)"


def _has_undo(subject: Subject, adapter: Adapter, operation: Operation) -> bool:
    return adapter.operations[operation].undo is not None


DUTIES: Final = (
    Duty(
        "recovery",
        "a lost answer, before the effect, after it or long before it, ends in the right state"
        " with one effect or none, however the vendor behaves",
        to_bookings,
        a_lost_answer_ends_in_the_truth,
    ),
    Duty(
        "undo",
        "an undo takes back the whole booking, and only once",
        _has_undo,
        an_undo_is_whole_and_once,
    ),
    Duty(
        "give-up",
        "a booking that is given up, its answer known or lost, never counts as one that was made",
        _has_undo,
        a_booking_given_up_is_undone,
    ),
)
