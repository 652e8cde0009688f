"""CashAssist's shapes: what is sent is exact and the same every time, what comes is believed
only when it proves something."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty_gateway.domain.amounts import MINOR_MAX, Amount, Money, Points
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    Balance,
    Operation,
    Sale,
    TransactionKind,
)
from loyalty_gateway.providers.answers import Document, UnreadableAnswer, read_document
from loyalty_gateway.providers.cashassist import wire
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.providers.strict_json import parse_json

CARD = "10472"
KEY = "2f1c0f6e-6c0b-4a43-9a0e-7e1f7a2f6a11"
NOW = datetime(2026, 1, 15, 10, tzinfo=UTC)
ASKED = Money("CHF", 1250)
BOOKED = {
    "transactionId": "tx_90003",
    "id": CARD,
    "type": "withdraw",
    "amount": 12.5,
    "points": 0,
    "balanceAfter": 30.0,
    "pointsAfter": 1280,
    "bookedAt": "2026-01-15T10:01:00Z",
    "reference": "receipt-5512",
    "idempotencyKey": KEY,
}
CARD_FACTS = {"id": CARD, "name": "Max Muster", "balance": 42.5, "points": 1280}
MISSING = object()


def answer(document: Any, status: int = 200, **headers: str) -> Document:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_document(HttpAnswer(status, {"content-type": "application/json", **named}, body))


def changed(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in {**document, **changes}.items() if v is not MISSING}


def decode_debit(document: Any, **headers: str) -> Any:
    return wire.decode_booking(
        answer(document, 200, **headers), Operation.DEBIT_BALANCE, CARD, ASKED, KEY, "CHF"
    )


class TestRequests:
    @given(st.integers(1, MINOR_MAX))
    def test_an_amount_has_two_decimals_and_is_exact(self, minor: int) -> None:
        text = wire.encode_amount(Money("CHF", minor))
        assert Decimal(text) * 100 == minor
        assert len(text.partition(".")[2]) == 2
        assert parse_json(text.encode()) == Decimal(minor).scaleb(-2)

    @pytest.mark.parametrize(
        ("minor", "text"), [(1, "0.01"), (10, "0.10"), (100, "1.00"), (4250, "42.50")]
    )
    def test_small_amounts_keep_their_zeros(self, minor: int, text: str) -> None:
        assert wire.encode_amount(Money("CHF", minor)) == text

    @pytest.mark.parametrize("minor", [0, -1])
    def test_nothing_and_less_is_never_written(self, minor: int) -> None:
        with pytest.raises(AssertionError):
            wire.encode_amount(Money("CHF", minor))

    @pytest.mark.parametrize(
        ("operation", "asked", "sale", "body"),
        [
            (
                Operation.TOP_UP_BALANCE,
                Money("CHF", 2000),
                Sale(ticket_number="t-1", order_id="o-1"),
                b'{"id":"10472","amount":20.00,"reference":"t-1"}',
            ),
            (
                Operation.DEBIT_BALANCE,
                Money("CHF", 1250),
                Sale(order_id="o-1"),
                b'{"id":"10472","amount":12.50,"reference":"o-1"}',
            ),
            (Operation.REDEEM_POINTS, Points(200), Sale(), b'{"id":"10472","points":200}'),
        ],
    )
    def test_bodies_are_written_to_the_letter(
        self, operation: Operation, asked: Amount, sale: Sale, body: bytes
    ) -> None:
        assert wire.encode_booking(operation, CARD, asked, sale) == body

    @given(st.text(min_size=1, max_size=80), st.text(max_size=200))
    def test_any_text_survives_and_the_reference_is_at_most_64(
        self, account_id: str, ticket: str
    ) -> None:
        sale = Sale(ticket_number=ticket)
        first = wire.encode_booking(Operation.REDEEM_POINTS, account_id, Points(1), sale)
        again = wire.encode_booking(Operation.REDEEM_POINTS, account_id, Points(1), sale)
        assert first == again
        written = json.loads(first)
        assert written["id"] == account_id
        assert written.get("reference", "") == ticket[:64]

    def test_every_booking_has_a_route(self) -> None:
        assert set(wire.ROUTES) < BOOKING_OPERATIONS

    def test_times_go_out_in_utc(self) -> None:
        moment = datetime.fromisoformat("2026-01-15T11:00:00.250+01:00")
        assert wire.encode_time(moment) == "2026-01-15T10:00:00.250000Z"


class TestBookingAnswers:
    def test_a_complete_answer_is_a_receipt(self) -> None:
        receipt = decode_debit(BOOKED)
        booked_at = datetime(2026, 1, 15, 10, 1, tzinfo=UTC)
        assert receipt.references[0].kind == "transaction_id"
        assert receipt.references[0].value == "tx_90003"
        assert receipt.echoed == ASKED
        assert receipt.balances_after == (
            Balance(Money("CHF", 3000), booked_at),
            Balance(Points(1280), booked_at),
        )
        assert not receipt.is_replay

    @pytest.mark.parametrize(("value", "is_replay"), [("true", True), ("TRUE", True), ("1", False)])
    def test_a_replay_is_told_by_its_header(self, value: str, is_replay: bool) -> None:
        assert decode_debit(BOOKED, idempotent_replayed=value).is_replay is is_replay

    @pytest.mark.parametrize("name", ["amount", "points", "reference", "idempotencyKey"])
    def test_what_the_vendor_need_not_echo_may_be_missing(self, name: str) -> None:
        receipt = decode_debit(changed(BOOKED, **{name: MISSING}))
        assert receipt.echoed == (None if name == "amount" else ASKED)

    def test_an_unknown_field_is_no_harm(self) -> None:
        assert decode_debit(changed(BOOKED, tier="gold")).echoed == ASKED

    def test_the_sign_of_a_withdrawal_is_the_vendors_affair(self) -> None:
        assert decode_debit(changed(BOOKED, amount=-12.5)).echoed == ASKED

    def test_another_amount_than_asked_is_evidence_and_no_contradiction(self) -> None:
        assert decode_debit(changed(BOOKED, amount=12.51)).echoed == Money("CHF", 1251)

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({name: MISSING}, id=f"no {name}")
            for name in (
                "transactionId",
                "id",
                "type",
                "balanceAfter",
                "pointsAfter",
                "bookedAt",
            )
        ]
        + [
            pytest.param({"id": "10480"}, id="another card"),
            pytest.param({"id": 10472}, id="a card that is a number"),
            pytest.param({"type": "refill"}, id="another type"),
            pytest.param({"idempotencyKey": "another-key"}, id="another key"),
            pytest.param({"idempotencyKey": None}, id="no key"),
            pytest.param({"amount": 12.505}, id="three decimals"),
            pytest.param({"amount": "12.50"}, id="an amount that is text"),
            pytest.param({"amount": True}, id="an amount that is true"),
            pytest.param({"amount": None}, id="no amount"),
            pytest.param({"transactionId": ""}, id="an empty number"),
            pytest.param({"transactionId": 90003}, id="a number that is no text"),
            pytest.param({"transactionId": "t" * 129}, id="an endless number"),
            pytest.param({"transactionId": "tx\n1"}, id="a number of two lines"),
            pytest.param({"pointsAfter": 1280.5}, id="half a point"),
            pytest.param({"pointsAfter": False}, id="points that are false"),
            pytest.param({"pointsAfter": 10**16}, id="too many points"),
            pytest.param({"balanceAfter": 10**20}, id="too much money"),
            pytest.param({"bookedAt": "2026-01-15T10:01:00"}, id="a time without zone"),
            pytest.param({"bookedAt": "2026-01-15"}, id="a day"),
            pytest.param({"bookedAt": "2026-13-15T10:01:00Z"}, id="a month too many"),
            pytest.param({"bookedAt": 1768471260}, id="a time in seconds"),
        ],
    )
    def test_an_answer_that_misses_or_contradicts_proves_nothing(
        self, changes: dict[str, Any]
    ) -> None:
        with pytest.raises(UnreadableAnswer) as caught:
            decode_debit(changed(BOOKED, **changes))
        assert CARD not in str(caught.value)

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b"null", b'"ok"', b"<html>", b'{"error":{"code":"x"}}', b"\xff"],
    )
    def test_a_body_that_is_no_booking_proves_nothing(self, body: bytes) -> None:
        with pytest.raises(UnreadableAnswer):
            decode_debit(body)

    def test_a_booking_that_comes_with_an_error_proves_nothing(self) -> None:
        with pytest.raises(UnreadableAnswer, match="yes and no"):
            decode_debit(changed(BOOKED, error={"code": "internal_error"}))

    @pytest.mark.parametrize("media_type", ["text/html", "", "text/json", "application/xml"])
    def test_what_is_not_called_json_proves_nothing(self, media_type: str) -> None:
        with pytest.raises(UnreadableAnswer):
            decode_debit(BOOKED, content_type=media_type)

    def test_a_media_type_may_have_parameters(self) -> None:
        receipt = decode_debit(BOOKED, content_type="Application/JSON; charset=utf-8")
        assert receipt.echoed == ASKED

    def test_a_redemption_is_echoed_in_points(self) -> None:
        document = changed(BOOKED, amount=0, points=-200)
        receipt = wire.decode_booking(
            answer(document), Operation.REDEEM_POINTS, CARD, Points(200), KEY, "CHF"
        )
        assert receipt.echoed == Points(200)

    @given(st.integers(1, 99_999_999))
    def test_the_echo_of_any_amount_is_read_exactly(self, minor: int) -> None:
        text = wire.encode_amount(Money("CHF", minor))
        body = json.dumps(BOOKED).replace("12.5,", f"{text},").encode()
        arguments = (Operation.DEBIT_BALANCE, CARD, Money("CHF", 1250), KEY, "CHF")
        assert wire.decode_booking(answer(body), *arguments).echoed == Money("CHF", minor)


class TestCards:
    def test_the_vendors_own_sample_is_read(self) -> None:
        body = b'{ "id":"10472", "name":"Max Muster", "balance":42.50, "points":1280 }'
        facts = wire.decode_card(answer(body), CARD, "CHF", NOW)
        assert facts.holder.display_name == "Max Muster"
        assert facts.balances == (Balance(Money("CHF", 4250), NOW), Balance(Points(1280), NOW))
        assert facts.status == ""

    @pytest.mark.parametrize(
        ("word", "status"), [("active", "ACTIVE"), ("blocked", "BLOCKED"), ("frozen", "")]
    )
    def test_the_vendors_words_for_a_status_end_here(self, word: str, status: str) -> None:
        facts = wire.decode_card(answer(changed(CARD_FACTS, status=word)), CARD, "CHF", NOW)
        assert facts.status == status

    @pytest.mark.parametrize(
        "changes",
        [
            {"id": "10480"},
            {"balance": MISSING},
            {"points": MISSING},
            {"points": 0.5},
            {"name": MISSING},
            {"currency": "EUR"},
            {"balance": "42.50"},
        ],
    )
    def test_a_card_that_is_not_whole_is_unreadable(self, changes: dict[str, Any]) -> None:
        with pytest.raises(UnreadableAnswer):
            wire.decode_card(answer(changed(CARD_FACTS, **changes)), CARD, "CHF", NOW)


class TestHistory:
    def decode(self, *lines: dict[str, Any], cursor: Any = None) -> wire.HistoryPage:
        document = {"transactions": list(lines), "nextCursor": cursor}
        return wire.decode_transactions(answer(document), CARD, "CHF")

    @pytest.mark.parametrize(
        ("line", "kind", "minor", "points"),
        [
            ({"type": "refill", "amount": 20, "points": 0}, TransactionKind.TOP_UP, 2000, 0),
            ({"type": "withdraw", "amount": 12.5}, TransactionKind.DEBIT, -1250, 0),
            ({"type": "withdraw", "amount": -12.5}, TransactionKind.DEBIT, -1250, 0),
            (
                {"type": "withdraw", "amount": 0, "points": 200},
                TransactionKind.REDEEM,
                0,
                -200,
            ),
            ({"type": "purchase", "amount": 8.4, "points": 8}, TransactionKind.DEBIT, -840, 8),
            ({"type": "purchase", "amount": 0, "points": 8}, TransactionKind.EARN, 0, 8),
            (
                {"type": "correction", "amount": -1, "points": -5},
                TransactionKind.CORRECTION,
                -100,
                -5,
            ),
            ({"type": "reset", "amount": -1, "points": 5}, TransactionKind.OTHER, -100, 5),
        ],
    )
    def test_lines_are_signed_as_the_card_sees_them(
        self, line: dict[str, Any], kind: TransactionKind, minor: int, points: int
    ) -> None:
        page = self.decode(changed(BOOKED, **line)).page
        found = page.transactions[0]
        assert (found.kind, found.provider_kind) == (kind, line["type"])
        assert (found.money, found.points) == (Money("CHF", minor), points)
        assert found.outbound_id == KEY
        assert page.next_cursor == ""

    def test_what_a_line_does_not_tell_stays_unknown(self) -> None:
        line = changed(BOOKED, amount=MISSING, points=MISSING, idempotencyKey=MISSING)
        found = self.decode(line, cursor="abc")
        assert found.page.transactions[0].money is None
        assert found.page.transactions[0].points is None
        assert found.page.transactions[0].outbound_id == ""
        assert found.page.next_cursor == "abc"
        assert found.points_after == (1280,)

    @pytest.mark.parametrize(
        "document",
        [
            {},
            {"transactions": {}},
            {"transactions": [1]},
            {"transactions": [BOOKED] * 101},
            {"transactions": [changed(BOOKED, id="10480")]},
            {"transactions": [changed(BOOKED, pointsAfter=MISSING)]},
            {"transactions": [], "nextCursor": 5},
        ],
    )
    def test_a_history_that_is_none_is_unreadable(self, document: dict[str, Any]) -> None:
        with pytest.raises(UnreadableAnswer):
            wire.decode_transactions(answer(document), CARD, "CHF")


class TestErrors:
    def test_the_code_is_read_and_the_words_are_not(self) -> None:
        body = {"error": {"code": "card_not_found", "message": "Card 10472 does not exist"}}
        assert wire.decode_error_code(answer(body, 404)) == "card_not_found"
        assert wire.describe(answer(body, 404)) == [("error.code", "card_not_found")]

    @pytest.mark.parametrize(
        "body",
        [
            b"<html>502</html>",
            b"{}",
            b"[]",
            b'{"error":"card_not_found"}',
            b'{"error":{"code":404}}',
            b'{"error":{"code":"Card 10472 does not exist"}}',
            b'{"error":{"code":""}}',
            b'{"error":{"code":"a","code":"b"}}',
            b'{"error":{"code":"' + b"a" * 65 + b'"}}',
        ],
    )
    def test_anything_else_is_no_code(self, body: bytes) -> None:
        assert wire.decode_error_code(answer(body, 404)) == ""

    def test_nobody_is_named_in_what_is_shown(self) -> None:
        shown = dict(wire.describe(answer({**BOOKED, "name": "Max Muster", "message": "hello"})))
        assert not {"Max Muster", "hello", "receipt-5512", CARD} & set(shown.values())
        assert shown["transactionId"] == "tx_90003"
        assert shown["balanceAfter"] == "30.0"
