"""What one booking in doubt does to others: holds on its account, limits, and a common name."""

import asyncio
from datetime import UTC, datetime

import pytest

from loyalty_gateway.booking.calls import AccountKey, Decision, ReadCall
from loyalty_gateway.booking.connections import NO_OTHER_CHANNEL_BOOKS
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import CardFacts, Operation
from loyalty_gateway.journal.journal import ListQuery
from tests.booking.house import (
    BRIEF_S,
    CARD,
    HELD_S,
    PATIENT,
    QUICK,
    TENANT,
    UNHURRIED,
    House,
    failure,
    in_s,
    open_house,
    until,
)
from tests.booking.stages import (
    BOOKED,
    NOT_BOOKED,
    crashed_while_sending,
    doubt,
    kicked_to,
    left_in_doubt,
    resolve,
)
from tests.booking.vendor import (
    MATCHED,
    Act,
    FakeVendor,
    Gate,
    books,
    is_not_reached,
    loses_the_answer,
    loses_the_request,
    refuses,
)
from tests.postgres import Place

ANOTHER = AccountKey("main", plain_id="6299000011112222")


async def reviewed(house: House) -> None:
    """A doubt that no machine can end, on the account of every call."""
    error = await house.fails("sale-0001")
    assert error.reason is Reason.BOOKING_NEEDS_REVIEW


# --- holds ------------------------------------------------------------------------------------


async def test_a_doubt_that_only_a_person_can_end_holds_its_account(place: Place) -> None:
    async with open_house(
        place, FakeVendor(loses_the_answer), promises={}, limits=UNHURRIED
    ) as house:
        await reviewed(house)
        error = await house.fails("sale-0002", within_s=HELD_S)

        assert error.reason is Reason.ACCOUNT_ON_HOLD
        assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, False)
        assert await house.find("sale-0002") is None
        assert len(house.vendor.sends) == 1


async def test_a_hold_is_one_accounts_on_one_connection(place: Place) -> None:
    vendors = {"main": FakeVendor(loses_the_answer), "second": FakeVendor()}
    async with open_house(place, connections=vendors, promises={}) as house:
        await reviewed(house)
        await house.book("sale-0002", account=ANOTHER)
        await house.book("sale-0003", account=AccountKey("second", plain_id=CARD))

    assert [len(vendor.effects) for vendor in vendors.values()] == [2, 1]


async def test_cancels_reads_and_repeats_pass_a_hold(place: Place) -> None:
    async with open_house(place, FakeVendor(loses_the_answer), promises={}) as house:
        await reviewed(house)
        repeat = await house.fails("sale-0001")
        tombstone = await house.cancel("sale-0002")
        lookup = ReadCall(
            tenant=TENANT,
            operation=Operation.GET_CARD,
            account=AccountKey("main", plain_id=CARD),
            deadline=in_s(10),
        )
        found = await house.engine.read(lookup)
        late = await house.fails("sale-0002")

    assert repeat.reason is Reason.BOOKING_NEEDS_REVIEW
    assert tombstone.is_tombstone
    assert isinstance(found.found, CardFacts)
    assert late.reason is Reason.CANCELLED_BEFORE_ARRIVAL


@pytest.mark.parametrize("decision", [BOOKED, NOT_BOOKED])
async def test_a_finding_releases_the_account(place: Place, decision: Decision) -> None:
    async with open_house(place, FakeVendor(loses_the_answer), promises={}) as house:
        await reviewed(house)
        await resolve(house, decision)
        await house.book("sale-0002")

        assert len(house.vendor.sends) == 2


async def test_a_caller_waits_within_its_deadline_for_an_account_to_be_released(
    place: Place,
) -> None:
    async with open_house(
        place, FakeVendor(loses_the_answer), promises={}, limits=UNHURRIED
    ) as house:
        await reviewed(house)
        waiter = house.booking_task("sale-0002", within_s=15)
        hurried = await house.fails("sale-0003", within_s=HELD_S)
        await resolve(house, NOT_BOOKED)
        answer = await waiter

    assert hurried.reason is Reason.ACCOUNT_ON_HOLD
    assert not answer.is_replayed


async def test_asking_a_review_once_more_releases_the_account_to_the_machine(
    place: Place,
) -> None:
    vendor = FakeVendor(loses_the_answer)
    async with open_house(place, vendor, promises={}) as house:
        await reviewed(house)
    async with open_house(place, vendor, limits=UNHURRIED) as house:
        held = await house.fails("sale-0002", within_s=HELD_S)
        await resolve(house, None)
        await house.book("sale-0002")

    assert held.reason is Reason.ACCOUNT_ON_HOLD
    assert len(vendor.effects) == 2


@pytest.mark.parametrize("act", [refuses(), is_not_reached])
async def test_what_did_not_happen_for_sure_holds_nothing(place: Place, act: Act) -> None:
    async with open_house(place, FakeVendor(act), promises={}) as house:
        await house.fails("sale-0001")
        await house.book("sale-0002")


async def test_a_doubt_that_a_machine_will_end_holds_nothing(place: Place) -> None:
    async with open_house(place, FakeVendor(loses_the_answer)) as house:
        await doubt(house)
        await house.book("sale-0002")


async def test_a_doubt_that_the_machine_gave_up_holds_its_account(place: Place) -> None:
    await left_in_doubt(place)
    async with open_house(place, policy=QUICK, promises={}, limits=UNHURRIED) as house:
        await kicked_to(house, State.NEEDS_REVIEW)
        held = await house.fails("sale-0002", within_s=HELD_S)

    assert held.reason is Reason.ACCOUNT_ON_HOLD


