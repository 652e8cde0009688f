"""The one write path: looked up, opened, sent, settled, answered; and repeated by many callers."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from loyalty_gateway.booking.calls import AccountKey, BookingKey
from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import (
    InDoubtPolicy,
    Operation,
    Sale,
)
from loyalty_gateway.providers.port import Offer
from tests.booking.house import (
    BRIEF_S,
    CARD,
    KEYRING,
    QUICK,
    TENANT,
    House,
    a_call,
    failure,
    open_house,
)
from tests.booking.vendor import (
    FakeVendor,
    Gate,
    is_not_reached,
    limits_the_rate,
    loses_the_answer,
    refuses,
)
from tests.postgres import Place

# --- the plain way ----------------------------------------------------------------------------


async def test_a_booking_happens_once_and_is_answered_from_the_journal(house: House) -> None:
    answer = await house.book()

    booking = await house.get()
    assert booking.state is State.SUCCEEDED
    assert answer.body == booking.answer_bytes
    assert answer.booking_name == booking.name
    assert not answer.is_replayed
    assert [effect.asked for effect in house.vendor.effects] == [Money("CHF", 1000)]
    assert [effect.account_id for effect in house.vendor.effects] == [CARD]
    assert await house.moves() == [State.SENDING, State.SUCCEEDED]
    assert (booking.attempt_count, booking.doubtful_attempts) == (1, 1)


async def test_the_vendor_is_asked_only_after_the_intent_is_on_disk(place: Place) -> None:
    gate = Gate()
    async with open_house(place, FakeVendor(gate)) as house:
        caller = house.booking_task()
        await gate.arrived.wait()
        booking = await house.get()
        gate.go.set()
        await caller

    assert booking.state is State.SENDING
    assert booking.owner == "boot-1"
    assert booking.doubtful_attempts == 1
    assert booking.lease_until == booking.next_attempt_time


async def test_the_vendor_never_sees_the_callers_request_id(house: House) -> None:
    await house.book("a-request-id-that-names-somebody")

    (send,) = house.vendor.sends
    assert send.outbound_id == KEYRING.outbound_id(TENANT, "a-request-id-that-names-somebody")


async def test_a_repeat_is_answered_with_the_very_same_bytes(house: House) -> None:
    first = await house.book()
    second = await house.book()

    assert second.body == first.body
    assert second.is_replayed
    assert second.booking_name == first.booking_name
    assert len(house.vendor.effects) == 1


async def test_a_refusal_is_final_and_repeated_with_the_very_same_bytes(place: Place) -> None:
    async with open_house(place, FakeVendor(refuses())) as house:
        first = await house.fails()
        second = await house.fails()

    assert first.reason is Reason.INSUFFICIENT_BALANCE
    assert (first.fate, first.is_final) == (Fate.NOT_EXECUTED, True)
    assert first.status_bytes is not None
    assert second.status_bytes == first.status_bytes
    assert (first.is_replayed, second.is_replayed) == (False, True)
    assert len(house.vendor.sends) == 1


async def test_one_request_id_means_one_request(house: House) -> None:
    first = await house.book()
    error = await house.fails(asked=Money("CHF", 1001))

    assert error.reason is Reason.REQUEST_ID_REUSED
    assert error.fate is None
    assert error.booking == first.booking_name
    assert len(house.vendor.sends) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"asked": Money("CHF", 999)},
        {"operation": Operation.TOP_UP_BALANCE},
        {"account": AccountKey("main", plain_id="6299123412341235")},
        {"account": AccountKey("second", plain_id=CARD)},
        {"allow_partial": True},
        {"money_value": Money("CHF", 1000)},
        {"redemption_kind": "voucher"},
        {"sale": Sale(order_id="O-1")},
        {"sale": Sale(ticket_number="T-1")},
    ],
)
async def test_every_business_field_belongs_to_the_request(
    place: Place, changes: dict[str, Any]
) -> None:
    vendor = FakeVendor()
    async with open_house(place, connections={"main": vendor, "second": vendor}) as house:
        await house.book()
        error = await house.fails(**changes)

    assert error.reason is Reason.REQUEST_ID_REUSED
    assert len(vendor.sends) == 1


@pytest.mark.parametrize("sale", [Sale(cashier_id="C-7"), Sale(device_id="D-7", store_id="S-7")])
async def test_what_is_no_business_field_may_differ_on_a_repeat(house: House, sale: Sale) -> None:
    first = await house.book()
    second = await house.book(sale=sale)

    assert second.body == first.body


async def test_a_plain_account_id_and_its_token_are_the_same_account(house: House) -> None:
    token = KEYRING.token(TENANT, "main", CARD)
    first = await house.book(account=AccountKey("main", plain_id=CARD))
    second = await house.book(account=AccountKey("main", token=token))

    assert second.body == first.body
    assert second.is_replayed


async def test_a_token_alone_books_on_the_account_behind_it(house: House) -> None:
    await house.book(account=AccountKey("main", token=KEYRING.token(TENANT, "main", CARD)))

    assert [effect.account_id for effect in house.vendor.effects] == [CARD]


async def test_tenants_do_not_meet_each_others_request_ids(house: House) -> None:
    first = await house.book()
    second = await house.book(tenant="another", asked=Money("CHF", 5))

    assert second.booking_name != first.booking_name
    assert len({effect.outbound_id for effect in house.vendor.effects}) == 2


# --- refused before anything is durable -------------------------------------------------------


async def test_another_currency_is_refused_before_anything_is_written(house: House) -> None:
    error = await house.fails(asked=Money("EUR", 1000))

    assert (error.reason, error.field) == (Reason.CURRENCY_NOT_ACCEPTED, "amount")
    assert error.fate is None
    assert await house.find() is None


async def test_the_money_value_must_be_in_the_connections_currency_too(house: House) -> None:
    error = await house.fails(money_value=Money("EUR", 1000))

    assert (error.reason, error.field) == (Reason.CURRENCY_NOT_ACCEPTED, "money_value")


async def test_what_a_vendor_cannot_do_is_refused_without_asking_it(house: House) -> None:
    error = await house.fails(operation=Operation.REDEEM_POINTS, asked=Points(10))

    assert error.reason is Reason.CAPABILITY_NOT_SUPPORTED
    assert house.vendor.sends == []
    assert await house.find() is None


async def test_an_undo_that_cannot_be_kept_is_not_promised(house: House) -> None:
    error = await house.fails(in_doubt_policy=InDoubtPolicy.AUTO_REVERSE)

    assert error.reason is Reason.CAPABILITY_NOT_SUPPORTED
    assert error.field == "options.in_doubt_policy"
    assert await house.find() is None


async def test_fields_that_the_vendor_needs_are_named_all_at_once(place: Place) -> None:
    offer = Offer(
        FakeVendor()._read,
        needed_fields=("sale.order_id", "sale.store_id", "money_value"),
    )
    vendor = FakeVendor(offers={Operation.DEBIT_BALANCE: offer})
    async with open_house(place, vendor) as house:
        error = await house.fails(filled_fields=frozenset({"money_value"}))
        filled = frozenset({"sale.order_id", "sale.store_id", "money_value"})
        await house.book(filled_fields=filled)

    assert error.reason is Reason.FIELD_REQUIRED_BY_PROVIDER
    assert [it.field for it in error.violations] == ["sale.order_id", "sale.store_id"]


async def test_an_unknown_connection_says_nothing_of_a_booking(house: House) -> None:
    error = await house.fails(account=AccountKey("nowhere", plain_id=CARD))

    assert (error.reason, error.fate) == (Reason.CONNECTION_NOT_FOUND, None)


async def test_a_token_of_another_connection_or_tenant_is_no_token(house: House) -> None:
    for token in (
        KEYRING.token(TENANT, "second", CARD),
        KEYRING.token("another", "main", CARD),
        "k1.AAAA",
        "",
    ):
        error = await house.fails(account=AccountKey("main", token=token))
        assert error.reason is Reason.REQUEST_INVALID
        assert [it.field for it in error.violations] == ["account.token"]
        assert CARD not in error.message


# --- validate_only ----------------------------------------------------------------------------


async def test_a_validation_writes_nothing_and_leaves_the_request_id_unused(house: House) -> None:
    answer = await house.book(validate_only=True)

    assert (answer.booking_name, answer.is_replayed) == ("", False)
    assert await house.find() is None
    assert house.vendor.sends == []
    assert not (await house.book()).is_replayed


async def test_a_validation_meets_the_booking_that_has_its_request_id(house: House) -> None:
    await house.book()

    error = await house.fails(validate_only=True, asked=Money("CHF", 1))
    assert error.reason is Reason.REQUEST_ID_REUSED
    assert (await house.book(validate_only=True)).booking_name == ""


async def test_a_refused_validation_says_nothing_wrong_of_a_booking_that_exists(
    house: House,
) -> None:
    """The refusal is about starting a new booking; the known one was executed all the same."""
    await house.book()
    house.engine.drain()
    error = await house.fails(validate_only=True)

    assert error.reason is Reason.DRAINING
    assert (error.fate, error.is_final) == (Fate.EXECUTED, True)


# --- many callers of one request_id -----------------------------------------------------------


async def test_a_hundred_calls_with_one_request_id_have_one_effect_and_equal_answers(
    house: House,
) -> None:
    answers = await asyncio.gather(*(house.book() for _ in range(100)))

    assert len(house.vendor.sends) == 1
    assert len(house.vendor.effects) == 1
    assert len({answer.body for answer in answers}) == 1
    assert sum(not answer.is_replayed for answer in answers) == 1


async def test_a_hundred_refused_calls_with_one_request_id_hear_the_same_bytes(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(refuses())) as house:
        errors = await asyncio.gather(*(house.fails() for _ in range(100)))

    assert len(house.vendor.sends) == 1
    assert len({error.status_bytes for error in errors}) == 1


async def test_of_different_requests_with_one_request_id_exactly_one_wins(house: House) -> None:
    calls = [house.book(asked=Money("CHF", 100 + number)) for number in range(50)]
    ended = await asyncio.gather(*calls, return_exceptions=True)

    errors = [it for it in ended if isinstance(it, LoyaltyError)]
    assert len(errors) == 49
    assert {error.reason for error in errors} == {Reason.REQUEST_ID_REUSED}
    assert len(house.vendor.effects) == 1
    assert house.vendor.effects[0].asked == (await house.get()).asked


async def test_the_loser_of_a_request_id_hears_of_it_at_once_even_while_the_winner_is_in_doubt(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(otherwise=loses_the_answer)) as house:
        await house.fails(within_s=BRIEF_S)
        async with asyncio.timeout(5):
            error = await house.fails(asked=Money("CHF", 1), within_s=30)

    assert error.reason is Reason.REQUEST_ID_REUSED


async def test_a_duplicate_joins_the_booking_that_is_under_way(place: Place) -> None:
    gate = Gate()
    async with open_house(place, FakeVendor(gate)) as house:
        first = house.booking_task()
        await gate.arrived.wait()
        second = house.booking_task()
        third = house.booking_task(asked=Money("CHF", 1))
        with pytest.raises(LoyaltyError) as conflict:
            await third
        gate.go.set()
        answers = await asyncio.gather(first, second)

    assert conflict.value.reason is Reason.REQUEST_ID_REUSED
    assert answers[0].body == answers[1].body
    assert [answer.is_replayed for answer in answers] == [False, True]
    assert len(house.vendor.sends) == 1


# --- nothing was booked: the same request_id may be repeated ----------------------------------


async def test_an_unreachable_vendor_leaves_the_request_id_to_be_repeated(place: Place) -> None:
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        error = await house.fails()
        answer = await house.book()

        assert error.reason is Reason.PROVIDER_UNREACHABLE
        assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, False)
        assert error.retry_after_s is not None
        assert not answer.is_replayed
        assert len(house.vendor.effects) == 1
        assert len({send.outbound_id for send in house.vendor.sends}) == 1
        assert [send.attempt_number for send in house.vendor.sends] == [1, 2]
        assert await house.moves() == [
            State.SENDING,
            State.RESERVED,
            State.SENDING,
            State.SUCCEEDED,
        ]


async def test_a_refusal_after_nothing_was_booked_is_as_final_as_on_the_first_attempt(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(is_not_reached, refuses())) as house:
        await house.fails()
        error = await house.fails()

        assert error.reason is Reason.INSUFFICIENT_BALANCE
        assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, True)
        assert (await house.get()).state is State.DECLINED


async def test_a_fault_that_was_wished_for_goes_with_the_first_attempt_only(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        await house.fails(fault="slow")
        await house.book(fault="slow")

    assert [send.fault for send in house.vendor.sends] == ["slow", ""]


async def test_the_vendors_wish_for_patience_reaches_the_caller(place: Place) -> None:
    async with open_house(place, FakeVendor(limits_the_rate(17))) as house:
        error = await house.fails()

    assert error.reason is Reason.PROVIDER_RATE_LIMITED
    assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, False)
    assert error.retry_after_s in (16, 17)


async def test_a_hundred_repeats_of_a_reserved_request_id_send_it_once(place: Place) -> None:
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        await house.fails()
        answers = await asyncio.gather(*(house.book() for _ in range(100)))

    assert len({answer.body for answer in answers}) == 1
    assert len(house.vendor.sends) == 2


async def test_a_repeat_of_a_reserved_request_id_must_be_the_same_request(
    place: Place,
) -> None:
    async with open_house(place, FakeVendor(is_not_reached)) as house:
        await house.fails()
        error = await house.fails(asked=Money("CHF", 1))

    assert error.reason is Reason.REQUEST_ID_REUSED
    assert len(house.vendor.sends) == 1


async def test_a_reserved_booking_that_nobody_repeats_is_closed(place: Place) -> None:
    policy = replace(QUICK, abandon_reserved_s=0.05)
    async with open_house(place, FakeVendor(is_not_reached), policy=policy) as house:
        await house.fails()
        booking = await house.becomes(State.NOT_EXECUTED)
        error = await house.fails()

    assert booking.settle_time is not None
    assert error.reason is Reason.BOOKING_NOT_EXECUTED
    assert (error.fate, error.is_final) == (Fate.NOT_EXECUTED, True)
    assert len(house.vendor.sends) == 1


# --- operators' words -------------------------------------------------------------------------


async def test_an_unknown_request_id_proves_nothing(house: House) -> None:
    error = await failure(house.engine.get(TENANT, BookingKey(request_id="sale-0001")))

    assert (error.reason, error.fate, error.is_final) == (Reason.NOT_FOUND, None, False)


async def test_another_tenants_booking_is_not_found(house: House) -> None:
    await house.book()
    booking_id = (await house.get()).booking_id
    error = await failure(house.engine.get("another", BookingKey(booking_id=booking_id)))

    assert error.reason is Reason.NOT_FOUND


async def test_nothing_of_an_account_is_shown_but_its_mask(house: House) -> None:
    await house.book()
    booking = await house.get()

    assert booking.masked_id == "••••••••••••1234"
    assert booking.order is not None and booking.order.account_id == ""
    assert CARD not in repr(booking) and CARD not in repr(a_call())
