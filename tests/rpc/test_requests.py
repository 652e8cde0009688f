"""What a caller asks for reaches the booking room whole, and what cannot be meant does not."""

from dataclasses import replace
from datetime import date
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.type.date_pb2 import Date

from loyalty.v1 import (
    balance_pb2,
    cards_pb2,
    gift_pb2,
    points_pb2,
    providers_pb2,
    types_pb2,
    wallets_pb2,
)
from loyalty_gateway.booking.calls import (
    AccountKey,
    BookingCall,
    CardSearch,
    ChallengeCall,
    CodeCall,
    CredentialsCall,
    OriginalKey,
    OwnershipCall,
    ReadCall,
)
from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.operations import (
    ChallengePurpose,
    EntryMode,
    External,
    Operation,
    Person,
    Purchase,
    Sale,
)
from loyalty_gateway.rpc.catalog import SERVICES
from tests.rpc.conftest import Door
from tests.rpc.fakes import BOOKING_ID, CARD, NOON

REQUEST_ID = "till-7-000123"
ACCOUNT = types_pb2.AccountRef(connection="cashassist", id=CARD)
KEY = AccountKey("cashassist", plain_id=CARD)
FRANCS: dict[str, Any] = {"currency_code": "CHF", "units": 12, "nanos": 500_000_000}
PAYMENT_CARD = "4111 1111 1111 1111"

PROFILE = types_pb2.Profile(
    display_name="Max Muster",
    given_name="Max",
    family_name="Muster",
    phone="+41790000000",
    email="max@example.com",
    birth_date=Date(year=1980, month=2, day=29),
    attributes={"gender": "M", "city": "Bern"},
)
PERSON = Person(
    "Max Muster",
    "Max",
    "Muster",
    "+41790000000",
    "max@example.com",
    date(1980, 2, 29),
    (("city", "Bern"), ("gender", "M")),
)
PROFILE_PATHS = {
    *(f"{field.name}" for field in types_pb2.Profile.DESCRIPTOR.fields),
    "attributes.gender",
    "attributes.city",
}


def booking(operation: Operation, *filled: str, **business: Any) -> BookingCall:
    return BookingCall(
        tenant="default",
        operation=operation,
        request_id=REQUEST_ID,
        deadline=0.0,
        filled_fields=frozenset({"request_id", *filled}),
        **{"account": KEY, **business},
    )


def read(operation: Operation, *filled: str, **business: Any) -> ReadCall:
    return ReadCall(
        tenant="default",
        operation=operation,
        deadline=0.0,
        filled_fields=frozenset(filled),
        **{"account": KEY, **business},
    )


def under(part: str, paths: "set[str] | tuple[str, ...]") -> tuple[str, ...]:
    return (part, *(f"{part}.{path}" for path in paths))


def purchase() -> points_pb2.Purchase:
    message = points_pb2.Purchase(amount=FRANCS, product_code="FUEL", attributes={"pump": "4"})
    message.time.FromDatetime(NOON)
    return message


BY_BOOKING = types_pb2.Original(booking=f"bookings/{BOOKING_ID}")
BY_NUMBER = types_pb2.Original(
    provider_reference=types_pb2.OriginalReference(
        connection="connections/loyalife", kind="external_reference", value="9F1C"
    )
)
CARD_MESSAGE = cards_pb2.Card(
    type="GOLD",
    holder=cards_pb2.Holder(given_name="Max"),
    attributes={"city": "Bern"},
    # What a caller cannot set is ignored.
    tier="PLATINUM",
)

