"""The vendor's customer and our person, either way; personal data is never shown from here."""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from loyalty_gateway.domain.operations import Person

_DAY: Final = re.compile(r"\d{8}", re.ASCII)
# The vendor wants every member where there is a customer at all; what nobody told is empty, and
# nobody is signed up for mail who did not ask for it.
_UNTOLD: Final[Mapping[str, str]] = {
    "customerType": "1",
    "firstName": "",
    "middleName": "",
    "lastName": "",
    "address1": "",
    "address2": "",
    "city": "",
    "state": "",
    "postal": "",
    "country": "",
    "mailPref": "O",
    "phone": "",
    "isMobile": "N",
    "phonePref": "O",
    "email": "",
    "emailPref": "O",
    "birthday": "",
    "anniversary": "",
    "gender": "",
}
_OWN: Final = frozenset({"firstName", "lastName", "phone", "email", "birthday"})
ATTRIBUTES: Final = tuple(name for name in _UNTOLD if name not in _OWN)
"""The fields of a customer that have no place of their own in the contract, by their names."""


def encode_customer(person: Person) -> dict[str, str]:
    """The customer with every member that the vendor knows.

    A single name is not split, so a person with nothing but a display name has none here.
    """
    told = {
        "firstName": person.given_name,
        "lastName": person.family_name,
        "phone": person.phone,
        "email": person.email,
        "birthday": f"{person.birth_date:%Y%m%d}" if person.birth_date is not None else "",
    }
    attributes = dict(person.attributes)
    return {
        name: told.get(name) or attributes.get(name) or untold for name, untold in _UNTOLD.items()
    }


def find_unknown_attributes(person: Person) -> tuple[str, ...]:
    """The names among the attributes that this vendor has no place for."""
    return tuple(name for name, _ in person.attributes if name not in ATTRIBUTES)


def decode_customer(value: Any) -> Person:
    """The customer as far as it is told in texts; it proves nothing, so nothing is refused."""
    if not isinstance(value, dict):
        return Person()
    told = {
        name: text
        for name in _UNTOLD
        if isinstance(text := value.get(name), str) and text and text.isprintable()
    }
    return Person(
        given_name=told.get("firstName", ""),
        family_name=told.get("lastName", ""),
        phone=told.get("phone", ""),
        email=told.get("email", ""),
        birth_date=_find_day(told.get("birthday", "")),
        attributes=tuple((name, told[name]) for name in ATTRIBUTES if name in told),
    )


def _find_day(text: str) -> date | None:
    if not _DAY.fullmatch(text):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None
