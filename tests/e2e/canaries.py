"""Secrets that must be seen nowhere, and the search for them in whatever form they may hide."""

import base64
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

# A number that could stand on a card, and an id that no filter would take for one.
CARD_NUMBER = "4929498671034565"
CARD_WORD = "KANARI-7Q4ZX-88310B"
HOLDER = "Wilhelmina Kanarienvogel"
VENDOR_KEY = "sk_test_demo"
CODE = "QZ7FK3W9"
# What a till might type into any field of text: another card number, whole and as printed.
TYPED_FORMS = ("5412751234123452", "5412 7512 3412 3452", "5412-7512-3412-3452")


@dataclass(frozen=True, slots=True)
class Hit:
    """Where a secret was found, and as what."""

    place: str
    form: str
    near: bytes


def forms_of(secret: str) -> dict[str, bytes]:
    """How a secret may be written down, by name; base64 at each of its three alignments."""
    plain = secret.encode()
    forms = {
        "plain": plain,
        "reversed": plain[::-1],
        "UTF-16": secret.encode("utf-16-le"),
        "hex": plain.hex().encode(),
        "percent": quote(secret, safe="").encode(),
    }
    for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
        for shift in range(3):
            # What stands before and after the secret bleeds into the letters at its edges.
            first, last = -(-8 * shift // 6), 8 * (shift + len(plain)) // 6
            forms[f"{name}+{shift}"] = encode(b"\0" * shift + plain)[first:last]
    assert all(len(form) >= 8 for form in forms.values()), "too short to be told from chance"
    return forms


def search(secret: str, places: Mapping[str, bytes]) -> list[Hit]:
    """Every place and form in which the secret is to be seen; only base64 minds the case."""
    hits = []
    for place, content in places.items():
        folded = content.lower()
        for name, form in forms_of(secret).items():
            is_exact = name.startswith("base64")
            at = content.find(form) if is_exact else folded.find(form.lower())
            if at >= 0:
                hits.append(Hit(place, name, content[max(0, at - 60) : at + len(form) + 20]))
    return hits


def journal_places(journal: Path) -> dict[str, bytes]:
    """Every cell of the journal, and its files as they stand on disk, log and all."""
    places = {
        path.name: path.read_bytes()
        for path in journal.parent.iterdir()
        if path.is_file() and path.name.startswith(journal.name)
    }
    for place, content in _cells(journal):
        places[place] = places.get(place, b"") + b"\n" + content
    return places


def _cells(journal: Path) -> Iterator[tuple[str, bytes]]:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            rows = connection.execute(f'SELECT * FROM "{table}"')
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    content = value if isinstance(value, bytes) else str(value).encode()
                    yield f"{table}.{column}", content
