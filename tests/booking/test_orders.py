"""What a booking carries: personal parts stay sealed, created accounts are told to the letter."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, text

from loyalty_gateway.booking.calls import AccountKey
from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.booking import State
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    AMOUNT_ECHO_UNIT,
    CardFacts,
    External,
    Operation,
    Person,
    Purchase,
)
from loyalty_gateway.providers.port import Offer
from tests.booking.house import BRIEF_S, CARD, KEYRING, PATIENT, QUICK, TENANT, House, open_house
from tests.booking.vendor import (
    ASKED,
    QUERY_ANSWERS,
    RESEND_IS_SAFE,
    RESENT,
    TAKES_PARTS,
    FakeVendor,
    _nobody,
    is_not_reached,
    loses_the_answer,
    refusal,
)
from tests.postgres import Place

PERSON = Person(display_name="Erika Beispiel", email="erika@example.com", phone="+41790000001")
NEW_CARD = "6299555566667777"
MADE = CardFacts(NEW_CARD, holder=Person(display_name="Erika Beispiel"))
CREATE: dict[str, Any] = {
    "operation": Operation.CREATE_CARD,
    "account": AccountKey("main"),
    "asked": None,
    "person": PERSON,
}
PREPARES = replace(RESENT, prepare=_nobody)


def maker(*acts: Any, offer: Offer = RESENT, **changes: Any) -> FakeVendor:
    return FakeVendor(*acts, offers={Operation.CREATE_CARD: offer}, card=MADE, **changes)


def _all_of(connection: Connection, table: str) -> Sequence[Any]:
    return connection.execute(text(f"SELECT * FROM {table}")).all()


async def everything_stored(house: House) -> str:
    """Every value of every table, as text."""
    found = []
    for table in ("booking", "attempt", "history", "account_hold", "vendor_reference"):
        rows = await house.journal.on_the_writers_connection(partial(_all_of, table=table))
        found += [
            bytes(value).decode("latin-1") if isinstance(value, bytes | memoryview) else str(value)
            for row in rows
            for value in row
        ]
    return "\n".join(found)


# --- created accounts ---------------------------------------------------------------------------


async def test_a_created_account_is_answered_with_its_holder_and_repeated_to_the_letter(
    place: Place,
) -> None:
    async with open_house(place, maker()) as house:
        first = await house.book(**CREATE)
        booking = await house.get()
        stored = await everything_stored(house)
        again = await house.book(**CREATE)
    async with open_house(place, house.vendor, boot_id="boot-2") as house:
        later = await house.book(**CREATE)

    assert first.body.endswith(b"Erika Beispiel")
    assert again.body == later.body == first.body
    assert booking.created is not None
    assert KEYRING.open_token(TENANT, "main", booking.created.token) == NEW_CARD
    assert booking.created.masked_id.endswith("7777")
    assert (booking.account_hash, booking.masked_id, booking.account_sealed) == (b"", "", None)
    assert booking.answer_bytes is not None and b"Erika" not in booking.answer_bytes
    for secret in ("Erika", "erika@example.com", "+41790000001", NEW_CARD):
        assert secret not in stored


async def test_a_creation_in_doubt_is_sent_again_with_the_same_person(place: Place) -> None:
    async with open_house(place, maker(loses_the_answer), policy=QUICK) as house:
        answer = await house.book(**CREATE)

        assert len(house.vendor.sends) == 2
        assert {it.order.person for it in house.vendor.sends} == {PERSON}
        assert {it.order.account_id for it in house.vendor.sends} == {""}
    assert answer.body.endswith(b"Erika Beispiel")


async def test_a_creation_that_is_found_by_asking_is_answered_with_its_account(
    place: Place,
) -> None:
    vendor = maker(loses_the_answer, offer=ASKED)
    promises = {QUERY_ANSWERS: True}
    async with open_house(place, vendor, policy=QUICK, promises=promises) as house:
        answer = await house.book(**CREATE)
        booking = await house.get()

    assert answer.body.endswith(b"Erika Beispiel")
    assert booking.created is not None


async def test_creations_that_need_review_hold_no_account(place: Place) -> None:
    """They have none; else one of them would keep out all others."""
    async with open_house(place, maker(loses_the_answer), promises={}) as house:
        error = await house.fails(**CREATE)
        await house.book("sale-0002", **CREATE)

    assert error.reason is Reason.BOOKING_NEEDS_REVIEW


async def test_another_person_is_another_request(place: Place) -> None:
    async with open_house(place, maker()) as house:
        await house.book(**CREATE)
        changes = {**CREATE, "person": replace(PERSON, email="else@example.com")}
        error = await house.fails(**changes)

    assert error.reason is Reason.REQUEST_ID_REUSED


@pytest.mark.parametrize(
    "change",
    [
        {"update_mask": ("email",)},
        {"card_type": "CASHBACK"},
        {"activate": True},
        {"activate": False},
        {"external": External("google", "e-1")},
        {"purchase": Purchase(Money("CHF", 500), "P-1")},
        {"asked": Points(5)},
    ],
)
async def test_every_business_field_makes_another_request(
    place: Place, change: dict[str, Any]
) -> None:
    async with open_house(place, maker()) as house:
        await house.book(**CREATE)
        error = await house.fails(**{**CREATE, **change})

    assert error.reason is Reason.REQUEST_ID_REUSED


async def test_how_the_id_was_read_makes_no_other_request(place: Place) -> None:
    from loyalty_gateway.domain.operations import EntryMode

    async with open_house(place) as house:
        await house.book(account=AccountKey("main", plain_id=CARD))
        keyed = AccountKey("main", plain_id=CARD, entry_mode=EntryMode.KEYED)
        again = await house.book(account=keyed)

    assert again.is_replayed


# --- proofs -------------------------------------------------------------------------------------


async def test_a_proof_goes_to_the_vendor_as_the_vendor_gave_it(place: Place) -> None:
    async with open_house(place, maker()) as house:
        expires = house.journal.now() + timedelta(minutes=5)
        token = KEYRING.seal_proof(TENANT, "main", "vendor-proof-77", expires)
        await house.book(**CREATE, proof_token=token)
        stored = await everything_stored(house)

        assert house.vendor.sends[0].order.proof == "vendor-proof-77"
    assert "vendor-proof-77" not in stored


@pytest.mark.parametrize(("tenant", "connection"), [("another", "main"), (TENANT, "second")])
async def test_a_proof_for_somewhere_else_is_refused(
    place: Place, tenant: str, connection: str
) -> None:
    async with open_house(place, maker()) as house:
        expires = house.journal.now() + timedelta(minutes=5)
        token = KEYRING.seal_proof(tenant, connection, "proof", expires)
        error = await house.fails(**CREATE, proof_token=token)

        assert house.vendor.sends == []
    assert error.reason is Reason.REQUEST_INVALID
    assert [it.field for it in error.violations] == ["proof_token"]


async def test_an_expired_proof_starts_nothing_and_still_answers_what_was_booked(
    place: Place,
) -> None:
    async with open_house(place, maker()) as house:
        soon = house.journal.now() + timedelta(seconds=1.5)
        token = KEYRING.seal_proof(TENANT, "main", "proof", soon)
        first = await house.book(**CREATE, proof_token=token)
        old = KEYRING.seal_proof(
            TENANT, "main", "proof", house.journal.now() - timedelta(seconds=1)
        )
        again = await house.book(**CREATE, proof_token=old)
        error = await house.fails("sale-0002", **CREATE, proof_token=old)

    assert again.body == first.body
    assert (error.reason, error.fate) == (Reason.CODE_EXPIRED, Fate.NOT_EXECUTED)


# --- preparation --------------------------------------------------------------------------------


async def test_what_was_prepared_belongs_to_the_booking_and_is_read_once(place: Place) -> None:
    vendor = FakeVendor(
        is_not_reached, loses_the_answer, offers={Operation.DEBIT_BALANCE: PREPARES}
    )
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.fails()
        await house.book()
        stored = await everything_stored(house)

        assert len(vendor.prepared) == 1
        assert [it.order.find_prepared("pass") for it in vendor.sends] == ["P-1"] * 3
    assert "P-1" not in stored


async def test_a_preparation_that_fails_sends_and_journals_nothing(place: Place) -> None:
    vendor = FakeVendor(
        offers={Operation.DEBIT_BALANCE: PREPARES},
        prepares=[refusal(Reason.ACCOUNT_NOT_FOUND), refusal(Reason.PROVIDER_UNREACHABLE)],
    )
    async with open_house(place, vendor) as house:
        unknown = await house.fails()
        unreached = await house.fails()
        assert await house.find() is None
        await house.book()

        assert len(vendor.sends) == 1
    assert (unknown.reason, unknown.fate) == (Reason.ACCOUNT_NOT_FOUND, Fate.NOT_EXECUTED)
    assert unreached.reason is Reason.PROVIDER_UNREACHABLE
    assert not unknown.is_final


async def test_a_repeat_looks_the_booking_up_before_it_prepares_anything(place: Place) -> None:
    vendor = FakeVendor(offers={Operation.DEBIT_BALANCE: PREPARES})
    async with open_house(place, vendor) as house:
        first = await house.book()
        again = await house.book()

        assert len(vendor.prepared) == 1
    assert again.body == first.body


# --- amounts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("promises", "may_take_part"),
    [({RESEND_IS_SAFE: True}, False), ({RESEND_IS_SAFE: True, AMOUNT_ECHO_UNIT: True}, True)],
)
async def test_the_vendor_may_take_a_part_only_where_its_answer_tells_which(
    place: Place, promises: dict[str, bool], may_take_part: bool
) -> None:
    offer = replace(TAKES_PARTS, partial_promise=AMOUNT_ECHO_UNIT)
    vendor = FakeVendor(offers={Operation.DEBIT_BALANCE: offer}, applied=Money("CHF", 400))
    async with open_house(place, vendor, promises=promises) as house:
        await house.book(allow_partial=True)
        booking = await house.get()

        assert house.vendor.sends[0].order.may_take_part is may_take_part
    assert booking.applied == Money("CHF", 400 if may_take_part else 1000)
    assert booking.remaining_due_minor == (600 if may_take_part else 0)


async def test_every_attempt_says_the_same_whatever_was_proven_meanwhile(place: Place) -> None:
    offer = replace(TAKES_PARTS, partial_promise=AMOUNT_ECHO_UNIT)
    vendor = FakeVendor(is_not_reached, offers={Operation.DEBIT_BALANCE: offer})
    async with open_house(place, vendor, policy=PATIENT) as house:
        await house.fails(allow_partial=True)
    promises = {RESEND_IS_SAFE: True, AMOUNT_ECHO_UNIT: True}
    async with open_house(place, vendor, promises=promises) as house:
        await house.book(allow_partial=True)

    assert [it.order.may_take_part for it in vendor.sends] == [False, False]


async def test_points_that_a_purchase_earns_are_the_vendors_word(place: Place) -> None:
    earns: dict[str, Any] = {
        "operation": Operation.EARN_POINTS,
        "asked": None,
        "purchase": Purchase(Money("CHF", 5000), "FUEL"),
    }
    vendor = FakeVendor(offers={Operation.EARN_POINTS: RESENT}, applied=Points(50))
    async with open_house(place, vendor) as house:
        await house.book(**earns)
        booking = await house.get()
        wrong = await house.fails(
            "sale-0002", **{**earns, "purchase": Purchase(Money("EUR", 5000), "FUEL")}
        )

    assert (booking.state, booking.asked, booking.applied) == (
        State.SUCCEEDED,
        None,
        Points(50),
    )
    assert (wrong.reason, wrong.field) == (Reason.CURRENCY_NOT_ACCEPTED, "purchase.amount")


# --- a vendor's pause ---------------------------------------------------------------------------


async def test_a_repeat_keeps_the_pause_that_the_vendor_asked_for(place: Place) -> None:
    from tests.booking.vendor import limits_the_rate

    vendor = FakeVendor(loses_the_answer, limits_the_rate(3_600))
    async with open_house(place, vendor, policy=QUICK) as house:
        await house.fails(within_s=BRIEF_S)
        for _ in range(2):
            await house.fails(within_s=1.3)

        assert len(vendor.sends) == 2
        assert (await house.get()).not_before is not None


async def test_points_of_a_unit_that_is_not_the_vendors_are_refused_unsent(place: Place) -> None:
    async with open_house(place, FakeVendor()) as house:
        error = await house.fails(asked=Points(7, "miles"))

        assert error.reason is Reason.REQUEST_INVALID
        assert [it.field for it in error.violations] == ["points.unit"]
        assert house.vendor.sends == []
