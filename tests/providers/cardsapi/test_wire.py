"""CardAPI's shapes: what is sent is exact and the same every time, what comes is believed only
when it proves something."""

import base64
import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty_gateway.domain.amounts import MINOR_MAX, Money
from loyalty_gateway.domain.operations import (
    AccountKind,
    Balance,
    EntryMode,
    Operation,
    Order,
    Person,
    ReceiptLine,
    Reference,
    Sale,
)
from loyalty_gateway.providers.answers import Document, UnreadableAnswer, read_document
from loyalty_gateway.providers.cardsapi import wire
from loyalty_gateway.providers.cardsapi.wire import Scope
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.providers.strict_json import parse_json

CARD = "3760000000017"
TICKET = "9ffa8d1d-0765-11f1-88b3-0cc47a065898"
NOW = datetime(2026, 1, 15, 10, tzinfo=UTC)
PREPARED = (
    ("pass_id", "pass_8f1c"),
    ("service_id", "3"),
    ("payment_method_id", "2"),
    ("balance_minor", "654"),
)
FOUND = {
    "type": "CASHBACK",
    "pass": {
        "type": "CASHBACK",
        "service_id": 3,
        "payment_method_id": 2,
        "balance": 6.54,
        "currency": "EUR",
        "expiration_date": "2050-08-24T14:15:22Z",
        "id": "pass_8f1c",
        "serial_number": "SN-0001",
        "number": CARD,
        "nfc_number": "04A2245B6C1D80",
        "consumer": {"id": 7, "given_name": "Camille", "family_name": "Durand"},
    },
}
PAYMENT_ROW = {
    "id": "pr_5501",
    "payment_method_id": 2,
    "service_id": 3,
    "pass_id": "pass_8f1c",
    "amount": 2.5,
    "currency": "EUR",
}
RECEIPT_ROW = {
    "label": "Cashback",
    "balance_before": 6.54,
    "amount": 2.5,
    "balance_after": 4.04,
    "currency": "EUR",
}
DEBITED = {"ticket_id": TICKET, "payment_row": PAYMENT_ROW, "receipt_row": RECEIPT_ROW}
MISSING = object()


def answer(document: Any, status: int = 200, **headers: str) -> Document:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_document(HttpAnswer(status, {"content-type": "application/json", **named}, body))


def changed(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in {**document, **changes}.items() if v is not MISSING}


def order(asked: Money | None = None, **sale: str) -> Order:
    return Order(
        Operation.DEBIT_BALANCE,
        CARD,
        asked or Money("EUR", 250),
        sale=Sale(**{"point_of_sale_id": "65", "device_id": "till-4", **sale}),
        prepared=PREPARED,
    )


def decode_debit(document: Any) -> Any:
    return wire.decode_debit(answer(document), TICKET, CARD, "pass_8f1c", "EUR", NOW)


