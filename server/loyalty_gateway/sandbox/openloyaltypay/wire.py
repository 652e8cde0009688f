"""openLoyaltyPay's shapes on the wire: envelopes, amounts, times; it must never decide."""

import hashlib
import hmac
import re
from datetime import UTC, datetime
from typing import Any

from loyalty_gateway.sandbox import exact
from loyalty_gateway.sandbox.book import Card
from loyalty_gateway.sandbox.bookings import Declined
from loyalty_gateway.sandbox.exact import MINOR_UNITS_PER_UNIT, Minor
from loyalty_gateway.sandbox.faults import Answer

CURRENCY = "USD"
CLIENT_ID = "825429536610058240"
CLIENT_SECRET = "sandbox-secret"
JWT_TOKEN = "SANDBOX0TOKEN0000000000000000001"
MERCHANT_ID = "10800000010"
CHANNEL = "FACTOR4"
MID = "202507081058"
PAYWIZARD_ID = "10020000080"

SUCCESS = 200
INSUFFICIENT, CARD_UNKNOWN, CARD_INACTIVE = 4001, 4002, 4003
DUPLICATE, ORIGINAL_UNKNOWN, ALREADY_VOIDED = 4004, 4005, 4006
BAD_REQUEST, BAD_TOKEN, BAD_SIGN, BUSY, SYSTEM = 400, 401, 403, 429, 500
# Each code of the document's examples, with its words.
MESSAGES: dict[int, str] = {
    INSUFFICIENT: "Insufficient balance",
    CARD_UNKNOWN: "Card not found",
    CARD_INACTIVE: "Card is not active",
    DUPLICATE: "Duplicate tranOrderNo",
    ORIGINAL_UNKNOWN: "Original transaction not found",
    ALREADY_VOIDED: "Original transaction already voided",
    BAD_REQUEST: "Invalid parameter",
    BAD_TOKEN: "Invalid jwt-token",
    BAD_SIGN: "Invalid sign",
    BUSY: "Too many requests",
    SYSTEM: "System error",
}
# The codes that are HTTP statuses too; which of both the vendor uses is a setting.
HTTP_CODES = frozenset({BAD_REQUEST, BAD_TOKEN, BAD_SIGN, BUSY, SYSTEM})

# What a booking came to, and what became of its order.
DONE, FAILED, OPEN = 0, 1, 2
PENDING, COMPLETED, REVOKED, CLOSED = 1, 2, 3, 5

_MONEY = re.compile(r"(\d{1,13})(?:\.(\d{1,2}))?", re.ASCII)
_POINTS = re.compile(r"\d{1,15}", re.ASCII)


class Refusal(Declined):
    """The vendor says no, by a code other than 200 and without data."""

    def __init__(self, code: int, now_s: float, message: str = "", *, as_status: bool) -> None:
        super().__init__(encode_refusal(code, now_s, message, as_status=as_status))


def sign(body: bytes) -> str:
    """The signature of the only client that this vendor has."""
    text = body + f"&clientId={CLIENT_ID}&clientSecret={CLIENT_SECRET}".encode()
    return hmac.new(CLIENT_SECRET.encode(), text, hashlib.sha256).hexdigest()


def encode_refusal(code: int, now_s: float, message: str = "", *, as_status: bool) -> Answer:
    """The envelope of an error; `as_status` gives it the HTTP status of the same number too."""
    http_status = code if as_status and code in HTTP_CODES else 200
    return Answer(http_status, encode_envelope(code, message or MESSAGES[code], None, now_s))


def encode_success(data: Any, now_s: float) -> Answer:
    return Answer(200, encode_envelope(SUCCESS, "success", data, now_s))


def encode_envelope(code: int, message: str, data: Any, now_s: float) -> bytes:
    timestamp = time_text(now_s)
    return exact.encode({"code": code, "msg": message, "timestamp": timestamp, "data": data})


def encode_card(card: Card) -> dict[str, Any]:
    """What Activate and Query show; neither says whether the card is active."""
    shown: dict[str, Any] = {
        "accountId": card.card_id,
        "balances": [
            {"valueCode": CURRENCY, "amount": Minor(card.balance_minor), "difference": Minor(0)},
            {"valueCode": "Points", "amount": card.points, "difference": 0},
        ],
    }
    if card.detail.get("customer"):
        shown["customerInfo"] = card.detail["customer"]
    return shown


def encode_tokens() -> list[dict[str, Any]]:
    return [
        {
            "token": JWT_TOKEN,
            "merchantId": MERCHANT_ID,
            "merchantName": "demo",
            "type": "eCommerce",
            "channelName": CHANNEL,
            "expiryTime": -1,
        }
    ]


def find_minor(text: str) -> int | None:
    """The minor units of an amount that is more than nothing, or None."""
    match = _MONEY.fullmatch(text)
    if match is None:
        return None
    minor = int(match[1]) * MINOR_UNITS_PER_UNIT + int((match[2] or "").ljust(2, "0"))
    return minor or None


def find_points(text: str) -> int | None:
    """A whole number of points that is more than nothing, or None."""
    return int(text) or None if _POINTS.fullmatch(text) else None


def time_text(at_s: float) -> str:
    """Without a zone, and meant as UTC."""
    return datetime.fromtimestamp(int(at_s), UTC).strftime("%Y-%m-%d %H:%M:%S")
