"""Reads a vendor's answer by the vendor's own tables; it knows no vendor and never guesses.

What an answer means stands in the tables of its vendor's folder. Here stands only how they are
read, which is the same for every vendor: a success proves what it says, a refusal counts when it
is listed, and anything else proves nothing.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

from loyalty_gateway.domain.amounts import MINOR_MAX, Money
from loyalty_gateway.domain.errors import Fate
from loyalty_gateway.providers.connection import VendorCall, clean
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.providers.port import ProviderError, StatusRow
from loyalty_gateway.providers.status import (
    StatusTable,
    describe_row,
    find_row,
    read_retry_after,
)
from loyalty_gateway.providers.strict_json import UnreadableDocument, parse_json

Found = TypeVar("Found")

SHOWN_CHARACTERS_MAX: Final = 1_000
TEXT_CHARACTERS_MAX: Final = 200

_TIMESTAMP: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class UnreadableAnswer(ValueError):
    """An answer that does not prove what it should; the text is ours and holds none of it."""


@dataclass(frozen=True, slots=True)
class Document:
    """An answer, its JSON read once; `problem` says why there are no fields."""

    answer: HttpAnswer
    fields: dict[str, Any] | None = field(default=None, repr=False)
    problem: str = ""

    def require(self) -> dict[str, Any]:
        """The fields, or UnreadableAnswer where the answer is no JSON object."""
        if self.fields is None:
            raise UnreadableAnswer(self.problem)
        return self.fields


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one vendor speaks: its tables, where its code stands, and what may be shown.

    `documented` holds the HTTP status that each code comes with: a code under another status is
    not believed, for then something that is not the vendor's application has had a hand in the
    answer. `find_code` returns the code of an error, or nothing where there is none to be
    believed. `describe` returns what people may be shown: no names, no account, no free text.
    """

    provider: str
    status: StatusTable
    default: StatusRow
    unreadable: StatusRow
    documented: Mapping[str, int]
    find_code: Callable[[Document], str]
    describe: Callable[[Document], list[tuple[str, str]]]

    def read(
        self, call: VendorCall, account_id: str, document: Document, decode: Callable[[], Found]
    ) -> Found:
        """What a 200 holds.

        Raises:
            ProviderError: by the STATUS table for any other answer; `unreadable` for a 200 that
                `decode` cannot read.
        """
        http_status = document.answer.status
        if http_status == 200:
            try:
                return decode()
            except UnreadableAnswer as error:
                raise self.refuse(
                    self.unreadable,
                    f"the provider's answer proves nothing: {error}",
                    f"200 that proves nothing: {error}",
                    call,
                    account_id,
                    document,
                ) from error
        code = self.find_code(document)
        if self.documented.get(code, http_status) != http_status:
            row, rule = self.default, f"{code} under HTTP {http_status}"
        else:
            row, rule = find_row(self.status, self.default, call.operation, code, http_status)
        raise self.refuse(
            row,
            describe_row(row, call.operation),
            clean(rule, account_id),
            call,
            account_id,
            document,
            code,
        )

    def refuse(
        self,
        row: StatusRow,
        message: str,
        rule: str,
        call: VendorCall,
        account_id: str,
        document: Document,
        code: str = "",
    ) -> ProviderError:
        """The error that an answer stands for, with what people may be shown of it."""
        answer = document.answer
        is_rate_limited = answer.status == 429 and row.fate is Fate.NOT_EXECUTED
        return ProviderError(
            row,
            message,
            rule=f"{self.provider}: {rule}",
            http_status=answer.status,
            provider_code=clean(code, account_id),
            retry_after_s=(
                read_retry_after(answer.headers.get("retry-after")) if is_rate_limited else None
            ),
            request_text=call.request_text,
            answer_text=self.show(document, account_id),
        )

    def show(self, document: Document, account_id: str) -> str:
        """An answer for people, in one line."""
        shown = f"HTTP {document.answer.status}"
        if document.problem:
            return f"{shown}, {len(document.answer.body)} bytes: {document.problem}"
        fields = ", ".join(
            f"{name} {clean(value, account_id)}" for name, value in self.describe(document)
        )
        return f"{shown}: {fields}"[:SHOWN_CHARACTERS_MAX] if fields else shown


def read_document(answer: HttpAnswer) -> Document:
    """The answer with its JSON, which may be none; never raises."""
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        return Document(answer, problem="the answer is not called JSON")
    try:
        fields = parse_json(answer.body, bytes_max=len(answer.body))
    except UnreadableDocument as error:
        return Document(answer, problem=str(error))
    if not isinstance(fields, dict):
        return Document(answer, problem="the answer is no object")
    return Document(answer, fields)


def read_text(
    fields: Mapping[str, Any],
    name: str,
    *,
    is_empty_allowed: bool = False,
    characters_max: int = TEXT_CHARACTERS_MAX,
) -> str:
    """A text that must be there.

    Raises:
        UnreadableAnswer: it is missing, too long, empty or no text.
    """
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > characters_max:
        raise UnreadableAnswer(f"{name} is missing, too long or no text")
    if not value and not is_empty_allowed:
        raise UnreadableAnswer(f"{name} is empty")
    return value


def read_money(fields: Mapping[str, Any], name: str, currency: str) -> Money:
    """An amount in units of the currency that must be there and fit its smallest coin.

    Raises:
        UnreadableAnswer: it is missing, no number, or no amount of the currency.
    """
    value = fields.get(name)
    # bool is an int to Python, and no amount to anybody.
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise UnreadableAnswer(f"{name} is missing or no number")
    try:
        return Money.from_decimal(currency, Decimal(value))
    except ValueError as error:
        raise UnreadableAnswer(f"{name} is not an amount of {currency}") from error


def read_whole_number(fields: Mapping[str, Any], name: str) -> int:
    """A whole number that must be there, such as points.

    Raises:
        UnreadableAnswer: it is missing, no number, not whole or absurd.
    """
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise UnreadableAnswer(f"{name} is missing or no number")
    whole = int(value)
    if whole != value or abs(whole) > MINOR_MAX:
        raise UnreadableAnswer(f"{name} is no whole number within bounds")
    return whole


def read_time(fields: Mapping[str, Any], name: str) -> datetime:
    """A time by RFC 3339, in UTC, that must be there.

    Raises:
        UnreadableAnswer: it is missing, or no time with a zone.
    """
    value = read_text(fields, name)
    try:
        if not _TIMESTAMP.fullmatch(value):
            raise ValueError(name)
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UnreadableAnswer(f"{name} is no time with a zone") from error
