"""Loyalife's envelope, wrapped or bare, and what stands in it; a doubt is never read as a yes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

from loyalty_gateway.providers import answers
from loyalty_gateway.providers.answers import (
    Document,
    UnreadableAnswer,
    read_text,
    read_time,
    read_whole_number,
)
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.providers.tokens import Token

TEXT_CHARACTERS_MAX: Final = 500
TOKEN_CHARACTERS_MAX: Final = 6_000
CODE_DIGITS: Final = 3
"""The seed calls codes numeric, the developer pages print text of three digits: a number is
compared as the text that it would be there."""

# No code has more digits, so that a number which is somebody's never passes for one.
CODE_DIGITS_MAX: Final = 5
_CODE: Final = re.compile(rf"[A-Za-z]?[0-9]{{1,{CODE_DIGITS_MAX}}}")
GUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_WRAPPER: Final = "results"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the vendor says around its answer; `is_successful` alone tells yes from no."""

    is_successful: bool
    code: str
    content: Any = field(repr=False)
    count: int | None = None


def read_document(answer: HttpAnswer) -> Document:
    """The answer with its envelope, out of `results` where it is in there; never raises."""
    document = answers.read_document(answer)
    found = document.fields
    if found is None or _WRAPPER not in found:
        return document
    inner = found[_WRAPPER]
    if not isinstance(inner, dict):
        return Document(answer, problem="the envelope is no object")
    if "IsSucessful" in found:
        return Document(answer, problem="the answer has two envelopes")
    return replace(document, fields=inner)


def read_envelope(document: Document) -> Envelope:
    """The envelope of an answer.

    Raises:
        UnreadableAnswer: it has none, or one of its parts is not what it should be.
    """
    fields = document.require()
    flag = fields.get("IsSucessful")
    if not isinstance(flag, bool):
        raise UnreadableAnswer("IsSucessful is missing or no truth value")
    count = fields.get("Count")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
        raise UnreadableAnswer("Count is no number")
    return Envelope(flag, _code(fields.get("ErrorCode")), fields.get("ReturnObject"), count)


def read_token(document: Document, now: datetime) -> Token:
    """The token of an answer to the token request, and how long it holds.

    Its end is told in the vendor's time, so it is compared with the vendor's clock where the
    answer shows that.

    Raises:
        UnreadableAnswer: there is no usable token.
    """
    fields = document.require()
    if fields.get("IsSucessful", True) is not True:
        raise UnreadableAnswer("the answer holds no token")
    value = fields.get("token")
    # It becomes a header: a line break in it would become another one.
    if not isinstance(value, str) or not re.fullmatch(rf"[!-~]{{1,{TOKEN_CHARACTERS_MAX}}}", value):
        raise UnreadableAnswer("token is missing or no header value")
    end = read_time(fields, "tokenExpiresOn")
    life = max(end - _their_now(document.answer, now), timedelta())
    return Token(value, life.total_seconds())


def describe(document: Document) -> list[tuple[str, str]]:
    """What people may be shown of an answer: names, addresses and free text are not in it."""
    fields = document.fields or {}
    content = fields.get("ReturnObject")
    is_plain = isinstance(content, bool | int)
    shown = []
    if isinstance(flag := fields.get("IsSucessful"), bool):
        shown.append(("IsSucessful", str(flag)))
    if code := find_any_code(document):
        shown.append(("ErrorCode", code))
    if is_plain or (isinstance(content, str) and GUID.fullmatch(content)):
        shown.append(("ReturnObject", str(content)))
    return shown


def find_any_code(document: Document) -> str:
    """The vendor's code in any answer, or nothing."""
    try:
        return _code((document.fields or {}).get("ErrorCode"))
    except UnreadableAnswer:
        return ""


def find_code(document: Document) -> str:
    """The vendor's code in an answer that is no success, or nothing where none can be trusted."""
    try:
        envelope = read_envelope(document)
    except UnreadableAnswer:
        return ""
    return "" if envelope.is_successful else envelope.code


def read_entries(value: Any, what: str, count_max: int) -> list[dict[str, Any]]:
    """A list of objects.

    Raises:
        UnreadableAnswer: it is none, or longer than that.
    """
    if not isinstance(value, list) or len(value) > count_max:
        raise UnreadableAnswer(f"{what} is no list, or too long")
    if not all(isinstance(entry, dict) for entry in value):
        raise UnreadableAnswer(f"an entry of {what} is no object")
    return value


def read_object(value: Any, what: str) -> dict[str, Any]:
    """An object, or UnreadableAnswer."""
    if not isinstance(value, dict):
        raise UnreadableAnswer(f"{what} is no object")
    return value


def find_text(fields: Mapping[str, Any], name: str) -> str:
    """A text, empty where it is absent, null or empty."""
    if fields.get(name) is None:
        return ""
    return read_text(fields, name, is_empty_allowed=True, characters_max=TEXT_CHARACTERS_MAX)


def find_whole_number(fields: Mapping[str, Any], name: str) -> int | None:
    """A whole number, None where it is absent or null."""
    return None if fields.get(name) is None else read_whole_number(fields, name)


def find_flag(fields: Mapping[str, Any], name: str) -> bool | None:
    """A truth value, None where it is absent or null."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise UnreadableAnswer(f"{name} is no truth value")
    return value


def _code(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**CODE_DIGITS_MAX:
        return f"{value:0{CODE_DIGITS}d}"
    if isinstance(value, str) and _CODE.fullmatch(value):
        return value
    raise UnreadableAnswer("ErrorCode is missing or no code")


def _their_now(answer: HttpAnswer, now: datetime) -> datetime:
    try:
        theirs = parsedate_to_datetime(answer.headers.get("date", ""))
    except (ValueError, TypeError, OverflowError):
        return now
    return theirs.astimezone(UTC) if theirs.tzinfo is not None else now