MEANT: list[tuple[str, Message, Any]] = [
    (
        "Cards/SearchCards",
        cards_pb2.SearchCardsRequest(
            connection="connections/cardsapi",
            scan=cards_pb2.Scan(entry_mode=types_pb2.ENTRY_MODE_PROXIMITY, value="04A2"),
            store=cards_pb2.StoreScope(store_id="7", point_of_sale_id="65"),
            page=types_pb2.Page(page_size=3, page_token="t"),
        ),
        read(
            Operation.SEARCH_CARDS,
            *("connection", "page"),
            *under("scan", ("entry_mode", "value")),
            *under("store", ("store_id", "point_of_sale_id")),
            account=AccountKey("cardsapi"),
            search=CardSearch(
                scan_entry_mode=EntryMode.PROXIMITY,
                scan_value="04A2",
                store_id="7",
                point_of_sale_id="65",
            ),
            page_size=3,
            page_token="t",
        ),
    ),
    (
        "Cards/SearchCards",
        cards_pb2.SearchCardsRequest(
            connection="loyalife",
            attribute=cards_pb2.Attribute(name="passport", value="X1"),
            group_id="4",
        ),
        read(
            Operation.SEARCH_CARDS,
            *("connection", "group_id"),
            *under("attribute", ("name", "value")),
            account=AccountKey("loyalife"),
            search=CardSearch(attribute_name="passport", attribute_value="X1", group_id="4"),
        ),
    ),
    (
        "Cards/CreateCard",
        cards_pb2.CreateCardRequest(
            connection="loyalife",
            account_id="M-1",
            card=CARD_MESSAGE,
            proof_token="proof",
            request_id=REQUEST_ID,
        ),
        booking(
            Operation.CREATE_CARD,
            *("connection", "account_id", "proof_token"),
            *under("card", ("type", "holder", "holder.given_name", "tier")),
            *("card.attributes", "card.attributes.city"),
            account=AccountKey("loyalife", plain_id="M-1"),
            card_type="GOLD",
            person=Person(given_name="Max", attributes=(("city", "Bern"),)),
            proof_token="proof",
        ),
    ),
    (
        "Cards/CreateCard",
        cards_pb2.CreateCardRequest(connection="cashassist", request_id=REQUEST_ID),
        booking(
            Operation.CREATE_CARD,
            "connection",
            account=AccountKey("cashassist"),
            person=Person(),
        ),
    ),
    (
        "Cards/VerifyCardOwnership",
        cards_pb2.VerifyCardOwnershipRequest(
            account=ACCOUNT,
            receipt=cards_pb2.PurchaseReceipt(
                number="2026-000815", date=Date(year=2026, month=1, day=14), amount=FRANCS
            ),
        ),
        OwnershipCall(
            tenant="default",
            account=KEY,
            receipt_number="2026-000815",
            receipt_date=date(2026, 1, 14),
            receipt_amount=Money("CHF", 1250),
            deadline=0.0,
            filled_fields=frozenset(
                {"account", *under("receipt", ("number", "date", "amount"))},
            ),
        ),
    ),
    (
        "Cards/ListTransactionItems",
        cards_pb2.ListTransactionItemsRequest(account=ACCOUNT, transaction_reference="tx_90001"),
        read(
            Operation.LIST_TRANSACTION_ITEMS,
            *("account", "transaction_reference"),
            transaction_reference="tx_90001",
        ),
    ),
    (
        "Wallets/CreateChallenge",
        wallets_pb2.CreateChallengeRequest(
            connection="cashassist",
            purpose=wallets_pb2.CHALLENGE_PURPOSE_SIGN_UP,
            phone="+41790000000",
            profile=PROFILE,
            request_id=REQUEST_ID,
        ),
        ChallengeCall(
            tenant="default",
            connection="cashassist",
            purpose=ChallengePurpose.SIGN_UP,
            request_id=REQUEST_ID,
            deadline=0.0,
            phone="+41790000000",
            person=PERSON,
            filled_fields=frozenset(
                {
                    *("connection", "purpose", "phone", "request_id"),
                    *under("profile", PROFILE_PATHS),
                }
            ),
        ),
    ),
    (
        "Wallets/CreateChallenge",
        wallets_pb2.CreateChallengeRequest(
            connection="connections/cashassist",
            purpose=wallets_pb2.CHALLENGE_PURPOSE_LOG_IN,
            account=ACCOUNT,
            request_id=REQUEST_ID,
        ),
        ChallengeCall(
            tenant="default",
            connection="cashassist",
            purpose=ChallengePurpose.LOG_IN,
            request_id=REQUEST_ID,
            deadline=0.0,
            account=KEY,
            filled_fields=frozenset({"connection", "purpose", "account", "request_id"}),
        ),
    ),
    (
        "Wallets/VerifyChallenge",
        wallets_pb2.VerifyChallengeRequest(challenge_token="c", code="000123"),
        CodeCall(tenant="default", challenge_token="c", code="000123", deadline=0.0),
    ),
    (
        "Wallets/CreateWallet",
        wallets_pb2.CreateWalletRequest(
            connection="cashassist", profile=PROFILE, proof_token="proof", request_id=REQUEST_ID
        ),
        booking(
            Operation.CREATE_WALLET,
            *("connection", "proof_token"),
            *under("profile", PROFILE_PATHS),
            account=AccountKey("cashassist"),
            person=PERSON,
            proof_token="proof",
        ),
    ),
    (
        "Wallets/GetWallet",
        wallets_pb2.GetWalletRequest(account=ACCOUNT),
        read(Operation.GET_WALLET, "account"),
    ),
    (
        "Wallets/LinkAccount",
        wallets_pb2.LinkAccountRequest(
            account=ACCOUNT,
            external=wallets_pb2.LinkedAccount(kind="device", id="d-1"),
            proof_token="proof",
            request_id=REQUEST_ID,
        ),
        booking(
            Operation.LINK_ACCOUNT,
            *("account", "proof_token"),
            *under("external", ("kind", "id")),
            external=External("device", "d-1"),
            proof_token="proof",
        ),
    ),
    (
        "Wallets/ListLinkedAccounts",
        wallets_pb2.ListLinkedAccountsRequest(account=ACCOUNT, page=types_pb2.Page(page_size=2)),
        read(Operation.LIST_LINKED_ACCOUNTS, "account", "page", page_size=2),
    ),
    (
        "Wallets/VerifyCredentials",
        wallets_pb2.VerifyCredentialsRequest(
            account=ACCOUNT, password_hash="$2b$12$abc", scheme="bcrypt"
        ),
        CredentialsCall(
            tenant="default",
            account=KEY,
            password_hash="$2b$12$abc",
            scheme="bcrypt",
            deadline=0.0,
        ),
    ),
    (
        "Points/EarnPoints",
        points_pb2.EarnPointsRequest(
            account=ACCOUNT,
            points=types_pb2.PointsAmount(value=7),
            sale=types_pb2.Sale(order_id="A-1"),
            request_id=REQUEST_ID,
        ),
        booking(
            Operation.EARN_POINTS,
            "account",
            *under("points", ("value",)),
            *under("sale", ("order_id",)),
            asked=Points(7),
            sale=Sale(order_id="A-1"),
        ),
    ),
    (
        "Points/EarnPoints",
        points_pb2.EarnPointsRequest(account=ACCOUNT, purchase=purchase(), request_id=REQUEST_ID),
        booking(
            Operation.EARN_POINTS,
            "account",
            *under("purchase", ("amount", "product_code", "time")),
            *("purchase.attributes", "purchase.attributes.pump"),
            purchase=Purchase(Money("CHF", 1250), "FUEL", time=NOON, attributes=(("pump", "4"),)),
        ),
    ),
    (
        "Points/ReversePoints",
        points_pb2.ReversePointsRequest(original=BY_BOOKING, request_id=REQUEST_ID),
        booking(
            Operation.REVERSE_POINTS,
            "original",
            account=AccountKey(""),
            original=OriginalKey(booking_id=BOOKING_ID),
        ),
    ),
    (
        "Points/ReversePoints",
        points_pb2.ReversePointsRequest(original=BY_NUMBER, request_id=REQUEST_ID),
        booking(
            Operation.REVERSE_POINTS,
            "original",
            account=AccountKey(""),
            original=OriginalKey(
                reference_connection="loyalife",
                reference_kind="external_reference",
                reference_value="9F1C",
            ),
        ),
    ),
    (
        "Points/ListExpiringPoints",
        points_pb2.ListExpiringPointsRequest(account=ACCOUNT, year=2027),
        read(Operation.LIST_EXPIRING_POINTS, "account", "year", year=2027),
    ),
    (
        "Gift/ActivateGiftCard",
        gift_pb2.ActivateGiftCardRequest(account=ACCOUNT, request_id=REQUEST_ID),
        booking(Operation.ACTIVATE_GIFT_CARD, "account", activate=True),
    ),
    (
        "Gift/ActivateGiftCard",
        gift_pb2.ActivateGiftCardRequest(
            account=ACCOUNT, activate=False, holder=PROFILE, request_id=REQUEST_ID
        ),
        booking(
            Operation.ACTIVATE_GIFT_CARD,
            *("account", "activate"),
            *under("holder", PROFILE_PATHS),
            activate=False,
            person=PERSON,
        ),
    ),
    (
        "Gift/GetGiftCard",
        gift_pb2.GetGiftCardRequest(account=ACCOUNT),
        read(Operation.GET_GIFT_CARD, "account"),
    ),
    (
        "Gift/TopUpGiftCard",
        gift_pb2.TopUpGiftCardRequest(account=ACCOUNT, amount=FRANCS, request_id=REQUEST_ID),
        booking(Operation.TOP_UP_GIFT_CARD, *("account", "amount"), asked=Money("CHF", 1250)),
    ),
    (
        "Gift/TopUpGiftCard",
        gift_pb2.TopUpGiftCardRequest(
            account=ACCOUNT, amount=FRANCS, activate=True, request_id=REQUEST_ID
        ),
        booking(
            Operation.TOP_UP_GIFT_CARD,
            *("account", "amount", "activate"),
            asked=Money("CHF", 1250),
            activate=True,
        ),
    ),
    (
        "Gift/PayWithGiftCard",
        gift_pb2.PayWithGiftCardRequest(
            account=types_pb2.AccountRef(
                connection="cashassist", id=CARD, entry_mode=types_pb2.ENTRY_MODE_BARCODE
            ),
            amount=FRANCS,
            allow_partial=True,
            request_id=REQUEST_ID,
        ),
        booking(
            Operation.PAY_WITH_GIFT_CARD,
            *("account", "account.entry_mode", "amount", "allow_partial"),
            account=replace(KEY, entry_mode=EntryMode.BARCODE),
            asked=Money("CHF", 1250),
            allow_partial=True,
        ),
    ),
    (
        "Gift/VoidGiftTransaction",
        gift_pb2.VoidGiftTransactionRequest(
            original=types_pb2.Original(request_id="till-7-000122"), request_id=REQUEST_ID
        ),
        booking(
            Operation.VOID_GIFT_TRANSACTION,
            "original",
            account=AccountKey(""),
            original=OriginalKey(request_id="till-7-000122"),
        ),
    ),
    (
        "Gift/AddGiftTip",
        gift_pb2.AddGiftTipRequest(
            original=BY_BOOKING, account=ACCOUNT, amount=FRANCS, request_id=REQUEST_ID
        ),
        booking(
            Operation.ADD_GIFT_TIP,
            *("original", "account", "amount"),
            asked=Money("CHF", 1250),
            original=OriginalKey(booking_id=BOOKING_ID),
        ),
    ),
    (
        "Providers/CheckConnection",
        providers_pb2.CheckConnectionRequest(connection="connections/cashassist"),
        ("default", "cashassist"),
    ),
    (
        "Providers/ProveConnection",
        providers_pb2.ProveConnectionRequest(connection="connections/cashassist"),
        ("default", "cashassist"),
    ),
]


