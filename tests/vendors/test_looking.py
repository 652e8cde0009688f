"""How accounts and their past are looked for: every kind of number, scope, page and interval."""

from datetime import UTC, datetime
from typing import Any, Final

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from loyalty.v1 import cards_pb2, types_pb2, wallets_pb2
from tests.e2e.caller import new_request_id
from tests.vendors.asking import FACTS, ask
from tests.vendors.house import House

KEYED, BARCODE = types_pb2.ENTRY_MODE_KEYED, types_pb2.ENTRY_MODE_BARCODE
PROXIMITY, MAGNETIC = types_pb2.ENTRY_MODE_PROXIMITY, types_pb2.ENTRY_MODE_MAGNETIC
STORE_12: Final = cards_pb2.StoreScope(store_id="12", point_of_sale_id="65")
STORE_13: Final = cards_pb2.StoreScope(store_id="13", point_of_sale_id="70")


def _scan(
    connection: str, mode: types_pb2.EntryMode.ValueType, value: str, **scope: Any
) -> cards_pb2.SearchCardsRequest:
    scan = cards_pb2.Scan(entry_mode=mode, value=value)
    return cards_pb2.SearchCardsRequest(connection=connection, scan=scan, **scope)


@pytest.mark.parametrize(
    ("request_", "family_name"),
    [
        (_scan("cardsapi", KEYED, "30001"), "Durand"),
        (_scan("cardsapi", BARCODE, "3760000000017"), "Durand"),
        (_scan("cardsapi", PROXIMITY, "04A2245B6C1D80"), "Durand"),
        (_scan("cardsapi", KEYED, "30006"), ""),
        (_scan("cardsapi", KEYED, "30006", group_id="2"), "Ailleurs"),
        (_scan("cardsapi", KEYED, "30001", group_id="2"), ""),
        (_scan("cardsapi", KEYED, "30001", store=STORE_12), "Durand"),
        (_scan("cardsapi", KEYED, "30006", store=STORE_13), "Ailleurs"),
        (_scan("cardsapi", KEYED, "30006", store=STORE_12), ""),
        (_scan("cardsapi", BARCODE, "30001"), ""),
        (_scan("cashassist", KEYED, "99999"), ""),
        (_scan("loyalife", KEYED, "m_0000"), ""),
        (_scan("openloyaltypay", KEYED, "99999"), ""),
    ],
)
async def test_a_search_finds_what_was_read_off_the_card_in_its_scope_or_nothing(
    house: House, request_: cards_pb2.SearchCardsRequest, family_name: str
) -> None:
    reply = await house.call(request_)

    assert reply.is_ok, str(reply)
    names = [it.holder.family_name for it in reply.response.cards]
    assert names == ([family_name] if family_name else [])
    assert request_.scan.value.encode() not in reply.body


