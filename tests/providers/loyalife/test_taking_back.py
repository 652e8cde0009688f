"""A lost answer to the undo of an earning, through the booking room: never taken back twice."""

import pytest

from loyalty_gateway.conformance.house import open_house
from loyalty_gateway.conformance.stage import Scene, Stage
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.operations import Operation, Order
from tests.conformance.test_loyalife import MEMBER, SUBJECT


@pytest.mark.parametrize(
    ("repeat", "fault", "state", "effects"),
    [
        ("refuses", "lost-before", State.SUCCEEDED, ["earn", "take_back"]),
        ("refuses", "lost-after", State.SUCCEEDED, ["earn", "take_back"]),
        ("books_again", "lost-before", State.NEEDS_REVIEW, ["earn"]),
        ("books_again", "lost-after", State.NEEDS_REVIEW, ["earn", "take_back"]),
    ],
)
def test_it_is_sent_again_only_where_the_programme_keeps_keys(
    repeat: str, fault: str, state: State, effects: list[str]
) -> None:
    async def check(stage: Stage) -> None:
        await stage.fresh(repeat=repeat)
        order = await stage.content(Operation.EARN_POINTS)
        assert isinstance(order, Order)
        async with open_house(stage) as house:
            # The other promise holds in any case, and must not be taken for this one.
            assert house.link.promise("reversal_runs_once").value
            earning = house.call(Operation.EARN_POINTS, order)
            assert await house.book(earning) is None
            undo = house.call(
                Operation.REVERSE_POINTS,
                Order(Operation.REVERSE_POINTS),
                fault=fault,
                original=earning.request_id,
            )
            await house.book(undo)
            assert (await house.settle(undo.request_id)).state is state
        booked = stage.player.ledger.effects(card_id=MEMBER, with_seed=False)
        assert [effect.kind for effect in reversed(booked)] == effects

    scene = Scene(SUBJECT)
    scene.start()
    try:
        scene.check(check)
    finally:
        scene.stop()