@pytest.mark.parametrize(
    ("method", "request_", "meant"), MEANT, ids=[method for method, _, _ in MEANT]
)
async def test_a_request_reaches_the_engine_as_it_was_meant(
    door: Door, method: str, request_: Message, meant: Any
) -> None:
    await door.wire.call(method, request_)
    (call,) = door.engine.calls
    assert (call if isinstance(call, tuple) else replace(call, deadline=0.0)) == meant


def test_every_rpc_that_reaches_a_provider_is_tried_here_or_beside() -> None:
    beside = {"GetCard", "ListTransactions", "GetBalance", "GetPointsStatement"}
    beside |= {"TopUpBalance", "DebitBalance", "RedeemPoints", "UpdateCard", "UpdateWallet"}
    tried = {method.partition("/")[2] for method, _, _ in MEANT} | beside
    own = {"ListConnections", "GetCapabilities"}
    assert tried | own == {
        method.name
        for service in SERVICES
        for method in service.methods
        if service.name != "Bookings"
    }


# --- updates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "card", "fields"),
    [
        (["type"], cards_pb2.Card(), ("type",)),
        (["holder"], cards_pb2.Card(), ("display_name", "given_name", "family_name")),
        (
            ["attributes", "holder.given_name", "attributes"],
            CARD_MESSAGE,
            ("attributes", "given_name"),
        ),
        (
            ["holder.given_name", "holder"],
            CARD_MESSAGE,
            ("given_name", "display_name", "family_name"),
        ),
        ([], CARD_MESSAGE, ("type", "attributes", "given_name")),
    ],
)
async def test_an_update_of_a_card_sets_what_the_mask_names_else_what_is_filled(
    door: Door, paths: list[str], card: cards_pb2.Card, fields: tuple[str, ...]
) -> None:
    request = cards_pb2.UpdateCardRequest(
        account=ACCOUNT, card=card, update_mask=FieldMask(paths=paths), request_id=REQUEST_ID
    )
    await door.wire.call("Cards/UpdateCard", request)
    (call,) = door.engine.calls
    assert call.update_mask == fields
    assert call.card_type == card.type
    assert call.person == Person(
        given_name=card.holder.given_name, attributes=tuple(card.attributes.items())
    )


