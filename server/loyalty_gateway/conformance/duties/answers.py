"""What an adapter makes of the vendor's own words: listed ones, unlisted ones, contradictions."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from loyalty_gateway.conformance.duties.duty import Applies, Check, Duty, to_any, to_bookings
from loyalty_gateway.conformance.stage import Ask, Stage
from loyalty_gateway.conformance.subject import Subject
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    CHALLENGE_OPERATIONS,
    CREATE_OPERATIONS,
    UNDO_OPERATIONS,
    Operation,
)
from loyalty_gateway.providers.port import Adapter, ProviderError
from loyalty_gateway.sandbox.faults import Answer

_WITHOUT_ACCOUNT: Final = (
    CREATE_OPERATIONS
    | UNDO_OPERATIONS
    | CHALLENGE_OPERATIONS
    | {Operation.SEARCH_CARDS, Operation.LIST_TRANSACTION_ITEMS, Operation.ADD_GIFT_TIP}
)
"""Operations that name no account of the caller's choice, or answer "no" about one otherwise."""

_TAKING: Final = frozenset(
    {Operation.DEBIT_BALANCE, Operation.REDEEM_POINTS, Operation.PAY_WITH_GIFT_CARD}
)

_UNLISTED_STATUSES: Final = (400, 404, 409, 418, 422, 451)
_TEXT: Final = "words of the vendor"


def _refuses(account_of: str, reason: Reason) -> Check:
    """The check that a booking or read on such an account is refused for that reason."""

    async def check(stage: Stage, operation: Operation) -> None:
        account_id = getattr(stage.subject.accounts, account_of)
        before = stage.books()
        error = await _refusal(stage, operation, account_id)
        row = error.status
        assert row.reason is reason, (
            f"{row.reason} by the rule {error.rule!r}, and not {reason}, for an account"
            f" that is {account_of}"
        )
        if operation in BOOKING_OPERATIONS:
            assert row.fate is Fate.NOT_EXECUTED, f"a refusal has the fate {row.fate}"
            assert row.is_refusal, f"{error.rule!r} is a business refusal, and final"
            assert stage.books().count_since(before, operation) == 0, "it was booked all the same"

    return check


async def _refusal(stage: Stage, operation: Operation, account_id: str) -> ProviderError:
    try:
        # What the adapter reads before the booking may be what is refused.
        ask = await stage.ask(operation, account_id=account_id)
    except ProviderError as error:
        return error
    return await ask.fails()


async def every_row_is_read_from_the_wire(stage: Stage, operation: Operation) -> None:
    subject, ask = stage.subject, await stage.ask(operation)
    tried = 0
    for (only, code), row in subject.status.items():
        answer = subject.refusal(code, _TEXT)
        if answer is None or only not in (None, operation):
            continue
        expected = subject.status.get((operation, code), row)
        if operation is Operation.SEARCH_CARDS and expected.reason is Reason.ACCOUNT_NOT_FOUND:
            continue  # Nothing found is a good answer to a search.
        first, again = await _answered(ask, answer)
        told = f"{code} was taken for {again.status} by the rule {again.rule!r}"
        assert again.status == expected, f"{told}, and the table says {expected}"
        # A first attempt may be judged more carefully than the table says, and never less.
        is_stricter = first.status.fate is Fate.UNKNOWN and first.status.contradicts
        assert is_stricter or first.status == expected, f"{told}, but for a first attempt"
        tried += 1
    assert tried, "the subject's refusal knows no code of the table"


async def an_unlisted_code_proves_nothing(stage: Stage, operation: Operation) -> None:
    subject, ask = stage.subject, await stage.ask(operation)
    for answer in _unlisted(subject, operation):
        error, _ = await _answered(ask, answer)
        if operation in BOOKING_OPERATIONS:
            assert error.status.fate is Fate.UNKNOWN, (
                f"a code that is not in the table, with HTTP {answer.status}, was taken for"
                f" {error.status.reason} by the rule {error.rule!r}"
            )
        assert not error.status.is_refusal, "a code that is not listed is no refusal"