async def test_the_send_of_a_dead_process_holds_its_account_where_nobody_can_ask(
    place: Place,
) -> None:
    vendor = await crashed_while_sending(place, loses_the_answer)
    async with open_house(place, vendor, policy=QUICK, promises={}, limits=UNHURRIED) as house:
        await house.becomes(State.NEEDS_REVIEW)
        held = await house.fails("sale-0002", within_s=HELD_S)

    assert held.reason is Reason.ACCOUNT_ON_HOLD
    assert len(vendor.sends) == 1


async def test_two_bookings_that_were_sent_together_each_hold_the_account(place: Place) -> None:
    """The first finding does not free what the second doubt still needs."""
    gate = Gate(loses_the_answer)
    vendor = FakeVendor(gate, gate)
    async with open_house(place, vendor, promises={}, limits=UNHURRIED) as house:
        both = [house.booking_task(f"sale-000{number}") for number in (1, 2)]
        await until(lambda: vendor.running == 2)
        gate.go.set()
        await asyncio.gather(*both, return_exceptions=True)
        await resolve(house, BOOKED, request_id="sale-0001")
        still = await house.fails("sale-0003", within_s=HELD_S)
        await resolve(house, BOOKED, request_id="sale-0002")
        await house.book("sale-0003")

    assert still.reason is Reason.ACCOUNT_ON_HOLD


async def test_of_two_repeats_of_one_moment_one_gets_the_account_that_each_needs_alone(
    place: Place,
) -> None:
    gate = Gate()
    vendor = FakeVendor(
        is_not_reached,
        is_not_reached,
        gate,
        offers={Operation.DEBIT_BALANCE: MATCHED},
        is_idempotent=False,
    )
    async with open_house(place, vendor, promises={NO_OTHER_CHANNEL_BOOKS: True}) as house:
        await house.fails("sale-0001")
        await house.fails("sale-0002")
        async with house.journal.writer_held():
            both = [house.booking_task(f"sale-000{number}") for number in (1, 2)]
            await until(lambda: house.journal.writes_waiting == 2)
        await gate.arrived.wait()
        ended, (running,) = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        refused = await failure(ended.pop())
        holds = await house.journal.on_the_writers_connection(
            lambda connection: connection.exec_driver_sql("SELECT * FROM account_hold").all()
        )
        gate.go.set()
        await running

        assert refused.reason is Reason.ACCOUNT_ON_HOLD
        assert (refused.fate, refused.is_final) == (Fate.NOT_EXECUTED, False)
        assert (len(holds), vendor.running_max) == (1, 1)
        assert refused.request_id is not None
        await house.book(refused.request_id)
        assert len(vendor.effects) == 2


# --- floods -----------------------------------------------------------------------------------


async def test_too_many_doubts_of_a_connection_stop_its_new_bookings(place: Place) -> None:
    vendors = {"main": FakeVendor(otherwise=loses_the_request), "second": FakeVendor()}
    limits = Limits(unresolved_max=2)
    async with open_house(place, connections=vendors, limits=limits) as house:
        await doubt(house, "sale-0001")
        await doubt(house, "sale-0002")
        refused = await house.fails("sale-0003")
        known = await house.fails("sale-0001", within_s=BRIEF_S)
        await house.book("sale-0004", account=AccountKey("second", plain_id=CARD))
        assert await house.find("sale-0003") is None
        vendors["main"].otherwise = books
        await resolve(house, NOT_BOOKED, request_id="sale-0001")
        await house.book("sale-0003")

    assert refused.reason is Reason.PROVIDER_UNREACHABLE
    assert refused.fate is Fate.NOT_EXECUTED
    assert refused.retry_after_s == 30
    assert known.reason is Reason.BOOKING_IN_DOUBT


async def test_the_limit_of_doubts_is_known_after_a_restart(place: Place) -> None:
    await left_in_doubt(place)
    limits = Limits(unresolved_max=1)
    async with open_house(place, policy=PATIENT, limits=limits) as house:
        await until(lambda: house.link.unresolved_count == 1)
        refused = await house.fails("sale-0002")

    assert refused.reason is Reason.PROVIDER_UNREACHABLE


async def test_doubts_of_one_trouble_have_one_name_and_are_listed_by_it(place: Place) -> None:
    before = datetime.now(UTC)
    vendor = FakeVendor(*[loses_the_request] * 2)
    async with open_house(place, vendor) as house:
        first = await doubt(house, "sale-0001")
        second = await doubt(house, "sale-0002")
        await house.book("sale-0003")
        incidents = {first.incident, second.incident}
        listed = (
            await house.journal.list(ListQuery(tenant=TENANT, incident=first.incident))
        ).bookings
        await resolve(house, NOT_BOOKED, request_id="sale-0001")
        later = await house.get("sale-0001")

    hours = {before.strftime("%Y-%m-%dT%H"), datetime.now(UTC).strftime("%Y-%m-%dT%H")}
    assert incidents <= {f"main/{hour}/PROVIDER_INTERNAL" for hour in hours}
    assert {booking.request_id for booking in listed} >= {"sale-0001"}
    assert "sale-0003" not in {booking.request_id for booking in listed}
    assert later.incident == first.incident, "what ended keeps the name it had"


async def test_a_booking_without_a_doubt_belongs_to_no_incident(place: Place) -> None:
    async with open_house(place, FakeVendor(refuses())) as house:
        await house.fails("sale-0001")
        await house.book("sale-0002")

        assert (await house.get("sale-0001")).incident == ""
        assert (await house.get("sale-0002")).incident == ""
