"""What may stand in the way of an undo that nobody waits for: a pause, a lost key, a lost offer."""

import logging
from dataclasses import replace
from datetime import timedelta

import pytest

from loyalty_gateway.domain.booking import OWN_UNDO, Booking, State
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.journal.writer import Change, unavailable
from tests.booking.house import BRIEF_S, KEYRING, PATIENT, QUICK, House, open_house, until
from tests.booking.stages import doubt
from tests.booking.test_moves import moved_by_another
from tests.booking.test_orders import PREPARES
from tests.booking.undoing import BY_OUR_NUMBER, PROMISES, SETTLED, UNDONE, a_house, a_vendor
from tests.booking.vendor import (
    RESENT,
    FakeVendor,
    is_not_reached,
    loses_the_answer,
    refusal,
    refuses,
)
from tests.postgres import Place

OTHER_KEYS = Keyring([("k2", b"t" * 32)], b"p" * 32)


async def left_undoing(place: Place, vendor: FakeVendor, *, is_opened: bool) -> Booking:
    """A journal in which a success is being undone: its undo is not opened, or did not leave."""
    async with a_house(place, vendor, boot_id="boot-0") as house:
        await house.book()
        if is_opened:
            vendor.script.append(is_not_reached)
        else:
            house.engine._recovery._parallel_max = 0
        await house.cancel()
        if is_opened:
            await house.becomes(State.RESERVED, request_id=await undo_id(house))
        return await house.get()


async def undo_id(house: House) -> str:
    return f"{OWN_UNDO}{(await house.get()).booking_id}"


async def made_due(house: House, request_id: str) -> None:
    """As if the time of the booking's next step had come."""
    known = await house.get(request_id)
    due = replace(
        known,
        epoch=known.epoch + 1,
        owner="",
        lease_until=None,
        next_attempt_time=house.journal.now(),
    )
    await house.journal.change(Change(known, due, "test"))
    house.engine._recovery.wake()


async def is_put_off(house: House, request_id: str) -> Booking:
    """The booking once recovery has looked at it and decided to wait for about a minute."""

    async def waits() -> bool:
        due = (await house.get(request_id)).next_attempt_time
        return due is not None and due > house.journal.now() + timedelta(seconds=30)

    await until(waits)
    return await house.get(request_id)


@pytest.mark.parametrize("is_opened", [False, True])
async def test_a_paused_connection_undoes_nothing_until_it_goes_on(
    place: Place, is_opened: bool
) -> None:
    vendor = a_vendor()
    await left_undoing(place, vendor, is_opened=is_opened)
    sent = len(vendor.sends)
    async with a_house(place, vendor, QUICK, is_paused=True) as house:
        waiting = await undo_id(house) if is_opened else "sale-0001"
        await made_due(house, waiting)
        paused = await is_put_off(house, waiting)
        assert len(vendor.sends) == sent
        assert paused.state is (State.RESERVED if is_opened else State.REVERSING)
    async with a_house(place, vendor, QUICK) as house:
        await made_due(house, waiting)
        await made_due(house, "sale-0001")
        await house.becomes(State.REVERSED)

    assert vendor.standing == []


async def test_an_undo_that_no_connection_offers_any_more_is_a_persons(place: Place) -> None:
    await left_undoing(place, a_vendor(), is_opened=False)
    vendor = FakeVendor(offers={Operation.DEBIT_BALANCE: UNDONE})
    async with a_house(place, vendor, QUICK) as house:
        await made_due(house, "sale-0001")
        await house.becomes(State.NEEDS_REVIEW)
        history, _ = await house.story()

    assert "no undo of it any more" in history[-1].note
    assert vendor.sends == []


async def test_an_undo_whose_account_cannot_be_opened_is_a_persons(place: Place) -> None:
    await left_undoing(place, a_vendor(), is_opened=False)
    vendor = a_vendor()
    async with a_house(place, vendor, QUICK, keyring=OTHER_KEYS) as house:
        await made_due(house, "sale-0001")
        await house.becomes(State.NEEDS_REVIEW)

    assert vendor.sends == []


@pytest.mark.parametrize("hindrance", ["too late", "no connection", "no key"])
async def test_an_undo_that_cannot_be_sent_any_more_is_closed_and_its_original_is_a_persons(
    place: Place, hindrance: str
) -> None:
    """It did provably nothing, and nobody has said that what it was to undo shall stand."""
    vendor = a_vendor()
    before = await left_undoing(place, vendor, is_opened=True)
    sent = len(vendor.sends)
    async with open_house(
        place,
        vendor,
        policy=replace(QUICK, give_up_s=0.0) if hindrance == "too late" else QUICK,
        promises=PROMISES,
        keyring=OTHER_KEYS if hindrance == "no key" else KEYRING,
        connections={"other": vendor} if hindrance == "no connection" else None,
    ) as house:
        await made_due(house, await undo_id(house))
        undo = await house.becomes(State.NOT_EXECUTED, request_id=await undo_id(house))
        original = await house.becomes(State.NEEDS_REVIEW)

    assert undo.attempt_count == 1
    assert original.cancel_requested
    assert original.answer_bytes == before.answer_bytes
    assert len(vendor.sends) == sent and len(vendor.standing) == 1