async def test_a_stripe_is_not_looked_for_where_the_vendor_knows_none(house: House) -> None:
    reply = await house.call(_scan("cardsapi", MAGNETIC, "30001"))

    assert (reply.code, reply.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert house.vendors["cardsapi"].recorder.seen == []


@pytest.mark.parametrize(
    "query",
    [
        {"scan": cards_pb2.Scan(entry_mode=KEYED, value="m_8124")},
        {"email": "m8124@example.com"},
        {"phone": "+919876512345"},
        {"attribute": cards_pb2.Attribute(name="mobile_number", value="+919876512345")},
    ],
    ids=lambda query: next(iter(query)),
)
async def test_a_member_is_found_by_whatever_is_its_own(house: House, query: Any) -> None:
    reply = await house.call(cards_pb2.SearchCardsRequest(connection="loyalife", **query))

    assert reply.is_ok, str(reply)
    assert [it.holder.display_name for it in reply.response.cards] == ["Asha Rao"]


@pytest.mark.parametrize("connection", ["cashassist", "cardsapi", "openloyaltypay"])
async def test_a_person_is_not_looked_for_where_only_cards_are_found(
    house: House, connection: str
) -> None:
    reply = await house.call(
        cards_pb2.SearchCardsRequest(connection=connection, email="conny@example.org")
    )

    assert (reply.code, reply.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "FIELD_REQUIRED_BY_PROVIDER",
    )
    assert house.vendors[connection].recorder.seen == []


# --- the past -----------------------------------------------------------------------------------

BOOKED_BY: Final = {"cashassist": "Balance.TopUpBalance", "loyalife": "Points.RedeemPoints"}


@pytest.mark.parametrize("connection", BOOKED_BY)
async def test_our_own_bookings_are_named_in_the_history(house: House, connection: str) -> None:
    done = await house.call(await ask(house, (BOOKED_BY[connection], connection)))
    assert done.is_ok, str(done)

    reply = await house.call(cards_pb2.ListTransactionsRequest(account=FACTS[connection].account))

    newest = reply.response.transactions[0]
    assert newest.booking == done.booking.name
    assert newest.reference == done.booking.provider_references[0].value


@pytest.mark.parametrize("connection", BOOKED_BY)
@pytest.mark.parametrize("size", [1, 2])
async def test_pages_are_the_whole_history_each_line_once(
    house: House, connection: str, size: int
) -> None:
    account = FACTS[connection].seen
    whole = await house.call(cards_pb2.ListTransactionsRequest(account=account))
    found: list[cards_pb2.Transaction] = []
    token = ""
    while True:
        page = types_pb2.Page(page_size=size, page_token=token)
        reply = await house.call(cards_pb2.ListTransactionsRequest(account=account, page=page))
        assert reply.is_ok, str(reply)
        assert len(reply.response.transactions) <= size
        found += reply.response.transactions
        token = reply.response.next_page_token
        if not token:
            break

    assert [it.reference for it in found] == [it.reference for it in whole.response.transactions]
    assert len(found) > size


@pytest.mark.parametrize("connection", BOOKED_BY)
async def test_an_interval_holds_its_start_and_not_its_end(house: House, connection: str) -> None:
    account = FACTS[connection].seen
    whole = await house.call(cards_pb2.ListTransactionsRequest(account=account))
    newest, *older = whole.response.transactions
    interval = types_pb2.Interval(start_time=older[-1].time, end_time=newest.time)

    reply = await house.call(cards_pb2.ListTransactionsRequest(account=account, interval=interval))

    references = [it.reference for it in reply.response.transactions]
    assert references == [it.reference for it in older]


async def test_a_page_token_of_one_question_is_none_of_another(house: House) -> None:
    page = types_pb2.Page(page_size=1)
    first = await house.call(
        cards_pb2.ListTransactionsRequest(account=FACTS["cashassist"].seen, page=page)
    )
    page.page_token = first.response.next_page_token

    reply = await house.call(
        cards_pb2.ListTransactionsRequest(account=FACTS["cashassist"].account, page=page)
    )

    assert (reply.code, reply.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")


async def test_a_transaction_that_the_vendor_does_not_know_has_no_items(house: House) -> None:
    reply = await house.call(
        cards_pb2.ListTransactionItemsRequest(
            account=FACTS["cashassist"].seen, transaction_reference="tx_1"
        )
    )

    assert (reply.code, reply.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_an_interval_of_nothing_is_a_statement_of_nothing(house: House) -> None:
    start, end = Timestamp(), Timestamp()
    start.FromDatetime(datetime(2026, 2, 1, tzinfo=UTC))
    end.FromDatetime(datetime(2026, 2, 2, tzinfo=UTC))
    request: Any = await ask(house, ("Points.GetPointsStatement", "cashassist"))
    request.interval.CopyFrom(types_pb2.Interval(start_time=start, end_time=end))

    reply = await house.call(request)

    assert reply.is_ok, str(reply)
    assert (reply.response.earned.value, reply.response.redeemed.value) == (0, 0)
    assert not reply.response.HasField("closing")


# --- masks --------------------------------------------------------------------------------------


async def test_a_mask_changes_what_it_names_and_nothing_else(house: House) -> None:
    facts = FACTS["cashassist"]

    async def rename(paths: list[str], **names: str) -> Any:
        reply = await house.call(
            cards_pb2.UpdateCardRequest(
                account=facts.account,
                card=cards_pb2.Card(holder=cards_pb2.Holder(**names)),
                update_mask=FieldMask(paths=paths),
                request_id=new_request_id(),
            )
        )
        assert reply.is_ok, str(reply)
        return reply.response.card.holder.display_name

    both = ["holder.given_name", "holder.family_name"]
    assert await rename(both, given_name="Erika", family_name="Canary") == "Erika Canary"
    given = ["holder.given_name"]
    assert await rename(given, given_name="Frida", family_name="Nobody") == "Frida Canary"


@pytest.mark.parametrize(
    ("connection", "path"),
    [("cashassist", "type"), ("cashassist", "holder.display_name"), ("loyalife", "type")],
)
async def test_a_field_that_the_vendor_cannot_change_is_refused_and_nothing_is_booked(
    house: House, connection: str, path: str
) -> None:
    vendor = house.vendors[connection]
    before = vendor.books
    request = cards_pb2.UpdateCardRequest(
        account=FACTS[connection].account,
        card=cards_pb2.Card(type="GOLD", holder=cards_pb2.Holder(display_name="Frida Canary")),
        update_mask=FieldMask(paths=[path]),
        request_id=new_request_id(),
    )

    reply = await house.call(request)

    assert (reply.code, reply.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert vendor.books == before


async def test_what_was_linked_is_listed(house: House) -> None:
    request: Any = await ask(house, ("Wallets.LinkAccount", "loyalife"))
    assert (await house.call(request)).is_ok

    reply = await house.call(
        wallets_pb2.ListLinkedAccountsRequest(account=FACTS["loyalife"].account)
    )

    assert request.external in list(reply.response.linked_accounts)


async def test_persons_are_in_answers_and_nowhere_else(house: House) -> None:
    made = await house.call(await ask(house, ("Wallets.CreateWallet", "loyalife")))
    changed = await house.call(await ask(house, ("Wallets.UpdateWallet", "cashassist")))
    assert made.is_ok and changed.is_ok, f"{made} {changed}"
    profile = made.response.wallet.profile

    journal = house.journal_bytes()

    assert profile.display_name or profile.given_name
    for text in ("Canary", "conny.canary", profile.email, profile.phone, "m_8124"):
        assert text.encode() not in journal