class TestRequests:
    @given(st.integers(1, MINOR_MAX))
    def test_an_amount_has_two_decimals_and_is_exact(self, minor: int) -> None:
        text = wire.encode_amount(Money("EUR", minor))
        assert Decimal(text) * 100 == minor
        assert len(text.partition(".")[2]) == 2
        assert parse_json(text.encode()) == Decimal(minor).scaleb(-2)

    @pytest.mark.parametrize("minor", [0, -1])
    def test_nothing_and_less_is_never_written(self, minor: int) -> None:
        with pytest.raises(AssertionError):
            wire.encode_amount(Money("EUR", minor))

    def test_the_body_of_a_debit_is_written_to_the_letter(self) -> None:
        body = wire.encode_debit(order(ticket_number="T-2026-000812"), TICKET)
        assert body == (
            b'{"ticket_id":"9ffa8d1d-0765-11f1-88b3-0cc47a065898",'
            b'"ticket_number":"T-2026-000812","point_of_sale_id":65,"device_id":"till-4",'
            b'"payment_row":{"payment_method_id":2,"service_id":3,"pass_id":"pass_8f1c",'
            b'"amount":2.50,"currency":"EUR"}}'
        )

    def test_a_ticket_number_that_was_not_given_is_not_sent(self) -> None:
        assert "ticket_number" not in json.loads(wire.encode_debit(order(), TICKET))

    @given(st.text(max_size=80), st.text(min_size=1, max_size=80), st.integers(1, MINOR_MAX))
    def test_the_same_order_gives_the_same_bytes_and_any_text_survives(
        self, ticket_number: str, device_id: str, minor: int
    ) -> None:
        asked = order(Money("EUR", minor), ticket_number=ticket_number, device_id=device_id)
        body = wire.encode_debit(asked, TICKET)
        assert body == wire.encode_debit(asked, TICKET)
        written = json.loads(body, parse_float=Decimal)
        assert written.get("ticket_number", "") == ticket_number
        assert written["device_id"] == device_id
        assert written["payment_row"]["amount"] * 100 == minor

    def test_a_ticket_id_is_a_uuid_or_nothing_is_written(self) -> None:
        with pytest.raises(ValueError):
            wire.encode_debit(order(), "booking-1")

    @pytest.mark.parametrize(
        ("entry_mode", "word"),
        [
            (EntryMode.PROXIMITY, "NFC"),
            (EntryMode.BARCODE, "BARCODE"),
            (EntryMode.KEYED, "MANUAL"),
            (EntryMode.ONLINE, "MANUAL"),
        ],
    )
    def test_a_search_names_how_the_number_was_read(self, entry_mode: EntryMode, word: str) -> None:
        assert wire.encode_search(entry_mode, CARD, Scope(group_id=4)) == (
            ("search_mode", word),
            ("q", CARD),
            ("group_id", "4"),
        )

    def test_every_entry_mode_is_searched_for_but_the_magnetic_stripe(self) -> None:
        assert set(EntryMode) - set(wire.SEARCH_MODES) == {EntryMode.MAGNETIC}

    def test_a_store_is_named_with_its_point_of_sale(self) -> None:
        scope = Scope(store_id=12, point_of_sale_id=65)
        assert wire.encode_search(EntryMode.BARCODE, CARD, scope)[2:] == (
            ("store_id", "12"),
            ("point_of_sale_id", "65"),
        )

    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("0", 0),
            ("65", 65),
            ("9" * 18, int("9" * 18)),
            ("", None),
            ("065", None),
            ("-1", None),
            ("6.5", None),
            ("65 ", None),
            ("٦٥", None),
            ("9" * 19, None),
        ],
    )
    def test_only_a_plain_whole_number_is_an_integer(self, text: str, number: int | None) -> None:
        assert wire.read_integer(text) == number

    def test_credentials_and_tokens_travel_as_the_vendor_wants_them(self) -> None:
        scheme, _, encoded = wire.encode_credentials("demo", "secret:1").partition(" ")
        assert (scheme, base64.b64decode(encoded)) == ("Basic", b"demo:secret:1")
        assert wire.encode_bearer("abc") == "Bearer abc"
        assert wire.encode_token_request(("card",)) == b'{"scopes":["card"]}'


class TestTokens:
    def test_a_token_holds_until_its_time(self) -> None:
        found = wire.decode_token(
            answer({"token": "eyJ.abc", "expires_at": "2026-01-15T11:00:00Z"}), NOW
        )
        assert found == ("eyJ.abc", timedelta(hours=1))

    def test_a_token_without_a_time_is_held_for_little(self) -> None:
        found = wire.decode_token(answer({"token": "abc"}), NOW)
        assert found == ("abc", wire.TOKEN_LIFETIME_DEFAULT)

    def test_a_token_that_has_ended_holds_no_time(self) -> None:
        ended = (NOW - timedelta(hours=1)).isoformat()
        assert (
            wire.decode_token(answer({"token": "abc", "expires_at": ended}), NOW)[1] == timedelta()
        )

    @pytest.mark.parametrize(
        "document",
        [
            {},
            {"token": ""},
            {"token": 5},
            {"token": "a b"},
            {"token": "a\r\nx: y"},
            {"token": "é"},
            {"token": "t" * 4_097},
            {"token": "abc", "expires_at": "soon"},
            {"token": "abc", "expires_at": None},
            {"token": "abc", "expires_at": 1768471260},
        ],
    )
    def test_what_cannot_be_sent_or_timed_is_no_token(self, document: Any) -> None:
        with pytest.raises(UnreadableAnswer) as caught:
            wire.decode_token(answer(document), NOW)
        assert "abc" not in str(caught.value)