@pytest.mark.parametrize(
    ("paths", "fields"),
    [
        (["email", "birth_date"], ("email", "birth_date")),
        ([], tuple(field.name for field in types_pb2.Profile.DESCRIPTOR.fields)),
    ],
)
async def test_an_update_of_a_wallet_sets_what_the_mask_names_else_what_is_filled(
    door: Door, paths: list[str], fields: tuple[str, ...]
) -> None:
    request = wallets_pb2.UpdateWalletRequest(
        account=ACCOUNT, profile=PROFILE, update_mask=FieldMask(paths=paths), request_id=REQUEST_ID
    )
    await door.wire.call("Wallets/UpdateWallet", request)
    (call,) = door.engine.calls
    assert (call.update_mask, call.person) == (fields, PERSON)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (
            "Cards/UpdateCard",
            cards_pb2.UpdateCardRequest(
                account=ACCOUNT, card=cards_pb2.Card(tier="GOLD"), request_id=REQUEST_ID
            ),
        ),
        (
            "Wallets/UpdateWallet",
            wallets_pb2.UpdateWalletRequest(
                account=ACCOUNT, profile=types_pb2.Profile(), request_id=REQUEST_ID
            ),
        ),
    ],
)
async def test_an_update_that_changes_nothing_is_refused(
    door: Door, method: str, request_: Message
) -> None:
    reply = await door.wire.call(method, request_)
    assert list(reply.violations) == ["update_mask"]
    assert door.engine.calls == []


