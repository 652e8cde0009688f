"""What is taken for granted about Loyalife although no page of the vendor's says so."""

from collections.abc import Mapping
from typing import Final

ASSUMPTIONS: Final[Mapping[str, str]] = {
    "codes 301 to 304": (
        "too few points, reversed before, unknown redemption, another member or merchant: the "
        "seed says that such codes exist, and no page prints them (setting `codes`)"
    ),
    "paths": (
        "of the profile by RelationReference, of a code by RelationReference, of both calls for "
        "sub-relations and of the statement by category"
    ),
    "query of a profile": "pstrRelationReference, attributeName and attributeValue",
    "envelope": (
        "it may be wrapped in `results` or bare, and a code may be a number, which is read as "
        "text of at least three digits"
    ),
    "refusals come first": (
        "a listed refusal under HTTP 200, 400, 404, 409 or 422 means that nothing was booked; "
        "under HTTP 500 nothing is known"
    ),
    "HTTP 401 and 429": "the token and the rate are looked at before anything is booked",
    "a repeated key": (
        "where the programme keeps the key of a purchase, a repeat is refused with E201"
    ),
    "length of a merchant's name": "40 characters are kept whole; with a tag only once proven",
    "lines of the history": (
        "TransactionType 1 came in and 2 went out; a redemption shows its category as "
        "LoyaltyTxnType, or 1"
    ),
    "page of the history": "up to 100 lines may be asked for at once, in either order",
    "purposes of codes": "linking is TwoFA, signing up is ACTIVATION, logging in is LOGIN",
    "fields of a new member": "name, e-mail address and phone are required",
}
"""Each by what it is about."""
