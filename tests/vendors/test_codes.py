"""Codes, receipts and passwords of the two vendors that have them, from end to end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import pytest
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money

from loyalty.v1 import cards_pb2, providers_pb2, types_pb2, wallets_pb2
from loyalty_gateway.domain.operations import CHALLENGE_OPERATIONS, Operation
from tests.e2e.caller import Reply, new_request_id
from tests.vendors.asking import FACTS, RIGHT_CODE, ask, new_person, receipt_of, sign_up
from tests.vendors.house import House, Vendor
from tests.vendors.matrix import FILLED, Cell

WRONG_CODE: Final = "731731"
LONGER_THAN_A_CODE_LIVES_S: Final = 600
RIGHT_PASSWORD: Final = "eb8b704149f7e7a4488a7d218de6da3e"
VENDORS: Final = ("cashassist", "loyalife")

CHECKED: Final[dict[Cell, str]] = {
    ("Cards.VerifyCardOwnership", "cashassist"): "test_a_receipt_proves_whose_card_it_is",
    ("Wallets.CreateChallenge", "cashassist"): "test_a_right_code_opens_the_accounts_of_a_person",
    ("Wallets.CreateChallenge", "loyalife"): "test_a_right_code_opens_the_accounts_of_a_person",
    ("Wallets.VerifyChallenge", "cashassist"): "test_a_right_code_opens_the_accounts_of_a_person",
    ("Wallets.VerifyChallenge", "loyalife"): "test_a_right_code_opens_the_accounts_of_a_person",
    ("Wallets.VerifyCredentials", "loyalife"): "test_a_right_password_is_told_with_the_login",
}
"""Which test is about which cell of the table."""

OPENED: Final = {"cashassist": "•••72", "loyalife": "•••124"}
WHERE: Final = {"cashassist": "+41790000000", "loyalife": "m8124@example.com"}


def test_every_code_of_the_table_is_checked() -> None:
    cells = {cell for cell in FILLED if Operation(cell[0]) in CHALLENGE_OPERATIONS}

    assert set(CHECKED) == cells
    assert set(CHECKED.values()) <= set(globals())


@contextmanager
def vendors_clock_ahead(vendor: Vendor, seconds: float) -> Iterator[None]:
    """The vendor's clock is ahead for a while, so that what it gave out has ended there."""
    vendor.player.stage.now = lambda: time.time() + seconds
    try:
        yield
    finally:
        vendor.player.stage.now = time.time


async def _issued(house: House, connection: str) -> wallets_pb2.CreateChallengeResponse:
    reply = await house.call(await ask(house, ("Wallets.CreateChallenge", connection)))
    assert reply.is_ok, str(reply)
    issued: wallets_pb2.CreateChallengeResponse = reply.response
    return issued


async def _verify(house: House, token: str, code: str) -> Reply:
    return await house.call(wallets_pb2.VerifyChallengeRequest(challenge_token=token, code=code))


