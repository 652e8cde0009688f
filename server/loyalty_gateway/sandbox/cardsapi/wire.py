"""CardAPI's and AuthAPI's shapes on the wire: envelopes, passes, rows; it must never decide."""

from typing import Any

from loyalty_gateway.sandbox import exact
from loyalty_gateway.sandbox.book import Card, Effect
from loyalty_gateway.sandbox.bookings import Declined
from loyalty_gateway.sandbox.cardsapi.cards import PAYMENT_METHOD_ID, SERVICE_ID
from loyalty_gateway.sandbox.exact import Minor
from loyalty_gateway.sandbox.faults import Answer

CURRENCY = "EUR"
EXPIRATION_DATE = "2050-08-24T14:15:22Z"
# Each code of the vendor's lists, with its HTTP status and its words.
ERRORS: dict[str, tuple[int, str]] = {
    "CARD-1": (500, "Internal error"),
    "CARD-2": (404, "Invalid path"),
    "CARD-3": (422, "A parameter is missing or invalid in the body of the request"),
    "CARD-4": (500, "Internal error"),
    "CARD-5": (401, "Missing token"),
    "CARD-6": (400, "Invalid token signature"),
    "CARD-7": (400, "Token expired"),
    "CARD-8": (400, "Invalid token"),
    "CARD-9": (403, "Unauthorized access to the service"),
    "CARD-10": (500, "Internal error"),
    "CARD-11": (500, "Internal error"),
    "CARD-14": (404, "Pass not found"),
    "AUTH-1": (401, "The credentials provided are incorrect"),
    "AUTH-2": (401, "Missing Authorization header"),
    "AUTH-3": (401, "Invalid Authorization header"),
    "AUTH-6": (422, "A parameter is missing or invalid in the body"),
    "AUTH-7": (403, "One of the scopes provided is not authorized"),
    "AUTH-9": (400, "The token does not have the correct type"),
}


class Refusal(Declined):
    """The vendor says no, with one of its codes."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(encode_error(code, message))


def encode_error(code: str, message: str = "") -> Answer:
    status, words = ERRORS[code]
    return Answer(status, exact.encode({"code": code, "message": message or words}))


def encode_search(card: Card) -> dict[str, Any]:
    return {
        "type": card.detail["type"],
        "pass": {
            "type": card.detail["type"],
            "service_id": SERVICE_ID,
            "payment_method_id": PAYMENT_METHOD_ID,
            "balance": Minor(card.balance_minor),
            "currency": CURRENCY,
            "expiration_date": EXPIRATION_DATE,
            "id": card.detail["pass_id"],
            "serial_number": f"SN-{card.card_id}",
            "number": card.detail["number"],
            "nfc_number": card.detail["nfc_number"],
            "consumer": {
                "id": int(card.card_id),
                "given_name": card.detail["given_name"],
                "family_name": card.detail["family_name"],
            },
        },
    }


def encode_debit(ticket_id: str, pass_id: str, effect: Effect) -> dict[str, Any]:
    amount = Minor(-effect.amount_minor)
    return {
        "ticket_id": ticket_id,
        "payment_row": {
            "id": f"pr_{effect.number}",
            "payment_method_id": PAYMENT_METHOD_ID,
            "service_id": SERVICE_ID,
            "pass_id": pass_id,
            "amount": amount,
            "currency": CURRENCY,
        },
        "receipt_row": {
            "label": "Cashback",
            "balance_before": Minor(effect.balance_after_minor - effect.amount_minor),
            "amount": amount,
            "balance_after": Minor(effect.balance_after_minor),
            "currency": CURRENCY,
        },
    }