class TestPasses:
    def test_the_vendors_own_sample_is_read(self) -> None:
        found = wire.decode_pass(answer(FOUND))
        assert (found.type, found.pass_id) == ("CASHBACK", "pass_8f1c")
        assert (found.service_id, found.payment_method_id) == (3, 2)
        card = wire.describe_card(found, CARD, NOW)
        assert (card.account_id, card.kind, card.type) == (CARD, AccountKind.CARD, "CASHBACK")
        assert card.holder == Person(given_name="Camille", family_name="Durand")
        assert card.balances == (Balance(Money("EUR", 654), NOW),)
        assert card.expire_time == datetime(2050, 8, 24, 14, 15, 22, tzinfo=UTC)
        assert card.status == ""

    @pytest.mark.parametrize(
        "name",
        ["service_id", "payment_method_id", "expiration_date", "consumer", "number", "nfc_number"],
    )
    def test_what_the_vendor_need_not_tell_may_be_missing(self, name: str) -> None:
        found = wire.decode_pass(answer({"pass": changed(FOUND["pass"], **{name: MISSING})}))  # type: ignore[arg-type]
        assert found.balance == Money("EUR", 654)

    @pytest.mark.parametrize(
        "changes",
        [
            {"type": MISSING},
            {"type": ""},
            {"id": MISSING},
            {"id": 7},
            {"id": "p" * 129},
            {"balance": MISSING},
            {"balance": "6.54"},
            {"balance": 6.545},
            {"balance": True},
            {"currency": MISSING},
            {"currency": "points"},
            {"service_id": "3"},
            {"payment_method_id": 2.5},
            {"expiration_date": "2050-08-24"},
            {"consumer": "Camille"},
            {"consumer": {"given_name": 7}},
        ],
    )
    def test_a_pass_that_is_not_whole_is_unreadable(self, changes: dict[str, Any]) -> None:
        with pytest.raises(UnreadableAnswer) as caught:
            wire.decode_pass(answer({"pass": changed(FOUND["pass"], **changes)}))  # type: ignore[arg-type]
        assert CARD not in str(caught.value)

    @pytest.mark.parametrize("document", [{}, {"pass": None}, {"pass": []}, [], b"", b"<html>"])
    def test_an_answer_without_a_pass_is_unreadable(self, document: Any) -> None:
        with pytest.raises(UnreadableAnswer):
            wire.decode_pass(answer(document))


