"""The judge itself: a sound world passes, and every way of breaking a promise is found."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from loyalty.v1 import balance_pb2, gift_pb2, points_pb2, types_pb2, wallets_pb2
from tests.e2e.caller import BOOKINGS, Reply, money, new_request_id, top_up
from tests.e2e.checker import Cancelled, Heard, World, violations
from tests.e2e.journal import Move, Row
from tests.e2e.vendor import Effect
from tests.e2e.wanted import method_of, ticket_of

GIFTS = "openloyaltypay"
PATHS = {
    "SUCCEEDED": ("SENDING", "SUCCEEDED"),
    "DECLINED": ("SENDING", "DECLINED"),
    "IN_DOUBT": ("SENDING", "IN_DOUBT", "IN_DOUBT", "SUCCEEDED"),
}


def executed(effect: Effect | None, response: Any, **booking: Any) -> Reply:
    """OK, with the number of the vendor's entry."""
    numbers = [types_pb2.ProviderReference(value=effect.transaction_id)] if effect else []
    response.booking.CopyFrom(
        types_pb2.Booking(
            state=types_pb2.BOOKING_STATE_SUCCEEDED,
            final=True,
            provider_references=numbers,
            **booking,
        )
    )
    if effect is not None and effect.amount_minor:
        response.booking.applied.money.CopyFrom(money(abs(effect.amount_minor), "CHF"))
    return Reply(grpc.StatusCode.OK, response.SerializeToString(), response)


def not_executed(reason: str = "INSUFFICIENT_BALANCE", *, is_final: bool = True) -> Reply:
    metadata = {"outcome": "NOT_EXECUTED", "final": "true" if is_final else "false"}
    if reason == "REQUEST_ID_REUSED":
        metadata = {}
    status = status_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0])
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, metadata=metadata))
    return Reply(grpc.StatusCode.FAILED_PRECONDITION, status_bytes=status.SerializeToString(True))


def a_row(number: int, request: Message, state: str, **more: Any) -> Row:
    return Row(
        f"b{number}",
        request.request_id,  # type: ignore[attr-defined]
        state,
        f"key-{number}",
        ticket_of(request),
        method_of(request),
        **{"connection": GIFTS, **more},
    )


def a_path(number: int, *states: str) -> list[Move]:
    """A history through these states."""
    before = ("", *states)
    return [
        Move(f"b{number}", sequence, before[sequence - 1], state)
        for sequence, state in enumerate(states, 1)
    ]


def gift(method: type[Any], minor: int = 0, **more: Any) -> Any:
    request_id = new_request_id()
    request = method(request_id=request_id, **more)
    if minor:
        request.amount.CopyFrom(money(minor, "CHF"))
        request.account.connection, request.account.id = GIFTS, "10480"
    if "sale" in method.DESCRIPTOR.fields_by_name:
        request.sale.ticket_number = request_id
    return request


