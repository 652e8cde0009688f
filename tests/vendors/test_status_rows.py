"""Every row of every STATUS table, in the vendor's words over real HTTP, as a caller is told it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import grpc
import pytest

from loyalty.v1 import providers_pb2, types_pb2
from loyalty_gateway.conformance.subject import Subject
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import CHALLENGE_OPERATIONS, Operation
from loyalty_gateway.providers.openloyaltypay.status import FIRST_ATTEMPT
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.rpc.status import CODES
from tests.vendors.asking import FACTS, REQUESTS
from tests.vendors.house import House
from tests.vendors.matrix import CONNECTIONS, MATRIX
from tests.vendors.rows import (
    BOOKING_OF,
    CANARY,
    READ_OF,
    ROUTES,
    SUBJECTS,
    Told,
    check_told,
    check_truth,
    is_booking,
    send_at,
    try_row,
)

UNHEARD_OF: Final[Mapping[str, str]] = {
    "cashassist": "never_heard_of",
    "cardsapi": "CARD-99",
    "loyalife": "555",
    "openloyaltypay": "4999",
}
"""A code that no table has, spelt as the vendor spells codes: it gets the default."""

TOKENLESS: Final = "cardsapi-tokenless"
"""A connection of the house that never gets a token; the AUTH codes are answers to that wish."""

TOKENS: Final = "/token"

NEVER_HEARD: Final[Mapping[tuple[str, str | int], str]] = {}
"""Rows that no answer can produce, with the reason."""

Key = tuple[Operation | None, str | int]


@dataclass(frozen=True, slots=True)
class Case:
    """A row of a table, and an rpc that can meet it."""

    connection: str
    rpc: str
    code: str | int

    def __str__(self) -> str:
        return f"{self.connection}-{self.code}-{self.rpc}"

    @property
    def subject(self) -> Subject:
        """What is known of the vendor's words."""
        return SUBJECTS[self.connection]

    @property
    def row(self) -> StatusRow:
        """What the adapter's table says of it."""
        table, operation = self.subject.status, Operation(self.rpc)
        if self.connection == "openloyaltypay" and self.code in FIRST_ATTEMPT:
            return FIRST_ATTEMPT[str(self.code)] if is_booking(self.rpc) else table[None, self.code]
        found = table.get((operation, self.code)) or table.get((None, self.code))
        return found or self.subject.status_default


def _cases() -> Iterator[Case]:
    for connection in CONNECTIONS:
        table = SUBJECTS[connection].status
        for operation, code in table:
            if (connection, code) in NEVER_HEARD or is_token(code):
                continue
            if operation is not None:
                yield Case(connection, operation.value, code)
                continue
            yield from (Case(connection, rpc, code) for rpc in _rpcs_of(connection))
        codes = (rpc for it, rpc in ROUTES if it == connection and _is_code(rpc))
        rpcs = (*_rpcs_of(connection), *codes)
        yield from (Case(connection, rpc, UNHEARD_OF[connection]) for rpc in rpcs)


def _is_code(rpc: str) -> bool:
    return Operation(rpc) in CHALLENGE_OPERATIONS


def is_token(code: str | int) -> bool:
    """Whether a code is an answer to the wish for a token alone."""
    return str(code).startswith("AUTH-")


def _rpcs_of(connection: str) -> tuple[str, str]:
    return BOOKING_OF[connection], READ_OF[connection]


# By name: a table may be made of a set, and every worker has to see the same order.
CASES: Final = tuple(sorted(dict.fromkeys(_cases()), key=str))

TOKEN_CODES: Final = tuple(code for _, code in SUBJECTS["cardsapi"].status if is_token(code))

_RETRIED_READS: Final = frozenset(
    {
        Reason.PROVIDER_INTERNAL,
        Reason.PROVIDER_ANSWER_UNREADABLE,
        Reason.PROVIDER_RATE_LIMITED,
    }
)


_LOST: Final = frozenset(
    {
        Reason.PROVIDER_INTERNAL,
        Reason.PROVIDER_ANSWER_UNREADABLE,
        Reason.PROVIDER_PENDING,
    }
)


def told_of_a_code(row: StatusRow, rpc: str) -> Told:
    """What a caller has to be told of a row that answers a code, a receipt or a password."""
    is_known = row.fate is Fate.NOT_EXECUTED
    outcome, is_final = "", None
    if rpc == "Wallets.CreateChallenge":
        outcome = "NOT_EXECUTED" if is_known else "UNKNOWN"
        is_final = row.is_refusal
    if row.reason in _LOST and not is_known:
        # Nobody knows whether it was sent, or right: libraries must not try it again.
        late = grpc.StatusCode.DEADLINE_EXCEEDED
        return Told(late, "PROVIDER_PENDING", outcome, is_final, is_stopped=True)
    return Told(
        CODES[row.reason],
        row.reason.value,
        outcome,
        is_final,
        retries=row.reason is Reason.PROVIDER_RATE_LIMITED,
        field="code" if row.reason is Reason.CODE_INVALID else "",
    )


