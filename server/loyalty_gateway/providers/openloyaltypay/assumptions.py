"""What is taken for granted about openLoyaltyPay although the vendor's documents do not say so."""

from collections.abc import Mapping
from typing import Final

ASSUMPTIONS: Final[Mapping[str, str]] = {
    "codes": (
        "the documents publish 200 for success and no other code; every refusal in the table is "
        "our own description"
    ),
    "codes and HTTP statuses": (
        "400, 401, 403, 429 and 500 may come as HTTP status too; the codes of business come under "
        "HTTP 200"
    ),
    "token and signature come first": (
        "a refused token or signature means that nothing was booked, since both are looked at "
        "before anything else"
    ),
    "amount of a top-up": "it stands where a payment has its own; the documents leave it out",
    "repeated order number": (
        "whether it is refused, answered again or booked again is not documented, and neither is "
        "whether an order that was refused has used its number up"
    ),
    "order query": "whether it covers gift and points orders is not documented",
    "void": (
        "it takes the vendor's number of the original; whether it takes ours is not documented"
    ),
    "unit of the echo": (
        "the amount in an answer is not trusted to be in the unit that was asked in"
    ),
    "entry modes": "a number that comes from a shop on the web was typed",
    "channel": "FACTOR4 is the only channel in any sample",
}
"""Each by what it is about."""
