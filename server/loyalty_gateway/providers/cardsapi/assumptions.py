"""What is taken for granted about CardAPI although the vendor's own pages do not say so."""

from collections.abc import Mapping
from typing import Final

ASSUMPTIONS: Final[Mapping[str, str]] = {
    "path of a debit": "the page shows the body of a debit and not its path",
    "token": (
        "AuthAPI takes client and access token by basic authentication and answers with the token "
        "and its end; the token is a bearer's, and its scope is called card"
    ),
    "token comes first": (
        "a refused token means that nothing was booked, since it is looked at before anything else"
    ),
    "error code": "the code of an error stands in a member called code",
    "kinds of numbers": "how a number was read is spelled BARCODE, NFC and MANUAL",
    "rows of a debit": (
        "the members of the payment row and of the receipt row are guessed where the page leaves "
        "them out; what is missing in them is left out, and only another pass contradicts"
    ),
    "repeated ticket": (
        "nothing is published about a second debit with one ticket id, so by default it is taken "
        "to book again"
    ),
    "too little on the card": (
        "there is no code for it: an invalid request after the pass was seen to hold less counts "
        "as one"
    ),
}
"""Each by what it is about."""
