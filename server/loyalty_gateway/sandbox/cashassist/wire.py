"""CashAssist's shapes on the wire: envelopes, amounts, times, cursors; it must never decide."""

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any

from loyalty_gateway.sandbox import exact
from loyalty_gateway.sandbox.book import Card, Effect, Item
from loyalty_gateway.sandbox.bookings import Declined
from loyalty_gateway.sandbox.exact import Minor
from loyalty_gateway.sandbox.faults import Answer
from loyalty_gateway.sandbox.openapi import find_time

CURRENCY = "CHF"
# Each code of the document's error enum, with its HTTP status.
ERRORS: dict[str, int] = {
    "invalid_request": 400,
    "idempotency_key_missing": 400,
    "invalid_api_key": 401,
    "insufficient_scope": 403,
    "card_not_found": 404,
    "transaction_not_found": 404,
    "verification_not_found": 404,
    "idempotency_key_reused": 409,
    "request_in_progress": 409,
    "card_exists": 409,
    "insufficient_balance": 422,
    "insufficient_points": 422,
    "card_blocked": 422,
    "code_invalid": 422,
    "receipt_mismatch": 422,
    "rate_limited": 429,
    "internal_error": 500,
}


class Refusal(Declined):
    """The vendor says no; `status` differs from the table only where the document has no code."""

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(encode_error(code, message, status))


def card_not_found(card_id: str) -> Refusal:
    return Refusal("card_not_found", f"Card {card_id} does not exist")


def encode_error(code: str, message: str, status: int | None = None) -> Answer:
    error = {"code": code, "message": message, "requestId": f"req_{secrets.token_hex(6)}"}
    return Answer(status or ERRORS[code], exact.encode({"error": error}))


def encode_card(card: Card) -> dict[str, Any]:
    return {
        "id": card.card_id,
        "name": card.holder,
        "balance": Minor(card.balance_minor),
        "points": card.points,
        "currency": CURRENCY,
        "status": "blocked" if card.is_blocked else "active",
    }


def encode_transaction(effect: Effect) -> dict[str, Any]:
    """The type tells the direction, so the amounts of all but corrections are unsigned.

    A purchase shows the amount that was paid and the points that it earned.
    """
    is_signed = effect.kind == "correction"
    shown: dict[str, Any] = {
        "transactionId": f"tx_{effect.number}",
        "id": effect.card_id,
        "type": effect.kind,
        "amount": Minor(effect.amount_minor if is_signed else abs(effect.amount_minor)),
        "points": effect.points if is_signed else abs(effect.points),
        "balanceAfter": Minor(effect.balance_after_minor),
        "pointsAfter": effect.points_after,
        "bookedAt": time_text(effect.booked_at_s),
        "reference": effect.reference,
        "idempotencyKey": effect.idempotency_key,
    }
    return {name: value for name, value in shown.items() if value is not None}


def encode_items(items: list[Item]) -> list[dict[str, Any]]:
    return [
        {
            "line": line,
            "description": item.description,
            "quantity": item.quantity,
            "unitPrice": Minor(item.unit_price_minor),
            "total": Minor(item.quantity * item.unit_price_minor),
        }
        for line, item in enumerate(items, start=1)
    ]


def find_number(transaction_id: str) -> int | None:
    """The ledger's number in a transaction id, or None when it is no id of ours."""
    number = transaction_id.removeprefix("tx_")
    is_ours = transaction_id == f"tx_{number}" and number.isascii() and number.isdigit()
    return int(number) if is_ours and len(number) < 18 else None


def encode_cursor(number: int) -> str:
    return urlsafe_b64encode(b"before:%d" % number).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> int | None:
    """The number before which the next page begins; without a cursor None.

    Raises: Refusal when it was not handed out by this player.
    """
    if cursor is None:
        return None
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        number = int(text.removeprefix("before:"))
    except ValueError:
        number = 0
    if encode_cursor(number) != cursor or number < 1:
        raise Refusal("invalid_request", "cursor is not one that was handed out")
    return number


def seconds(time: str | None) -> float | None:
    """Unix seconds of a text that the document's check has let through."""
    moment = find_time(time) if time is not None else None
    return moment.timestamp() if moment is not None else None


def rate_headers(limit: int, left: int, ends_at_s: int) -> tuple[tuple[str, str], ...]:
    return (
        ("X-RateLimit-Limit", str(limit)),
        ("X-RateLimit-Remaining", str(left)),
        ("X-RateLimit-Reset", str(ends_at_s)),
    )


def day_text(at_s: int) -> str:
    return time_text(at_s)[:10]


def time_text(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