# --- what is refused ----------------------------------------------------------------------------


REFUSED: list[tuple[str, Message, str]] = [
    (
        "Cards/UpdateCard",
        cards_pb2.UpdateCardRequest(
            account=ACCOUNT,
            card=CARD_MESSAGE,
            update_mask=FieldMask(paths=["balances"]),
            request_id=REQUEST_ID,
        ),
        "update_mask",
    ),
    (
        "Cards/CreateCard",
        cards_pb2.CreateCardRequest(
            connection="a", account_id=";4111111111111111=2512?", request_id=REQUEST_ID
        ),
        "account_id",
    ),
    (
        "Cards/CreateCard",
        cards_pb2.CreateCardRequest(
            connection="a",
            card=cards_pb2.Card(attributes={"note": PAYMENT_CARD}),
            request_id=REQUEST_ID,
        ),
        "card.attributes",
    ),
    (
        "Cards/CreateCard",
        cards_pb2.CreateCardRequest(
            connection="a",
            card=cards_pb2.Card(holder=cards_pb2.Holder(display_name=PAYMENT_CARD)),
            request_id=REQUEST_ID,
        ),
        "card.holder.display_name",
    ),
    (
        "Cards/SearchCards",
        cards_pb2.SearchCardsRequest(
            connection="a", scan=cards_pb2.Scan(value="%B4111111111111111^MUSTER")
        ),
        "scan.value",
    ),
    (
        "Cards/VerifyCardOwnership",
        cards_pb2.VerifyCardOwnershipRequest(
            account=ACCOUNT,
            receipt=cards_pb2.PurchaseReceipt(
                number="1", date=Date(year=2026, month=2, day=29), amount=FRANCS
            ),
        ),
        "receipt.date",
    ),
    (
        "Cards/VerifyCardOwnership",
        cards_pb2.VerifyCardOwnershipRequest(
            account=ACCOUNT,
            receipt=cards_pb2.PurchaseReceipt(number="1", amount={**FRANCS, "nanos": 1}),
        ),
        "receipt.amount",
    ),
    (
        "Wallets/CreateChallenge",
        wallets_pb2.CreateChallengeRequest(
            connection="other",
            purpose=wallets_pb2.CHALLENGE_PURPOSE_LOG_IN,
            account=ACCOUNT,
            request_id=REQUEST_ID,
        ),
        "account.connection",
    ),
    (
        "Wallets/CreateChallenge",
        wallets_pb2.CreateChallengeRequest(
            connection="a",
            purpose=wallets_pb2.CHALLENGE_PURPOSE_LOG_IN,
            phone="+41790000000",
            request_id="4111111111111111",
        ),
        "request_id",
    ),
    (
        "Wallets/CreateWallet",
        wallets_pb2.CreateWalletRequest(
            connection="a",
            profile=types_pb2.Profile(attributes={PAYMENT_CARD: "x"}),
            request_id=REQUEST_ID,
        ),
        "profile.attributes",
    ),
    (
        "Wallets/CreateWallet",
        wallets_pb2.CreateWalletRequest(
            connection="a",
            profile=types_pb2.Profile(birth_date=Date(year=1981, month=2, day=29)),
            request_id=REQUEST_ID,
        ),
        "profile.birth_date",
    ),
    (
        "Wallets/UpdateWallet",
        wallets_pb2.UpdateWalletRequest(
            account=ACCOUNT,
            profile=PROFILE,
            update_mask=FieldMask(paths=["*"]),
            request_id=REQUEST_ID,
        ),
        "update_mask",
    ),
    (
        "Points/EarnPoints",
        points_pb2.EarnPointsRequest(
            account=ACCOUNT,
            purchase=points_pb2.Purchase(amount=FRANCS, product_code=PAYMENT_CARD),
            request_id=REQUEST_ID,
        ),
        "purchase.product_code",
    ),
    (
        "Points/EarnPoints",
        points_pb2.EarnPointsRequest(
            account=ACCOUNT,
            purchase=points_pb2.Purchase(amount={**FRANCS, "currency_code": "XXX"}),
            request_id=REQUEST_ID,
        ),
        "purchase.amount.currency_code",
    ),
    (
        "Gift/ActivateGiftCard",
        gift_pb2.ActivateGiftCardRequest(
            account=ACCOUNT,
            holder=types_pb2.Profile(attributes={"address1": PAYMENT_CARD}),
            request_id=REQUEST_ID,
        ),
        "holder.attributes",
    ),
    (
        "Gift/VoidGiftTransaction",
        gift_pb2.VoidGiftTransactionRequest(
            original=BY_BOOKING,
            sale=types_pb2.Sale(ticket_number=PAYMENT_CARD),
            request_id=REQUEST_ID,
        ),
        "sale.ticket_number",
    ),
    (
        "Balance/TopUpBalance",
        balance_pb2.TopUpBalanceRequest(
            account=ACCOUNT,
            amount=FRANCS,
            sale=types_pb2.Sale(caller_reference=PAYMENT_CARD),
            request_id=REQUEST_ID,
        ),
        "sale.caller_reference",
    ),
]