@pytest.mark.parametrize("connection", VENDORS)
async def test_a_right_code_opens_the_accounts_of_a_person(house: House, connection: str) -> None:
    issued = await _issued(house, connection)

    wrong = await _verify(house, issued.challenge_token, WRONG_CODE)
    right = await _verify(house, issued.challenge_token, RIGHT_CODE[connection])

    assert issued.HasField("expire_time")
    assert WHERE[connection] not in issued.masked_destination
    assert "•" in issued.masked_destination
    assert (wrong.code, wrong.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CODE_INVALID")
    assert wrong.info.metadata["field"] == "code"
    assert right.is_ok, str(right)
    assert [(it.connection, it.masked_id) for it in right.response.accounts] == [
        (connection, OPENED[connection])
    ]
    token = right.response.accounts[0].token
    account = types_pb2.AccountRef(connection=connection, token=token)
    read = await house.call(cards_pb2.GetCardRequest(account=account))
    assert read.response.card.account.masked_id == OPENED[connection]
    assert FACTS[connection].read.encode() not in right.body


async def test_a_code_of_another_length_is_as_wrong_as_any(house: House) -> None:
    vendor = house.vendors["cashassist"]
    issued = await _issued(house, "cashassist")

    short = await _verify(house, issued.challenge_token, "73")
    right = await _verify(house, issued.challenge_token, RIGHT_CODE["cashassist"])

    assert (short.code, short.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CODE_INVALID")
    assert right.is_ok, str(right)
    # It was the person who departed from the document, and the vendor said so.
    assert [it.where for it in vendor.player.stage.violations] == ["body.code"]
    vendor.player.stage.violations.clear()


@pytest.mark.parametrize("connection", VENDORS)
async def test_a_code_is_sent_once_for_a_request_id(house: House, connection: str) -> None:
    vendor = house.vendors[connection]
    request = await ask(house, ("Wallets.CreateChallenge", connection))
    first = await house.call(request)
    vendor.recorder.seen.clear()

    again = await house.call(request)

    assert again.body == first.body
    assert vendor.recorder.seen == []


async def test_a_code_that_was_used_is_gone(house: House) -> None:
    issued = await _issued(house, "cashassist")
    await _verify(house, issued.challenge_token, RIGHT_CODE["cashassist"])

    again = await _verify(house, issued.challenge_token, RIGHT_CODE["cashassist"])

    assert (again.code, again.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CODE_EXPIRED")
    assert again.info.metadata["provider_code"] == "verification_not_found"


# Loyalife has no code of its own for one that is too old: it is wrong, and that is all.
@pytest.mark.parametrize(
    ("connection", "reason"), [("cashassist", "CODE_EXPIRED"), ("loyalife", "CODE_INVALID")]
)
async def test_a_code_that_is_too_old_opens_nothing(
    house: House, connection: str, reason: str
) -> None:
    issued = await _issued(house, connection)

    with vendors_clock_ahead(house.vendors[connection], LONGER_THAN_A_CODE_LIVES_S):
        reply = await _verify(house, issued.challenge_token, RIGHT_CODE[connection])

    assert reply.reason == reason, str(reply)
    assert reply.outcome == ""


async def test_a_sign_up_ends_with_a_wallet_of_that_person(house: House) -> None:
    vendor, person = house.vendors["cashassist"], new_person()
    proof_token = await sign_up(house, "cashassist", person)
    before = vendor.books
    request = wallets_pb2.CreateWalletRequest(
        connection="cashassist",
        profile=types_pb2.Profile(given_name="Conny", family_name="Canary"),
        proof_token=proof_token,
        request_id=new_request_id(),
    )

    made = await house.call(request)
    used_up = await house.call(_with_new_id(request))

    assert made.is_ok, str(made)
    wallet = made.response.wallet
    assert wallet.profile.display_name == "Conny Canary"
    assert wallet.status == types_pb2.ACCOUNT_STATUS_ACTIVE
    assert wallet.wallet_links.apple.startswith("https://")
    assert wallet.wallet_links.google.startswith("https://")
    assert made.booking.account.token == wallet.account.token
    assert len(vendor.books.accounts) == len(before.accounts) + 1
    seen = await house.call(
        wallets_pb2.GetWalletRequest(
            account=types_pb2.AccountRef(connection="cashassist", token=wallet.account.token)
        )
    )
    assert seen.response.wallet.profile.display_name == "Conny Canary"
    assert (used_up.code, used_up.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CODE_EXPIRED")
    assert (used_up.outcome, used_up.is_final) == ("NOT_EXECUTED", True)


def _with_new_id(request: Any) -> Any:
    again = type(request)()
    again.CopyFrom(request)
    again.request_id = new_request_id()
    return again


async def test_a_number_that_has_a_card_signs_up_for_no_second_one(house: House) -> None:
    person = new_person()
    person.phone = WHERE["cashassist"]
    request = wallets_pb2.CreateChallengeRequest(
        connection="cashassist",
        purpose=wallets_pb2.CHALLENGE_PURPOSE_SIGN_UP,
        phone=person.phone,
        profile=person,
        request_id=new_request_id(),
    )

    reply = await house.call(request)

    assert (reply.code, reply.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "ACCOUNT_ALREADY_EXISTS",
    )
    assert (reply.outcome, reply.is_final) == ("NOT_EXECUTED", True)


async def test_a_proof_of_one_vendor_is_none_to_another(house: House) -> None:
    proof_token = await sign_up(house, "cashassist", new_person())
    request = await ask(house, ("Wallets.CreateWallet", "loyalife"))
    request.proof_token = proof_token  # type: ignore[attr-defined]

    reply = await house.call(request)

    assert (reply.code, reply.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert reply.info.metadata["field"] == "proof_token"


async def test_a_code_to_a_members_account_opens_that_account(house: House) -> None:
    issued = await house.call(
        wallets_pb2.CreateChallengeRequest(
            connection="loyalife",
            purpose=wallets_pb2.CHALLENGE_PURPOSE_LOG_IN,
            account=FACTS["loyalife"].seen,
            request_id=new_request_id(),
        )
    )

    reply = await _verify(house, issued.response.challenge_token, RIGHT_CODE["loyalife"])

    assert reply.is_ok, str(reply)
    assert [it.masked_id for it in reply.response.accounts] == ["•••124"]


async def test_a_receipt_proves_whose_card_it_is(house: House) -> None:
    facts = FACTS["cashassist"]
    receipt = receipt_of(house, facts.read)
    year, month, day = (int(part) for part in receipt["date"].split("-"))
    minor = receipt["total_minor"]
    whole = cards_pb2.PurchaseReceipt(
        number=receipt["number"],
        date=Date(year=year, month=month, day=day),
        amount=facts.money(minor),
    )
    another_amount = cards_pb2.PurchaseReceipt(
        number=receipt["number"], amount=facts.money(minor + 1)
    )
    nobodys = cards_pb2.PurchaseReceipt(number="2026-999999")

    replies = [
        await house.call(cards_pb2.VerifyCardOwnershipRequest(account=facts.seen, receipt=it))
        for it in (whole, another_amount, nobodys)
    ]

    assert [it.response.verified for it in replies] == [True, False, False]
    assert all(it.response.proof_token == "" for it in replies[1:])


async def test_a_receipt_in_another_currency_is_not_asked_for(house: House) -> None:
    receipt = cards_pb2.PurchaseReceipt(
        number="2026-000001", amount=Money(currency_code="EUR", units=1)
    )
    request = cards_pb2.VerifyCardOwnershipRequest(
        account=FACTS["cashassist"].seen, receipt=receipt
    )

    reply = await house.call(request)

    assert reply.reason == "CURRENCY_NOT_ACCEPTED"
    assert house.vendors["cashassist"].recorder.seen == []


def _password(hash: str) -> wallets_pb2.VerifyCredentialsRequest:
    return wallets_pb2.VerifyCredentialsRequest(
        account=FACTS["loyalife"].seen, password_hash=hash, scheme="md5"
    )


async def test_a_right_password_is_told_with_the_login(house: House) -> None:
    reply = await house.call(_password(RIGHT_PASSWORD))

    assert reply.is_ok, str(reply)
    assert reply.response.verified
    assert reply.response.login.activated
    assert reply.response.login.HasField("failed_login_count")
    assert reply.response.login.HasField("password_change_required")


async def test_a_wrong_password_is_an_answer_and_says_nothing_of_our_credentials(
    house: House,
) -> None:
    vendor = house.vendors["loyalife"]
    await house.call(_password(RIGHT_PASSWORD))
    vendor.recorder.seen.clear()

    reply = await house.call(_password("0" * 32))

    assert reply.is_ok, str(reply)
    assert not reply.response.verified
    assert not reply.response.HasField("login")
    tries = [it for it in vendor.recorder.seen if "CheckMembershipCredentials" in it.target]
    assert len(tries) == 1, "the vendor counts wrong passwords, so none is tried twice"
    listed = await house.call(providers_pb2.ListConnectionsRequest())
    states = {it.name: it.state for it in listed.response.connections}
    assert states["connections/loyalife"] == providers_pb2.CONNECTION_STATE_OK


async def test_codes_numbers_and_passwords_are_written_nowhere(house: House) -> None:
    person = new_person()
    proof_token = await sign_up(house, "cashassist", person)
    await house.call(_password(RIGHT_PASSWORD))
    await _issued(house, "loyalife")

    journal = house.journal_bytes()

    for secret in (person.phone, person.email, WHERE["loyalife"], RIGHT_PASSWORD, proof_token):
        assert secret.encode() not in journal