def sound_world() -> World:
    """A top-up in doubt for a while, a refusal, an undone payment and one with a tip, an
    activation, a link and a tombstone; nothing is wrong."""
    topped, refused = top_up(100), BOOKINGS["DebitBalance"](5, "10491")
    paid, tipped = (gift(gift_pb2.PayWithGiftCardRequest, minor) for minor in (700, 900))
    undo = gift(gift_pb2.VoidGiftTransactionRequest)
    undo.original.request_id = paid.request_id
    tip = gift(gift_pb2.AddGiftTipRequest, 30)
    tip.original.request_id = tipped.request_id
    active = gift(gift_pb2.ActivateGiftCardRequest)
    active.account.connection, active.account.id = GIFTS, "10495"
    link = gift(wallets_pb2.LinkAccountRequest)
    link.account.connection, link.account.id = GIFTS, "10480"
    link.external.id = "device-1"
    redeemed = gift(points_pb2.RedeemPointsRequest)
    redeemed.account.connection, redeemed.account.id = "loyalife", "m_1"
    redeemed.points.value = 77
    given_up = top_up(3)

    money_in = Effect(90_001, "key-1", "10480", "refill", 100, 0, topped.request_id)
    pay = Effect(90_003, "key-3", "10480", "pay", -700, 0, "", connection=GIFTS)
    void = Effect(90_004, "key-4", "10480", "void", 700, 0, "", 90_003, connection=GIFTS)
    other = Effect(90_005, "key-5", "10480", "pay", -900, 0, "", connection=GIFTS)
    tips = Effect(90_006, "key-6", "10480", "tip", -30, 0, "", connection=GIFTS)
    spent = Effect(90_009, "request-1", "m_1", "redeem", 0, -77, "", connection="loyalife")
    heard = [
        Heard(topped, executed(money_in, balance_pb2.TopUpBalanceResponse())),
        Heard(refused, not_executed()),
        Heard(paid, executed(pay, gift_pb2.PayWithGiftCardResponse())),
        Heard(
            undo,
            executed(None, gift_pb2.VoidGiftTransactionResponse(), original_booking="bookings/b3"),
        ),
        Heard(tipped, executed(other, gift_pb2.PayWithGiftCardResponse())),
        Heard(tip, executed(tips, gift_pb2.AddGiftTipResponse(), original_booking="bookings/b5")),
        Heard(active, executed(None, gift_pb2.ActivateGiftCardResponse())),
        Heard(link, executed(None, wallets_pb2.LinkAccountResponse())),
        Heard(redeemed, executed(spent, points_pb2.RedeemPointsResponse())),
    ]
    rows = [
        a_row(1, topped, "SUCCEEDED", connection="cashassist"),
        a_row(2, refused, "DECLINED", connection="cashassist"),
        a_row(3, paid, "REVERSED"),
        a_row(4, undo, "SUCCEEDED", original="bookings/b3"),
        a_row(5, tipped, "SUCCEEDED"),
        a_row(6, tip, "SUCCEEDED", original="bookings/b5"),
        a_row(7, active, "SUCCEEDED"),
        a_row(8, link, "SUCCEEDED"),
        a_row(9, redeemed, "SUCCEEDED", connection="loyalife"),
        Row("b10", given_up.request_id, "NOT_EXECUTED"),
    ]
    ways = {1: PATHS["IN_DOUBT"], 2: PATHS["DECLINED"], 10: ("NOT_EXECUTED",)}
    moves = [
        move
        for number in (1, 2, 4, 5, 6, 7, 8, 9, 10)
        for move in a_path(number, *ways.get(number, PATHS["SUCCEEDED"]))
    ]
    moves += a_path(3, "SENDING", "SUCCEEDED", "REVERSING", "REVERSED")
    return World(
        heard=heard,
        effects=[money_in, pay, void, other, tips, spent],
        rows=rows,
        moves=moves,
        asked=[given_up],
        cancelled=[Cancelled(given_up.request_id, is_final=True)],
        records={
            GIFTS: {
                "10495": {"is_active": True},
                "10480": {"links": [{"kind": "device", "id": "device-1"}]},
            }
        },
    )


# --- one thing wrong ----------------------------------------------------------------------------


def _effects(world: World, number: int, *instead: Effect) -> World:
    """The world with other entries in the place of one."""
    effects = [it for it in world.effects if it.number != number]
    return replace(world, effects=[*effects, *instead])


def _effect(world: World, which: int, /, **changes: Any) -> Effect:
    [found] = [it for it in world.effects if it.number == which]
    return replace(found, **changes)


def _row(world: World, number: int, **changes: Any) -> World:
    rows = [
        replace(row, **changes) if row.booking_id == f"b{number}" else row for row in world.rows
    ]
    return replace(world, rows=rows)


def _hears(world: World, place: int, reply: Reply) -> World:
    """Somebody asks for a booking once more, and is told this."""
    late = Heard(world.heard[place].request, reply)
    return replace(world, heard=[*world.heard, late])


def doubled(world: World) -> World:
    return _effects(world, 0, _effect(world, 90_001, number=90_101))


def redeemed_twice_without_a_key(world: World) -> World:
    again = _effect(world, 90_009, number=90_109, idempotency_key="request-2")
    return _effects(world, 0, again)


def lost(world: World) -> World:
    return _effects(world, 90_001)


def lost_without_a_key(world: World) -> World:
    return _effects(world, 90_009)


def booked_under_a_new_key(world: World) -> World:
    return _effects(world, 90_001, _effect(world, 90_001, idempotency_key="key-99"))


def booked_another_amount(world: World) -> World:
    return _effects(world, 90_001, _effect(world, 90_001, amount_minor=101))


def booked_on_another_card(world: World) -> World:
    return _effects(world, 90_001, _effect(world, 90_001, card="10472"))


def booked_what_was_refused(world: World) -> World:
    refused = world.heard[1].request
    return _effects(
        world, 0, Effect(90_102, "key-2", "10491", "withdraw", -5, 0, refused.request_id)
    )


def answered_with_a_strangers_number(world: World) -> World:
    [stranger] = [_effect(world, 90_001, number=90_107)]
    heard = [
        replace(world.heard[0], reply=executed(stranger, balance_pb2.TopUpBalanceResponse())),
        *world.heard[1:],
    ]
    return replace(world, heard=heard)


def answered_with_another_amount(world: World) -> World:
    [other] = [_effect(world, 90_001, amount_minor=90)]
    heard = [
        replace(world.heard[0], reply=executed(other, balance_pb2.TopUpBalanceResponse())),
        *world.heard[1:],
    ]
    return replace(world, heard=heard)


def contradicted(world: World) -> World:
    return _hears(world, 0, not_executed("BOOKING_NOT_EXECUTED"))