@pytest.mark.parametrize(
    ("method", "request_", "field"), REFUSED, ids=[f"{field}" for _, _, field in REFUSED]
)
async def test_what_cannot_be_meant_is_refused_by_its_field(
    door: Door, method: str, request_: Message, field: str
) -> None:
    reply = await door.wire.call(method, request_)
    assert reply.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(reply.violations) == [field]
    assert b"1111" not in b"".join(reply.violations[field].encode() for field in reply.violations)
    assert door.engine.calls == []


async def test_a_phone_an_id_and_a_token_are_no_free_texts(door: Door) -> None:
    """Numbers that pass for a payment card's are ordinary there, and none is kept in plain."""
    request = wallets_pb2.CreateWalletRequest(
        connection="a",
        account_id="4111111111111111",
        profile=types_pb2.Profile(phone="374245455400126"),
        proof_token="4111111111111111",
        request_id=REQUEST_ID,
    )
    await door.wire.call("Wallets/CreateWallet", request)
    assert len(door.engine.calls) == 1


async def test_a_challenge_with_a_field_that_the_contract_lacks_is_refused(door: Door) -> None:
    request = wallets_pb2.VerifyChallengeRequest(challenge_token="c", code="1")
    later = request.SerializeToString() + b"\xfa\x3f\x01x"
    reply = await door.wire.call("Wallets/VerifyChallenge", later)
    assert reply.code is grpc.StatusCode.INVALID_ARGUMENT
    assert door.engine.calls == []


async def test_the_door_breaks_no_challenge_off(door: Door) -> None:
    """Only the engine can say whether a code was sent, so only the engine keeps the deadline."""
    door.engine.hangs()
    request = MEANT[[method for method, _, _ in MEANT].index("Wallets/CreateChallenge")][1]
    reply = await door.wire.call("Wallets/CreateChallenge", request, timeout=0.3)
    # What the caller sees is its own library's word and not one of ours.
    assert reply.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reply.status is None
