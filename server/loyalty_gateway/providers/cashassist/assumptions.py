"""What is taken for granted about CashAssist although the vendor's own text does not say so."""

from collections.abc import Mapping
from typing import Final

ASSUMPTIONS: Final[Mapping[str, str]] = {
    "error codes": (
        "the codes, their HTTP statuses and the envelope around them are our working description; "
        "the vendor's own reference could not be read"
    ),
    "idempotency key": (
        "the header is called Idempotency-Key, a key is kept for 24 hours, and a replayed answer "
        "is marked by the header Idempotent-Replayed"
    ),
    "refusals come first": (
        "an answer with one of the listed refusals, or with HTTP 429, means that nothing was booked"
    ),
    "currency": "every account behind one API key is kept in one currency",
    "sign of a withdrawal": (
        "the history may show a withdrawal with either sign; its type alone says what it did"
    ),
}
"""Each by what it is about."""