async def a_contradiction_proves_nothing(stage: Stage, operation: Operation) -> None:
    words = {"contradictory": "contradictory-after", "wrong_echo": "wrong-echo-after"}
    for method, fault in words.items():
        if stage.player.has_words_for(method):
            await stage.fresh()
            error = await (await stage.ask(operation)).fails(fault)
            assert error.status.fate is Fate.UNKNOWN, f"{fault} was taken for {error.status.fate}"


async def an_open_booking_is_unknown(stage: Stage, operation: Operation) -> None:
    for fault in ("pending-then-success", "pending-then-failure"):
        await stage.fresh()
        error = await (await stage.ask(operation)).fails(fault)
        assert error.status.reason is Reason.PROVIDER_PENDING, f"{fault}: {error.rule!r}"
        assert error.status.fate is Fate.UNKNOWN, f"{fault} was taken for {error.status.fate}"


async def _answered(ask: Ask, answer: Answer) -> tuple[ProviderError, ProviderError]:
    """The failures of a first and a second attempt whose request is answered so.

    Nothing is handed on, so the vendor's books stay as they are and the same can be asked again.
    """
    route = ask.stage.route(ask.operation)
    ask.stage.recorder.play = lambda seen: answer if seen.route == route else None
    first, again = await ask.fails(), await ask.fails(attempt_number=2)
    assert ask.requests, "the operation sent its request"
    return first, again


def _unlisted(subject: Subject, operation: Operation) -> Iterator[Answer]:
    """The vendor's words with a code that its table does not list, under many statuses."""
    codes = [code for _, code in subject.status if isinstance(code, str)]
    listed = set(codes)
    known = next(code for code in codes if subject.refusal(code, _TEXT) is not None)
    unlisted = next(code for last in "7x94kq" if (code := f"{known[:-1]}{last}") not in listed)
    answer = subject.refusal(unlisted, _TEXT)
    assert answer is not None, f"the subject's refusal has no words for {unlisted}"
    yield answer
    for status in _UNLISTED_STATUSES:
        if not {(None, status), (operation, status)} & subject.status.keys():
            yield replace(answer, status=status)


def _on(account_of: str, operations: frozenset[Operation] | None = None) -> Applies:
    def applies(subject: Subject, adapter: Adapter, operation: Operation) -> bool:
        is_meant = (
            operation not in _WITHOUT_ACCOUNT if operations is None else (operation in operations)
        )
        return is_meant and bool(getattr(subject.accounts, account_of))

    return applies


def _leaves_open(subject: Subject, adapter: Adapter, operation: Operation) -> bool:
    return operation in BOOKING_OPERATIONS and subject.player.leaves_open


DUTIES: Final = (
    Duty(
        "unknown-account",
        "an account that the vendor does not know is ACCOUNT_NOT_FOUND, and final for a booking",
        _on("unknown"),
        _refuses("unknown", Reason.ACCOUNT_NOT_FOUND),
    ),
    Duty(
        "blocked-account",
        "a booking on a blocked account is ACCOUNT_NOT_ACTIVE, and final",
        _on("blocked", BOOKING_OPERATIONS - _WITHOUT_ACCOUNT),
        _refuses("blocked", Reason.ACCOUNT_NOT_ACTIVE),
    ),
    Duty(
        "empty-account",
        "taking what an account does not hold is INSUFFICIENT_BALANCE, and final",
        _on("empty", _TAKING),
        _refuses("empty", Reason.INSUFFICIENT_BALANCE),
    ),
    Duty(
        "listed-codes",
        "each code of the adapter's table, in the vendor's words, is judged as the table says",
        to_any,
        every_row_is_read_from_the_wire,
    ),
    Duty(
        "unlisted-code",
        "a code that is not listed proves nothing and is no refusal, whatever its HTTP status",
        to_any,
        an_unlisted_code_proves_nothing,
    ),
    Duty(
        "contradiction",
        "an answer that says yes and no, or echoes another booking, proves nothing",
        to_bookings,
        a_contradiction_proves_nothing,
    ),
    Duty(
        "pending",
        "a booking that the vendor still works on is PROVIDER_PENDING and unknown",
        _leaves_open,
        an_open_booking_is_unknown,
    ),
)