def replayed_in_other_bytes(world: World) -> World:
    answer = balance_pb2.TopUpBalanceResponse()
    return _hears(world, 0, executed(_effect(world, 90_001), answer, receipt_lines=[{}]))


def told_of_an_undo_after_ok(world: World) -> World:
    return _hears(world, 2, not_executed("BOOKING_REVERSED"))


def booked_a_second_content(world: World) -> World:
    return _hears(world, 0, not_executed("REQUEST_ID_REUSED"))


def left_open(world: World) -> World:
    return _row(world, 1, state="IN_DOUBT")


def unexplained_reversal(world: World) -> World:
    return _row(world, 5, state="REVERSED")


def undone_twice(world: World) -> World:
    again = _effect(world, 90_004, number=90_104, idempotency_key="key-104")
    return _effects(world, 0, again)


def undone_and_still_succeeded(world: World) -> World:
    return _row(world, 3, state="SUCCEEDED")


def undo_without_an_effect(world: World) -> World:
    return _effects(world, 90_004)


def undone_by_nobody(world: World) -> World:
    return _effects(
        world, 0, Effect(90_110, "x", "10480", "void", 900, 0, "", 90_005, connection=GIFTS)
    )


def tipped_another_booking(world: World) -> World:
    return _row(world, 6, original="bookings/b3")


def came_back_to_life(world: World) -> World:
    given_up = world.asked[0]
    assert isinstance(given_up, balance_pb2.TopUpBalanceRequest)
    revived = _row(world, 10, state="SUCCEEDED", outbound_id="key-10", method="TopUpBalance")
    revived = _row(revived, 10, ticket=ticket_of(given_up))
    return _effects(revived, 0, Effect(90_111, "key-10", "10480", "refill", 3, 0, ""))


def never_activated(world: World) -> World:
    records = {**world.records[GIFTS], "10495": {"is_active": False}}
    return replace(world, records={GIFTS: records})


def linked_what_was_refused(world: World) -> World:
    return _row(world, 8, state="DECLINED")


def history_with_a_gap(world: World) -> World:
    return replace(
        world, moves=[it for it in world.moves if (it.booking_id, it.sequence) != ("b1", 3)]
    )


def history_that_jumps(world: World) -> World:
    moves = [it for it in world.moves if it.booking_id != "b2"]
    return replace(world, moves=[*moves, *a_path(2, "SENDING", "REVERSED", "DECLINED")])


def history_that_ends_elsewhere(world: World) -> World:
    moves = [it for it in world.moves if it.booking_id != "b2"]
    return replace(world, moves=[*moves, *a_path(2, *PATHS["SUCCEEDED"])])


WRONG: dict[Callable[[World], World], str] = {
    doubled: "I3",
    redeemed_twice_without_a_key: "I3",
    lost: "I2",
    lost_without_a_key: "I1",
    booked_under_a_new_key: "I6",
    booked_another_amount: "I1",
    booked_on_another_card: "I6",
    booked_what_was_refused: "I4",
    answered_with_a_strangers_number: "I2",
    answered_with_another_amount: "I2",
    contradicted: "I7",
    replayed_in_other_bytes: "I7",
    told_of_an_undo_after_ok: "I7",
    booked_a_second_content: "I8",
    left_open: "I10",
    unexplained_reversal: "I9",
    undone_twice: "I9",
    undone_and_still_succeeded: "I9",
    undo_without_an_effect: "I5",
    undone_by_nobody: "I5",
    tipped_another_booking: "I2",
    came_back_to_life: "I12",
    never_activated: "I5",
    linked_what_was_refused: "I5",
    history_with_a_gap: "I11",
    history_that_jumps: "I11",
    history_that_ends_elsewhere: "I11",
}


def test_a_sound_world_breaks_nothing() -> None:
    assert violations(sound_world()) == []


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_every_broken_promise_is_found(spoil: Callable[[World], World]) -> None:
    found = {it.invariant for it in violations(spoil(sound_world()))}

    assert WRONG[spoil] in found


def test_a_broken_promise_names_its_booking() -> None:
    world = doubled(sound_world())

    named = {it.request_id for it in violations(world) if it.invariant == "I3"}

    assert named == {world.heard[0].request.request_id}


def test_what_a_person_has_to_decide_may_be_booked_or_not() -> None:
    world = sound_world()
    asked = replace(world, heard=world.heard[1:], asked=[*world.asked, world.heard[0].request])
    moves = [it for it in asked.moves if it.booking_id != "b1"]
    open_world = replace(
        _row(asked, 1, state="NEEDS_REVIEW"),
        moves=[*moves, *a_path(1, "SENDING", "NEEDS_REVIEW")],
    )

    for one in (open_world, _effects(open_world, 90_001)):
        assert {it.invariant for it in violations(one)} == {"I10"}