async def test_what_an_undo_needs_to_know_is_read_before_it_is_opened(place: Place) -> None:
    """Where that cannot be read nothing is opened, and it is tried again."""
    vendor = FakeVendor(
        offers={Operation.DEBIT_BALANCE: UNDONE, Operation.REVERSE_POINTS: PREPARES},
        prepares=[refusal(Reason.PROVIDER_UNREACHABLE)],
    )
    async with a_house(place, vendor, QUICK) as house:
        await house.book()
        await house.cancel()
        await house.becomes(State.REVERSED)

        assert [it.order.find_prepared("pass") for it in vendor.sends] == ["", "P-1"]
        assert len(vendor.prepared) == 2
    assert vendor.standing == []


async def test_an_undo_of_a_doubt_that_the_vendor_refuses_is_a_persons(place: Place) -> None:
    """Nobody knows whether there was anything to undo, so nothing may be said to stand."""
    vendor = a_vendor(loses_the_answer, refuses(Reason.PROVIDER_DECLINED), sale=BY_OUR_NUMBER)
    async with a_house(place, vendor, SETTLED) as house:
        await house.fails()
        await house.becomes(State.NEEDS_REVIEW)

    assert len(vendor.standing) == 1


ELSEWHERE = "https://vendor.test|credential-2"


async def test_a_doubt_of_another_target_is_not_undone_at_this_one(place: Place) -> None:
    async with a_house(
        place, a_vendor(loses_the_answer, sale=BY_OUR_NUMBER), boot_id="boot-0"
    ) as house:
        assert (await doubt(house)).state is State.IN_DOUBT
    vendor = a_vendor(sale=BY_OUR_NUMBER, target=ELSEWHERE)
    async with a_house(place, vendor, SETTLED) as house:
        await made_due(house, "sale-0001")
        await house.becomes(State.NEEDS_REVIEW)

    assert vendor.sends == []


@pytest.mark.parametrize("is_opened", [False, True])
async def test_an_undo_of_a_doubt_is_not_sent_to_another_target_than_the_doubts(
    place: Place, is_opened: bool
) -> None:
    """That there is nothing to undo there would be no proof."""
    offers = {
        Operation.DEBIT_BALANCE: BY_OUR_NUMBER,
        Operation.REVERSE_POINTS: RESENT if is_opened else PREPARES,
    }
    never = [refusal(Reason.PROVIDER_UNREACHABLE)] * 99
    first = FakeVendor(loses_the_answer, is_not_reached, offers=offers, prepares=never)
    once = replace(PATIENT, settle_s=0.05)
    async with a_house(place, first, once, boot_id="boot-0") as house:
        await house.fails(within_s=BRIEF_S)
        await made_due(house, "sale-0001")
        await house.becomes(State.REVERSING)
        if is_opened:
            await house.becomes(State.RESERVED, request_id=await undo_id(house))
    vendor = FakeVendor(offers=offers, target=ELSEWHERE)
    async with a_house(place, vendor, SETTLED) as house:
        await made_due(house, await undo_id(house) if is_opened else "sale-0001")
        await house.becomes(State.NEEDS_REVIEW)

    assert vendor.sends == []


async def test_an_original_that_could_not_be_read_as_its_undo_ended_follows_later(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_house(place, a_vendor()) as house:
        await house.book()

        async def fails_once_it_is_undone() -> None:
            if house.vendor.undone:
                house.journal.before_find = None
                raise unavailable(RuntimeError("the disk is gone"))

        house.journal.before_find = fails_once_it_is_undone
        with caplog.at_level(logging.WARNING):
            await house.undo()
        assert "has to wait" in caplog.text
        assert (await house.get()).state is State.REVERSING
    async with a_house(place, house.vendor, QUICK, boot_id="boot-2") as house:
        await made_due(house, "sale-0001")
        await house.becomes(State.REVERSED)

    assert len(house.vendor.undos) == 1


async def test_an_own_undo_that_another_replica_takes_up_at_the_same_moment_is_not_sent_here(
    place: Place,
) -> None:
    vendor = a_vendor()
    await left_undoing(place, vendor, is_opened=True)
    sent = len(vendor.sends)
    async with a_house(place, vendor) as house:
        undo = await undo_id(house)
        moved_by_another(
            house,
            lambda change: change.before.request_id == undo and change.actor == "recovery",
            lambda known: replace(known, owner="boot-9", recovery_tries=9),
        )
        await made_due(house, undo)

        async def is_taken() -> bool:
            return (await house.get(undo)).owner == "boot-9"

        await until(is_taken)
        await until(lambda: not house.engine._recovery._busy)

        assert (await house.get(undo)).state is State.RESERVED
        assert len(vendor.sends) == sent
