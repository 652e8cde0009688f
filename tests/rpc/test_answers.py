"""What the booking room found or did is answered whole, and what is personal stands apart."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from loyalty.v1 import (
    balance_pb2,
    cards_pb2,
    gift_pb2,
    points_pb2,
    providers_pb2,
    types_pb2,
    wallets_pb2,
)
from loyalty_gateway.booking import calls
from loyalty_gateway.booking.calls import SeenAccount
from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.booking import Booking, CreatedAccount, State
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    AccountKind,
    Balance,
    CardFacts,
    CardPage,
    CredentialsFacts,
    ExpiringPeriod,
    ExpirySchedule,
    External,
    ItemPage,
    LinkedAccounts,
    Operation,
    Order,
    Person,
    Receipt,
    Support,
    Transaction,
    TransactionItem,
    TransactionKind,
    TransactionPage,
)
from loyalty_gateway.rpc.catalog import join_catalog
from loyalty_gateway.rpc.codec.answers import WireAnswerCodec
from tests.rpc.conftest import Door
from tests.rpc.fakes import CARD, NOON, answer_with, redemption

ACCOUNT = types_pb2.AccountRef(connection="cashassist", id=CARD)
MAX = Person(
    display_name="Max Muster",
    given_name="Max",
    family_name="Muster",
    phone="+41790000000",
    email="max@example.com",
    birth_date=date(1980, 2, 29),
    attributes=(("city", "Bern"),),
)
FACTS = CardFacts(
    CARD,
    kind=AccountKind.MEMBER,
    type="CASHBACK",
    status="ACTIVE",
    holder=MAX,
    balances=(Balance(Points(7), NOON),),
    tier="GOLD",
    expire_time=NOON,
    attributes=(("segment", "A"),),
    wallet_links=(("apple", "https://wallet.example/a"), ("google", "https://wallet.example/g")),
)
PERSONAL = ("Max", "Muster", "+4179", "max@example", "Bern", "1980", "wallet.example")
SEEN = {"connection": "cashassist", "token": "k1.abcdef", "maskedId": "***72"}
NOON_TEXT = "2026-11-21T12:00:00.123Z"
PROFILE_TOLD = {
    "displayName": "Max Muster",
    "givenName": "Max",
    "familyName": "Muster",
    "phone": "+41790000000",
    "email": "max@example.com",
    "birthDate": {"year": 1980, "month": 2, "day": 29},
    "attributes": {"city": "Bern", "segment": "A"},
}
BALANCES_TOLD = [
    {"kind": "BALANCE_KIND_POINTS", "points": {"value": "7"}, "asOf": NOON_TEXT},
]
CARD_TOLD = {
    "account": {**SEEN, "kind": "ACCOUNT_KIND_MEMBER"},
    "type": "CASHBACK",
    "status": "ACCOUNT_STATUS_ACTIVE",
    "holder": {"displayName": "Max Muster", "givenName": "Max", "familyName": "Muster"},
    "balances": BALANCES_TOLD,
    "tier": "GOLD",
    "expireTime": NOON_TEXT,
    "attributes": {"city": "Bern", "segment": "A"},
}
WALLET_TOLD = {
    "account": {**SEEN, "kind": "ACCOUNT_KIND_MEMBER"},
    "profile": PROFILE_TOLD,
    "walletLinks": {
        "apple": "https://wallet.example/a",
        "google": "https://wallet.example/g",
    },
    "status": "ACCOUNT_STATUS_ACTIVE",
}


async def told(door: Door, method: str, request: Message, response: type[Message]) -> Any:
    """What an rpc answers to a request, as a program without our types would read it."""
    reply = await door.wire.call(method, request)
    assert reply.code.name == "OK", reply.text
    return MessageToDict(response.FromString(reply.body))


# --- reads --------------------------------------------------------------------------------------


async def test_a_card_is_told_with_all_that_is_known_of_it(door: Door) -> None:
    door.engine.answers(answer_with(FACTS))
    request = cards_pb2.GetCardRequest(account=ACCOUNT)
    assert await told(door, "Cards/GetCard", request, cards_pb2.GetCardResponse) == {
        "card": CARD_TOLD
    }


async def test_a_wallet_is_told_with_its_person(door: Door) -> None:
    door.engine.answers(answer_with(FACTS))
    request = wallets_pb2.GetWalletRequest(account=ACCOUNT)
    assert await told(door, "Wallets/GetWallet", request, wallets_pb2.GetWalletResponse) == {
        "wallet": WALLET_TOLD
    }


async def test_a_gift_card_is_told_with_its_holder(door: Door) -> None:
    door.engine.answers(answer_with(FACTS))
    request = gift_pb2.GetGiftCardRequest(account=ACCOUNT)
    assert await told(door, "Gift/GetGiftCard", request, gift_pb2.GetGiftCardResponse) == {
        "giftCard": {
            "account": {**SEEN, "kind": "ACCOUNT_KIND_MEMBER"},
            "status": "ACCOUNT_STATUS_ACTIVE",
            "balances": BALANCES_TOLD,
            "holder": PROFILE_TOLD,
            "expireTime": NOON_TEXT,
        }
    }


async def test_what_a_provider_does_not_tell_of_a_person_stays_absent(door: Door) -> None:
    door.engine.answers(answer_with(CardFacts(CARD)))
    gift = gift_pb2.GetGiftCardRequest(account=ACCOUNT)
    assert await told(door, "Gift/GetGiftCard", gift, gift_pb2.GetGiftCardResponse) == {
        "giftCard": {"account": SEEN}
    }
    wallet = wallets_pb2.GetWalletRequest(account=ACCOUNT)
    assert await told(door, "Wallets/GetWallet", wallet, wallets_pb2.GetWalletResponse) == {
        "wallet": {"account": SEEN}
    }


async def test_every_card_of_a_search_has_its_own_account(door: Door) -> None:
    accounts = {
        CARD: SeenAccount("cashassist", "k1.abcdef", "***72", AccountKind.MEMBER),
        "10473": SeenAccount("cashassist", "k1.other", "***73"),
    }
    page = CardPage((FACTS, CardFacts("10473")))
    door.engine.answers(
        replace(
            answer_with(page, next_page_token="more", accounts=accounts),
            account_token="",
            masked_id="",
        )
    )
    request = cards_pb2.SearchCardsRequest(connection="cashassist", phone="+41790000000")
    answer = await told(door, "Cards/SearchCards", request, cards_pb2.SearchCardsResponse)
    assert answer == {
        "cards": [
            CARD_TOLD,
            {"account": {"connection": "cashassist", "token": "k1.other", "maskedId": "***73"}},
        ],
        "nextPageToken": "more",
    }


async def test_a_search_that_finds_nothing_is_an_empty_answer(door: Door) -> None:
    door.engine.answers(answer_with(CardPage(())))
    request = cards_pb2.SearchCardsRequest(connection="cashassist", phone="+41790000000")
    assert await told(door, "Cards/SearchCards", request, cards_pb2.SearchCardsResponse) == {}


async def test_a_line_of_history_names_merchant_and_store(door: Door) -> None:
    line = Transaction(
        "V-1", NOON, TransactionKind.DEBIT, "withdraw", merchant="Kiosk", store_id="7"
    )
    door.engine.answers(answer_with(TransactionPage((line,))))
    request = cards_pb2.ListTransactionsRequest(account=ACCOUNT)
    answer = await told(door, "Cards/ListTransactions", request, cards_pb2.ListTransactionsResponse)
    (shown,) = answer["transactions"]
    assert (shown["merchant"], shown["storeId"]) == ("Kiosk", "7")


@pytest.mark.parametrize(
    ("quantity", "text"), [("2", "2"), ("0.750", "0.750"), ("2E+1", "20"), ("1E-7", "0.0000001")]
)
async def test_a_quantity_is_written_out_and_exact(door: Door, quantity: str, text: str) -> None:
    item = TransactionItem(1, "E-1", "Espresso", Decimal(quantity), Money("CHF", 840))
    door.engine.answers(answer_with(ItemPage((item,)), next_page_token="more"))
    request = cards_pb2.ListTransactionItemsRequest(account=ACCOUNT, transaction_reference="tx")
    answer = await told(
        door, "Cards/ListTransactionItems", request, cards_pb2.ListTransactionItemsResponse
    )
    assert answer == {
        "items": [
            {
                "position": 1,
                "sku": "E-1",
                "description": "Espresso",
                "quantity": text,
                "amount": {"currencyCode": "CHF", "units": "8", "nanos": 400_000_000},
            }
        ],
        "nextPageToken": "more",
    }


async def test_linked_accounts_come_in_the_providers_order(door: Door) -> None:
    externals = (External("device", "d-2"), External("device", "d-1"))
    door.engine.answers(answer_with(LinkedAccounts(externals), next_page_token="more"))
    request = wallets_pb2.ListLinkedAccountsRequest(account=ACCOUNT)
    answer = await told(
        door, "Wallets/ListLinkedAccounts", request, wallets_pb2.ListLinkedAccountsResponse
    )
    assert answer == {
        "linkedAccounts": [{"kind": "device", "id": "d-2"}, {"kind": "device", "id": "d-1"}],
        "nextPageToken": "more",
    }


async def test_an_expiry_schedule_leaves_absent_what_is_not_known(door: Door) -> None:
    schedule = ExpirySchedule((ExpiringPeriod(date(2027, 3, 31), accrued=100, expired=0),))
    door.engine.answers(answer_with(schedule))
    request = points_pb2.ListExpiringPointsRequest(account=ACCOUNT, year=2027)
    answer = await told(
        door, "Points/ListExpiringPoints", request, points_pb2.ListExpiringPointsResponse
    )
    assert answer == {
        "account": SEEN,
        "periods": [
            {
                "date": {"year": 2027, "month": 3, "day": 31},
                "accrued": {"value": "100"},
                "expired": {},
            }
        ],
    }


# --- codes and proofs ---------------------------------------------------------------------------


async def test_a_challenge_is_answered_with_its_token(door: Door) -> None:
    request = wallets_pb2.CreateChallengeRequest(
        connection="cashassist",
        purpose=wallets_pb2.CHALLENGE_PURPOSE_LINK_CARD,
        phone="+41790000000",
        request_id="till-7-000123",
    )
    answer = await told(
        door, "Wallets/CreateChallenge", request, wallets_pb2.CreateChallengeResponse
    )
    assert answer == {
        "challengeToken": "ch.1",
        "expireTime": NOON_TEXT,
        "maskedDestination": "•••••••00",
    }


async def test_a_right_code_opens_accounts_and_a_proof(door: Door) -> None:
    seen = SeenAccount("cashassist", "k1.abcdef", "***72", AccountKind.CARD)
    door.engine.answers(calls.Verified(True, (seen,), "proof", NOON))
    request = wallets_pb2.VerifyChallengeRequest(challenge_token="c", code="000000")
    answer = await told(
        door, "Wallets/VerifyChallenge", request, wallets_pb2.VerifyChallengeResponse
    )
    assert answer == {
        "accounts": [{**SEEN, "kind": "ACCOUNT_KIND_CARD"}],
        "proofToken": "proof",
        "expireTime": NOON_TEXT,
    }


@pytest.mark.parametrize(
    ("verified", "answer"),
    [
        (
            calls.Verified(True, (), "proof", NOON),
            {"verified": True, "proofToken": "proof", "expireTime": NOON_TEXT},
        ),
        (calls.Verified(False), {}),
    ],
)
async def test_a_receipt_proves_a_card_or_does_not(
    door: Door, verified: calls.Verified, answer: dict[str, Any]
) -> None:
    door.engine.answers(verified)
    request = cards_pb2.VerifyCardOwnershipRequest(
        account=ACCOUNT, receipt=cards_pb2.PurchaseReceipt(number="1")
    )
    response = cards_pb2.VerifyCardOwnershipResponse
    assert await told(door, "Cards/VerifyCardOwnership", request, response) == answer


@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        (CredentialsFacts(False, is_activated=True, failed_attempts=3), {}),
        (CredentialsFacts(True), {"verified": True, "login": {}}),
        (
            CredentialsFacts(True, False, False, NOON, 0),
            {
                "verified": True,
                "login": {
                    "activated": False,
                    "lastLoginTime": NOON_TEXT,
                    "failedLoginCount": 0,
                    "passwordChangeRequired": False,
                },
            },
        ),
    ],
)
async def test_of_a_wrong_password_nothing_else_is_told(
    door: Door, facts: CredentialsFacts, answer: dict[str, Any]
) -> None:
    door.engine.answers(facts)
    request = wallets_pb2.VerifyCredentialsRequest(
        account=ACCOUNT, password_hash="h", scheme="bcrypt"
    )
    response = wallets_pb2.VerifyCredentialsResponse
    assert await told(door, "Wallets/VerifyCredentials", request, response) == answer


# --- connections --------------------------------------------------------------------------------


async def test_a_connection_that_does_well_is_told_with_its_times(door: Door) -> None:
    door.engine.answers(calls.ConnectionCheck(True, True, 0.0215, -1.5))
    request = providers_pb2.CheckConnectionRequest(connection="cashassist")
    answer = await told(
        door, "Providers/CheckConnection", request, providers_pb2.CheckConnectionResponse
    )
    assert answer == {
        "reachable": True,
        "credentialsAccepted": True,
        "latency": "0.021500s",
        "clockSkew": "-1.500s",
    }


async def test_who_was_not_reached_has_not_judged_our_credentials(door: Door) -> None:
    error = LoyaltyError(Reason.PROVIDER_UNREACHABLE, "No.", connection="cashassist")
    door.engine.answers(calls.ConnectionCheck(False, False, 0.0, error=error))
    reply = await door.wire.call(
        "Providers/CheckConnection", providers_pb2.CheckConnectionRequest(connection="cashassist")
    )
    answer = providers_pb2.CheckConnectionResponse.FromString(reply.body)
    assert not answer.reachable
    assert not answer.HasField("credentials_accepted") and not answer.HasField("latency")
    info = error_details_pb2.ErrorInfo()
    answer.error.details[0].Unpack(info)
    assert info.reason == "PROVIDER_UNREACHABLE"


async def test_proven_promises_come_by_name(door: Door) -> None:
    source = calls.PromiseSource.PROVEN
    door.engine.answers(
        (
            calls.Promise("resend_is_safe", True, source, NOON, "Seen."),
            calls.Promise("keys_survive_rotation", False, source, NOON, "Not seen."),
            calls.Promise("declines_are_replayed", False, source, not_shown="Broken off."),
        )
    )
    request = providers_pb2.ProveConnectionRequest(connection="cashassist")
    answer = await told(
        door, "Providers/ProveConnection", request, providers_pb2.ProveConnectionResponse
    )
    assert [(it["name"], it["value"]) for it in answer["promises"]] == [
        ("declines_are_replayed", "no"),
        ("keys_survive_rotation", "no"),
        ("resend_is_safe", "yes"),
    ]
    assert [it.get("notShown") for it in answer["promises"]] == ["Broken off.", None, None]


async def test_a_capability_says_why(door: Door) -> None:
    note = "The vendor publishes no call for it."
    door.engine.answers(
        (calls.Capability(Operation.REVERSE_POINTS, Support.UNSUPPORTED, note=note),)
    )
    request = providers_pb2.GetCapabilitiesRequest(connection="cashassist")
    answer = await told(
        door, "Providers/GetCapabilities", request, providers_pb2.GetCapabilitiesResponse
    )
    noted = {it["method"]: it["note"] for it in answer["capabilities"] if "note" in it}
    assert noted == {"ReversePoints": note}


# --- bookings -----------------------------------------------------------------------------------

CREATED = CreatedAccount("k1.new", "***73", b"hash")
RESPONSES: dict[Operation, type[Message]] = {
    Operation.CREATE_CARD: cards_pb2.CreateCardResponse,
    Operation.UPDATE_CARD: cards_pb2.UpdateCardResponse,
    Operation.CREATE_WALLET: wallets_pb2.CreateWalletResponse,
    Operation.UPDATE_WALLET: wallets_pb2.UpdateWalletResponse,
    Operation.LINK_ACCOUNT: wallets_pb2.LinkAccountResponse,
    Operation.TOP_UP_BALANCE: balance_pb2.TopUpBalanceResponse,
    Operation.DEBIT_BALANCE: balance_pb2.DebitBalanceResponse,
    Operation.EARN_POINTS: points_pb2.EarnPointsResponse,
    Operation.REDEEM_POINTS: points_pb2.RedeemPointsResponse,
    Operation.REVERSE_POINTS: points_pb2.ReversePointsResponse,
    Operation.ACTIVATE_GIFT_CARD: gift_pb2.ActivateGiftCardResponse,
    Operation.TOP_UP_GIFT_CARD: gift_pb2.TopUpGiftCardResponse,
    Operation.PAY_WITH_GIFT_CARD: gift_pb2.PayWithGiftCardResponse,
    Operation.VOID_GIFT_TRANSACTION: gift_pb2.VoidGiftTransactionResponse,
    Operation.ADD_GIFT_TIP: gift_pb2.AddGiftTipResponse,
}


def succeeded(operation: Operation, **changes: Any) -> Booking:
    """A booking of any operation that has succeeded; none was asked for an amount."""
    facts: dict[str, Any] = {"order": Order(operation), "applied": None}
    return redemption(operation=operation, **(facts | changes))


def answered(booking: Booking, receipt: Receipt | None) -> Any:
    """The whole answer: what is stored in plain, and behind it what is kept sealed."""
    codec = WireAnswerCodec()
    body = codec.encode_answer(booking, receipt)
    if receipt is not None:
        body += codec.encode_private(booking, receipt)
    assert booking.operation is not None
    return MessageToDict(RESPONSES[booking.operation].FromString(body))


@pytest.mark.parametrize("operation", sorted(BOOKING_OPERATIONS))
def test_every_booking_is_answered_in_its_own_message(operation: Operation) -> None:
    (rpc,) = (it for it in join_catalog() if it.name.endswith(operation.value.replace(".", "/")))
    assert RESPONSES[operation].DESCRIPTOR is rpc.descriptor.output_type
    booking = answered(succeeded(operation), Receipt())["booking"]
    assert (booking["service"], booking["method"]) == (operation.service, operation.method)
    assert "asked" not in booking and "applied" not in booking


@pytest.mark.parametrize("operation", sorted(BOOKING_OPERATIONS))
def test_the_stored_part_of_an_answer_holds_nothing_personal(operation: Operation) -> None:
    body = WireAnswerCodec().encode_answer(succeeded(operation), Receipt(card=FACTS))
    assert not [text for text in PERSONAL if text.encode() in body]
    assert CARD.encode() not in body


@pytest.mark.parametrize("operation", [Operation.CREATE_CARD, Operation.UPDATE_CARD])
def test_a_card_that_was_made_or_changed_is_answered_whole(operation: Operation) -> None:
    answer = answered(succeeded(operation), Receipt(card=FACTS))
    assert answer["card"] == CARD_TOLD


@pytest.mark.parametrize("operation", [Operation.CREATE_WALLET, Operation.UPDATE_WALLET])
def test_a_wallet_that_was_made_or_changed_is_answered_whole(operation: Operation) -> None:
    answer = answered(succeeded(operation), Receipt(card=FACTS))
    assert answer["wallet"] == WALLET_TOLD


@pytest.mark.parametrize("operation", [Operation.CREATE_CARD, Operation.CREATE_WALLET])
def test_an_account_that_was_made_is_the_bookings_own(operation: Operation) -> None:
    booking = succeeded(operation, account_token="", masked_id="", created=CREATED)
    answer = answered(booking, Receipt(card=CardFacts("10473")))
    made = {"connection": "cashassist", "token": "k1.new", "maskedId": "***73"}
    assert answer["booking"]["account"] == made
    assert answer.get("card", answer.get("wallet"))["account"] == made


@pytest.mark.parametrize("operation", [Operation.CREATE_CARD, Operation.CREATE_WALLET])
def test_an_account_that_is_not_made_yet_is_not_told(operation: Operation) -> None:
    booking = succeeded(operation, account_token="", masked_id="", state=State.IN_DOUBT)
    message = types_pb2.Booking()
    message.MergeFrom(
        RESPONSES[operation]
        .FromString(  # type: ignore[attr-defined]
            WireAnswerCodec().encode_answer(booking)
        )
        .booking
    )
    assert not message.HasField("account")


@pytest.mark.parametrize("operation", [Operation.CREATE_CARD, Operation.UPDATE_WALLET])
def test_a_persons_decision_answers_the_account_and_no_more(operation: Operation) -> None:
    answer = answered(succeeded(operation), None)
    assert answer.get("card", answer.get("wallet")) == {"account": SEEN}


@pytest.mark.parametrize("operation", [Operation.CREATE_CARD, Operation.UPDATE_WALLET])
def test_a_booking_that_was_only_checked_shows_no_account_as_made(operation: Operation) -> None:
    answer = answered(succeeded(operation, booking_id="", state=State.RESERVED), None)
    assert set(answer) == {"booking"}


def test_points_earned_by_a_purchase_are_applied_though_none_were_asked_for() -> None:
    booking = succeeded(Operation.EARN_POINTS, applied=Points(0))
    told = answered(booking, Receipt())["booking"]
    assert told["applied"] == {"points": {}}
    assert "asked" not in told


@pytest.mark.parametrize(("applied_minor", "due"), [(2000, {}), (1500, {"units": "5"})])
def test_a_payment_with_a_gift_card_tells_what_is_still_due(
    applied_minor: int, due: dict[str, str]
) -> None:
    operation = Operation.PAY_WITH_GIFT_CARD
    booking = succeeded(
        operation,
        order=Order(operation, asked=Money("CHF", 2000), allow_partial=True),
        applied=Money("CHF", applied_minor),
    )
    assert answered(booking, Receipt())["remainingDue"] == {"currencyCode": "CHF", **due}


def test_a_booking_names_what_it_undoes_and_what_undoes_it() -> None:
    booking = succeeded(
        Operation.REVERSE_POINTS,
        original_booking="bookings/a",
        undo_bookings=("bookings/b", "bookings/c"),
        is_reversible=True,
    )
    told = answered(booking, Receipt())["booking"]
    assert told["originalBooking"] == "bookings/a"
    assert told["undoBookings"] == ["bookings/b", "bookings/c"]
    assert told["reversible"] is True
