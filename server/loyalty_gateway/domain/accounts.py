"""How an account id may be shown; the plain id itself never leaves the request."""

import re

_SHOWN_MAX = 4


def mask_account_id(account_id: str) -> str:
    """The last characters of an id behind bullets: at most four, never more than half of it."""
    shown = min(_SHOWN_MAX, len(account_id) // 2)
    return "•" * (len(account_id) - shown) + account_id[len(account_id) - shown :]


def mask_email(email: str) -> str:
    """An address as its owner recognises it: the letters that its two parts begin with.

    At most four characters are shown, never more than half of the address.
    """
    at = email.rfind("@")
    shown = {at, 0, at + 1} if len(email) > 5 else {at}
    return "".join(letter if place in shown else "•" for place, letter in enumerate(email))


_SEPARATORS = re.compile(r"[-._: ]")


def looks_like_card_number(text: str) -> bool:
    """Whether a text is 13 to 19 digits (separators aside) that pass the Luhn check."""
    digits = _SEPARATORS.sub("", text)
    if not (digits.isascii() and digits.isdigit() and 13 <= len(digits) <= 19):
        return False
    return _passes_luhn(digits)


def looks_like_payment_card(text: str) -> bool:
    """As looks_like_card_number, but only in the lengths and with the first digits of payment
    cards: for fields in which other long numbers, such as orders, are ordinary."""
    digits = _SEPARATORS.sub("", text)
    return len(digits) in (15, 16, 19) and digits[0] in "23456" and looks_like_card_number(text)


def _passes_luhn(digits: str) -> bool:
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