def told_of(row: StatusRow, rpc: str, mode: int) -> Told:
    """What a caller has to be told of a row, by the rules of the contract."""
    if not is_booking(rpc):
        return Told(CODES[row.reason], row.reason.value, retries=row.reason in _RETRIED_READS)
    is_lost = row.fate is Fate.UNKNOWN
    if row.contradicts or (is_lost and mode == types_pb2.RECOVERY_MODE_MANUAL):
        return Told(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "BOOKING_NEEDS_REVIEW",
            "UNKNOWN",
            is_final=False,
            is_stopped=True,
        )
    if is_lost:
        return Told(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "BOOKING_IN_DOUBT",
            "UNKNOWN",
            is_final=False,
            retries=True,
        )
    return Told(
        CODES[row.reason],
        row.reason.value,
        "NOT_EXECUTED",
        is_final=row.is_refusal,
        retries=row.reason is Reason.PROVIDER_RATE_LIMITED,
    )


def test_every_row_is_tried_or_has_a_reason_why_not() -> None:
    rows = {(connection, code) for connection in CONNECTIONS for _, code in _keys(connection)}
    tried = {(it.connection, it.code) for it in CASES} | {("cardsapi", it) for it in TOKEN_CODES}

    assert rows <= tried | set(NEVER_HEARD)
    assert tried - rows == {(connection, UNHEARD_OF[connection]) for connection in CONNECTIONS}
    assert set(NEVER_HEARD) <= rows, "a reason for a row that is gone"
    for connection, code in NEVER_HEARD:
        assert SUBJECTS[connection].refusal(code, CANARY) is None, "it can be heard after all"


def test_every_row_is_about_something_that_the_vendor_can_do() -> None:
    rows = [(it.rpc, it.connection) for it in CASES]

    assert [cell for cell in rows if not MATRIX[cell]] == []


def _keys(connection: str) -> list[Key]:
    return list(SUBJECTS[connection].status)


@pytest.mark.parametrize("case", [it for it in CASES if is_booking(it.rpc)], ids=str)
async def test_a_booking_is_told_what_a_row_means_and_the_truth_in_the_end(
    house: House, case: Case
) -> None:
    subject = SUBJECTS[case.connection]
    answer = subject.refusal(case.code, CANARY)
    assert answer is not None
    capabilities = await house.capabilities(case.connection)
    trial = await try_row(house, case.connection, case.rpc, answer)

    code = "" if isinstance(case.code, int) else case.code
    told = told_of(case.row, case.rpc, capabilities[case.rpc].recovery_mode)
    check_told(trial.reply, told, case.connection, code)
    await check_truth(house, case.connection, trial)
    assert CANARY.encode() not in house.journal_bytes()


@pytest.mark.parametrize(
    "case",
    [
        it
        for it in CASES
        if not is_booking(it.rpc) and Operation(it.rpc) not in CHALLENGE_OPERATIONS
    ],
    ids=str,
)
async def test_a_read_is_told_what_a_row_means(house: House, case: Case) -> None:
    answer = SUBJECTS[case.connection].refusal(case.code, CANARY)
    assert answer is not None

    trial = await try_row(house, case.connection, case.rpc, answer)

    code = "" if isinstance(case.code, int) else case.code
    told = told_of(case.row, case.rpc, providers_pb2.SUPPORT_UNSPECIFIED)
    check_told(trial.reply, told, case.connection, code)


CODES_OF_PERSONS: Final = tuple(it for it in CASES if Operation(it.rpc) in CHALLENGE_OPERATIONS)


@pytest.mark.parametrize("case", CODES_OF_PERSONS, ids=str)
async def test_a_code_or_a_receipt_is_told_what_a_row_means(house: House, case: Case) -> None:
    answer = case.subject.refusal(case.code, CANARY)
    assert answer is not None

    trial = await try_row(house, case.connection, case.rpc, answer)

    if case.code == "receipt_mismatch":
        # The vendor's no is the answer to what was asked.
        assert trial.reply.is_ok and not trial.reply.response.verified
        return
    code = "" if isinstance(case.code, int) else case.code
    check_told(trial.reply, told_of_a_code(case.row, case.rpc), case.connection, code)
    assert CANARY.encode() not in house.journal_bytes()


_ABOUT_THE_TOKEN: Final = frozenset(
    {
        Reason.PROVIDER_CREDENTIALS_REJECTED,
        Reason.PROVIDER_ACCESS_DENIED,
        Reason.ADAPTER_ROUTE_INVALID,
    }
)


@pytest.mark.parametrize("code", TOKEN_CODES)
@pytest.mark.parametrize("rpc", _rpcs_of("cardsapi"))
async def test_without_a_token_nothing_is_sent_and_the_caller_is_told_why(
    house: House, rpc: str, code: str
) -> None:
    subject, vendor = SUBJECTS["cardsapi"], house.vendors["cardsapi"]
    answer = subject.refusal(code, CANARY)
    request = REQUESTS[rpc](replace(FACTS["cardsapi"], connection=TOKENLESS))
    reason = subject.status[None, code].reason
    # Whatever it was: no request left, so the vendor could as well have been out of reach.
    reason = reason if reason in _ABOUT_THE_TOKEN else Reason.PROVIDER_UNREACHABLE
    told = Told(
        CODES[reason],
        reason.value,
        "NOT_EXECUTED" if is_booking(rpc) else "",
        is_final=False if is_booking(rpc) else None,
        retries=reason is Reason.PROVIDER_UNREACHABLE,
    )

    trial = await send_at(
        house,
        "cardsapi",
        request,
        lambda seen: answer if seen.route[1].endswith(TOKENS) else None,
    )

    check_told(trial.reply, told, "cardsapi", code, TOKENLESS)
    assert {seen.route[1] for seen in vendor.recorder.seen} == {vendor.player.base_path + TOKENS}
    assert CANARY.encode() not in house.journal_bytes()
