"""Reads a vendor's JSON exactly or not at all; it never guesses, rounds or repairs."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NoReturn

BYTES_MAX = 262_144
"""The largest document that is read, unless the caller says otherwise."""

DEPTH_MAX = 32
"""How deep objects and lists may be nested."""

DIGITS_MAX = 28
"""How long a number may be as it is written. It is what decimal arithmetic keeps without
rounding; no amount of anything needs more."""

EXPONENT_MAX = 30
"""The largest power of ten, either way. Beyond it a number written in six characters would
take as much memory and time as its exponent says once it is made a whole number."""

# A string that never ends is taken to the end of the text. If it were no match, the search would
# start again at each quote behind it and take the square of the document's length.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


class UnreadableDocument(ValueError):
    """The bytes are not a JSON document that can be trusted; the text holds nothing of them."""


def parse_json(document: bytes, *, bytes_max: int = BYTES_MAX, depth_max: int = DEPTH_MAX) -> Any:
    """The document as dict, list, str, bool, None, int and Decimal; never a float.

    Refused beside what JSON itself refuses: anything but UTF-8, a document that is too large
    or too deep, NaN and Infinity, numbers that are too long or have an absurd exponent, a key
    that stands twice in one object, and text that no database can hold (NUL, half a
    surrogate pair).

    Raises:
        UnreadableDocument: always this, whatever is wrong.
    """
    if len(document) > bytes_max:
        raise UnreadableDocument(f"more than {bytes_max} bytes")
    try:
        text = document.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableDocument("not UTF-8") from error
    if not text.strip():
        raise UnreadableDocument("empty")
    _check_depth(text, depth_max)
    try:
        value = _DECODER.decode(text)
    except UnreadableDocument:
        raise
    except ValueError as error:
        raise UnreadableDocument("not JSON") from error
    if "\\u" in text:
        # Only an escape can bring these in: UTF-8 has no half surrogates, and JSON allows no
        # raw control characters.
        for string in _strings(value):
            if "\0" in string or not _is_encodable(string):
                raise UnreadableDocument("a string holds NUL or half a surrogate pair")
    return value


def _check_depth(text: str, depth_max: int) -> None:
    """Counted before parsing, so that the parser's own recursion is never put to the test."""
    if text.count("[") + text.count("{") <= depth_max:
        return
    depth = 0
    for match in _STRUCTURE.finditer(text):
        mark = match[0]
        if mark in "[{":
            depth += 1
            if depth > depth_max:
                raise UnreadableDocument(f"nested deeper than {depth_max}")
        elif mark in "]}":
            depth -= 1


def _whole_number(text: str) -> int:
    if len(text) > DIGITS_MAX:
        raise UnreadableDocument("a number is too long")
    return int(text)


def _decimal_number(text: str) -> Decimal:
    mantissa, _, exponent = text.lower().partition("e")
    # The exponent's text is bounded before it is read: it may be a megabyte of digits.
    if len(mantissa) > DIGITS_MAX or len(exponent) > DIGITS_MAX:
        raise UnreadableDocument("a number is too long")
    if exponent and abs(int(exponent)) > EXPONENT_MAX:
        raise UnreadableDocument("a number has an absurd exponent")
    return Decimal(text)


def _no_constant(_: str) -> NoReturn:
    raise UnreadableDocument("NaN and Infinity are not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise UnreadableDocument("a key stands twice in one object")
    return result


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield key
            yield from _strings(member)
    elif isinstance(value, list):
        for member in value:
            yield from _strings(member)


def _is_encodable(string: str) -> bool:
    try:
        string.encode()
    except UnicodeEncodeError:
        return False
    return True


_DECODER = json.JSONDecoder(
    parse_float=_decimal_number,
    parse_int=_whole_number,
    parse_constant=_no_constant,
    object_pairs_hook=_object,
)