class TestDebitAnswers:
    def test_a_complete_answer_is_a_receipt(self) -> None:
        receipt = decode_debit(DEBITED)
        assert receipt.references == (
            Reference("ticket_id", TICKET),
            Reference("payment_row_id", "pr_5501"),
        )
        assert receipt.echoed == Money("EUR", 250)
        assert receipt.balances_after == (Balance(Money("EUR", 404), NOW),)
        assert receipt.receipt_lines == (
            ReceiptLine("balance before", amount=Money("EUR", 654)),
            ReceiptLine("Cashback", amount=Money("EUR", 250)),
            ReceiptLine("balance after", amount=Money("EUR", 404)),
        )
        assert not receipt.is_replay

    def test_a_ticket_may_be_written_in_other_letters(self) -> None:
        receipt = decode_debit(changed(DEBITED, ticket_id=TICKET.upper()))
        assert receipt.references[0].value == TICKET

    @pytest.mark.parametrize(
        "changes",
        [
            {"ticket_id": MISSING},
            {"code": "CARD-1"},
            {"ticket_id": str(uuid.uuid4())},
            {"ticket_id": "T-1"},
            {"ticket_id": 5},
            {"payment_row": MISSING},
            {"payment_row": []},
            {"payment_row": {**PAYMENT_ROW, "pass_id": "pass_other"}},
            {"payment_row": {**PAYMENT_ROW, "pass_id": 8}},
            {"receipt_row": MISSING},
            {"receipt_row": None},
        ],
    )
    def test_an_answer_that_misses_or_contradicts_proves_nothing(
        self, changes: dict[str, Any]
    ) -> None:
        with pytest.raises(UnreadableAnswer) as caught:
            decode_debit(changed(DEBITED, **changes))
        assert TICKET not in str(caught.value)

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"<html>", b'{"code":"CARD-3"}'])
    def test_a_body_that_is_no_debit_proves_nothing(self, body: bytes) -> None:
        with pytest.raises(UnreadableAnswer):
            decode_debit(body)

    @pytest.mark.parametrize(
        ("payment_row", "receipt_row"),
        [
            ({}, {}),
            (
                {"id": 5501, "amount": "2.50", "currency": "EUR"},
                {"label": 5, "amount": "2.50", "balance_after": None},
            ),
            (
                {"id": "pr\n1", "amount": 2.505},
                {"label": "two\nlines", "amount": True, "balance_after": 10**20},
            ),
            (
                {"id": "p" * 129, "amount": 250, "currency": "JPY"},
                {"label": "l" * 65, "amount": 250, "balance_after": 404, "currency": "JPY"},
            ),
        ],
    )
    def test_what_is_odd_in_an_assumed_member_is_left_out(
        self, payment_row: Any, receipt_row: Any
    ) -> None:
        receipt = decode_debit(
            {"ticket_id": TICKET, "payment_row": payment_row, "receipt_row": receipt_row}
        )
        assert receipt.references == (Reference("ticket_id", TICKET),)
        assert receipt.echoed is None
        assert (receipt.balances_after, receipt.receipt_lines) == ((), ())

    def test_a_label_that_holds_the_cards_number_is_masked(self) -> None:
        row = {**RECEIPT_ROW, "label": f"Carte {CARD}"}
        lines = decode_debit(changed(DEBITED, receipt_row=row)).receipt_lines
        assert CARD not in repr(lines)
        assert lines[1].label.startswith("Carte ")

    @given(st.integers(-MINOR_MAX, MINOR_MAX))
    def test_any_amount_is_read_exactly(self, minor: int) -> None:
        sign, units, hundredths = "-" if minor < 0 else "", *divmod(abs(minor), 100)
        text = f"{sign}{units}.{hundredths:02d}"
        body = json.dumps(DEBITED).replace('"balance_after": 4.04', f'"balance_after": {text}')
        assert decode_debit(body.encode()).balances_after == (Balance(Money("EUR", minor), NOW),)


class TestErrors:
    def test_the_code_is_read_and_the_words_are_not(self) -> None:
        document = answer({"code": "CARD-14", "message": f"Pass {CARD} not found"}, 404)
        assert wire.decode_error_code(document) == "CARD-14"
        assert wire.describe(document) == [("code", "CARD-14")]

    @pytest.mark.parametrize(
        "body",
        [
            b"<html>502</html>",
            b"{}",
            b"[]",
            b'{"error":{"code":"CARD-14"}}',
            b'{"code":14}',
            b'{"code":"Pass 3760000000017 not found"}',
            b'{"code":""}',
            b'{"code":"CARD-"}',
            b'{"code":"CARD-14\\n"}',
            b'{"code":"CARD-1","code":"CARD-2"}',
        ],
    )
    def test_anything_else_is_no_code(self, body: bytes) -> None:
        assert wire.decode_error_code(answer(body, 404)) == ""

    def test_nobody_is_named_in_what_is_shown(self) -> None:
        for document in (FOUND, DEBITED, {"token": "eyJ.abc"}):
            shown = dict(wire.describe(answer({**document, "message": "hello"})))
            assert not {
                "Camille",
                "Durand",
                "hello",
                "Cashback",
                "pass_8f1c",
                "SN-0001",
                "eyJ.abc",
                CARD,
            } & set(shown.values())
        assert dict(wire.describe(answer(DEBITED)))["payment_row.id"] == "pr_5501"
