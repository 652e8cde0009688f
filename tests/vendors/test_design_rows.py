"""What the vendors' words have to become, by hand: the table of the design, line for line.

`test_status_rows.py` holds the wire against the adapters' tables; this holds the tables against
what was decided, so that a table that is wrong is not simply believed. What is no code of a
vendor's, a page of a proxy or an answer that nobody can read, is tried over the wire here.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import grpc
import pytest

from loyalty.v1 import types_pb2
from loyalty_gateway.sandbox.faults import Answer
from tests.vendors.asking import ask
from tests.vendors.house import House
from tests.vendors.matrix import CONNECTIONS
from tests.vendors.rows import (
    BOOKING_OF,
    CANARY,
    READ_OF,
    Told,
    check_told,
    check_truth,
    is_booking,
    send_at,
    speak,
)
from tests.vendors.test_status_rows import Case, told_of

MODES: Final[Mapping[str, types_pb2.RecoveryMode.ValueType]] = {
    "cashassist": types_pb2.RECOVERY_MODE_SAFE_RESEND,
    "cardsapi": types_pb2.RECOVERY_MODE_MANUAL,
    "loyalife": types_pb2.RECOVERY_MODE_STATEMENT_MATCH,
    "openloyaltypay": types_pb2.RECOVERY_MODE_STATUS_QUERY,
}
"""How a lost answer to the usual booking is found out, as the played vendors behave unasked."""

CREATES: Final = {"cashassist": "Wallets.CreateWallet", "loyalife": "Wallets.CreateWallet"}
UNDOES: Final = {"loyalife": "Points.ReversePoints", "openloyaltypay": "Gift.VoidGiftTransaction"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the design's table. `booking` is the code, or where the booking then stands.

    `read` is empty for what no read can meet; `rpcs` are the bookings, where not the usual one.
    """

    reason: str
    read: str
    booking: str
    codes: Mapping[str, str]
    rpcs: Mapping[str, str] | None = None


TABLE: Final = (
    Line("ADAPTER_ROUTE_INVALID", "INTERNAL", "INTERNAL reserved", {"cardsapi": "CARD-2"}),
    Line(
        "PROVIDER_REJECTED_ARGUMENT",
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT declined",
        {
            "cardsapi": "CARD-3",
            "loyalife": "998 999",
            "cashassist": "invalid_request",
            "openloyaltypay": "400",
        },
    ),
    Line(
        "PROVIDER_CREDENTIALS_REJECTED",
        "INTERNAL",
        "INTERNAL reserved",
        {
            "cardsapi": "CARD-5 CARD-6 CARD-7 CARD-8",
            "loyalife": "HTTP-401",
            "openloyaltypay": "401 403",
            "cashassist": "invalid_api_key",
        },
    ),
    Line(
        "PROVIDER_ACCESS_DENIED",
        "INTERNAL",
        "INTERNAL reserved",
        {"cardsapi": "CARD-9", "cashassist": "insufficient_scope"},
    ),
    Line(
        "ACCOUNT_NOT_FOUND",
        "NOT_FOUND",
        "NOT_FOUND declined",
        {
            "cardsapi": "CARD-14",
            "loyalife": "103 E001",
            "cashassist": "card_not_found",
            "openloyaltypay": "4002",
        },
    ),
    Line(
        "PROVIDER_INTERNAL",
        "UNAVAILABLE",
        "doubt",
        {
            "cardsapi": "CARD-1 CARD-4 CARD-10 CARD-11",
            "loyalife": "997 006 201",
            "cashassist": "internal_error",
            "openloyaltypay": "500",
        },
    ),
    Line("PROVIDER_PENDING", "", "doubt", {"cashassist": "request_in_progress"}),
    Line(
        "PROVIDER_KEY_CONFLICT",
        "",
        "review",
        {"cashassist": "idempotency_key_reused", "openloyaltypay": "4004"},
    ),
    Line(
        "INSUFFICIENT_BALANCE",
        "",
        "FAILED_PRECONDITION declined",
        {
            "cashassist": "insufficient_balance insufficient_points",
            "loyalife": "301",
            "openloyaltypay": "4001",
        },
    ),
    Line(
        "ACCOUNT_NOT_ACTIVE",
        "FAILED_PRECONDITION",
        "FAILED_PRECONDITION declined",
        {"cashassist": "card_blocked", "loyalife": "107", "openloyaltypay": "4003"},
    ),
    Line(
        "ACCOUNT_ALREADY_EXISTS",
        "",
        "ALREADY_EXISTS declined",
        {"cashassist": "card_exists", "loyalife": "E201"},
        CREATES,
    ),
    Line(
        "ALREADY_REVERSED",
        "",
        "FAILED_PRECONDITION declined",
        {"loyalife": "302", "openloyaltypay": "4006"},
        UNDOES,
    ),
    Line(
        "ORIGINAL_NOT_FOUND",
        "",
        "NOT_FOUND declined",
        {"loyalife": "303", "openloyaltypay": "4005"},
        UNDOES,
    ),
    Line(
        "PROVIDER_RATE_LIMITED",
        "RESOURCE_EXHAUSTED",
        "RESOURCE_EXHAUSTED limited",
        {
            "cashassist": "rate_limited HTTP-429",
            "cardsapi": "HTTP-429",
            "loyalife": "HTTP-429",
            "openloyaltypay": "429 HTTP-429",
        },
    ),
)

DOUBT: Final = Told(
    grpc.StatusCode.DEADLINE_EXCEEDED, "BOOKING_IN_DOUBT", "UNKNOWN", is_final=False, retries=True
)
REVIEW: Final = Told(
    grpc.StatusCode.DEADLINE_EXCEEDED,
    "BOOKING_NEEDS_REVIEW",
    "UNKNOWN",
    is_final=False,
    is_stopped=True,
)


def booking_told(connection: str, reason: str, words: str) -> Told:
    """What a booking's caller is told: `code state`, or the state alone where it has the code."""
    if words == "doubt":
        is_nobodys = MODES[connection] == types_pb2.RECOVERY_MODE_MANUAL
        return REVIEW if is_nobodys else DOUBT
    if words == "review":
        return REVIEW
    code, state = words.split()
    return Told(
        grpc.StatusCode[code],
        reason,
        "NOT_EXECUTED",
        is_final=state == "declined",
        retries=state == "limited",
    )


def read_told(reason: str, code: str) -> Told:
    """What a read's caller is told; a failure of the vendor's may be over the next time."""
    is_useful = code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
    return Told(grpc.StatusCode[code], reason, retries=is_useful)


def _decided() -> Iterator[tuple[Case, Told]]:
    for line in TABLE:
        for connection, words in line.codes.items():
            for word in words.split():
                number = word.removeprefix("HTTP-")
                code = word if number == word else int(number)
                rpc = (line.rpcs or BOOKING_OF)[connection]
                told = booking_told(connection, line.reason, line.booking)
                yield Case(connection, rpc, code), told
                if line.read:
                    yield (
                        Case(connection, READ_OF[connection], code),
                        read_told(line.reason, line.read),
                    )


DECIDED: Final = tuple(_decided())


@pytest.mark.parametrize(("case", "told"), DECIDED, ids=[str(case) for case, _ in DECIDED])
def test_an_adapters_table_says_what_was_decided(case: Case, told: Told) -> None:
    assert case.code in {code for _, code in case.subject.status}, "no such row"

    assert told_of(case.row, case.rpc, MODES[case.connection]) == told


# --- what is no code of a vendor's --------------------------------------------------------------


def _page(status: int) -> Answer:
    """A page in a proxy's words."""
    headers = (("location", "/elsewhere"),) if 300 <= status < 400 else ()
    return Answer(status, f"<h1>{CANARY}</h1>".encode(), headers, content_type="text/html")


def _result(result: int) -> Answer:
    """An openLoyaltyPay booking under code 200 that is not done."""
    data = {"result": result, "checkoutId": "1", "transIndexCode": "1", "amount": "1.25"}
    body = {"code": 200, "msg": CANARY, "timestamp": "2026-11-26 07:00:00", "data": data}
    return Answer(200, json.dumps(body).encode())


PAGES: Final = (302, 307, 404, 408, 418, 500, 502, 503, 504)
UNREADABLE: Final[Mapping[str, Answer]] = {
    "no-json": Answer(200, CANARY.encode()),
    "an-empty-body": Answer(200, b""),
    "another-object": Answer(200, json.dumps({"said": CANARY}).encode()),
}


@pytest.mark.parametrize("status", PAGES)
@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_a_page_that_is_not_the_vendors_proves_nothing(
    house: House, connection: str, status: int
) -> None:
    await _try(
        house,
        connection,
        BOOKING_OF[connection],
        _page(status),
        booking_told(connection, "PROVIDER_INTERNAL", "doubt"),
    )
    await _try(
        house,
        connection,
        READ_OF[connection],
        _page(status),
        read_told("PROVIDER_INTERNAL", "UNAVAILABLE"),
    )


@pytest.mark.parametrize("what", UNREADABLE)
@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_a_200_that_cannot_be_read_proves_nothing(
    house: House, connection: str, what: str
) -> None:
    answer = UNREADABLE[what]
    await _try(
        house,
        connection,
        BOOKING_OF[connection],
        answer,
        booking_told(connection, "PROVIDER_ANSWER_UNREADABLE", "doubt"),
    )
    await _try(
        house,
        connection,
        READ_OF[connection],
        answer,
        read_told("PROVIDER_ANSWER_UNREADABLE", "UNAVAILABLE"),
    )


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (1, booking_told("openloyaltypay", "PROVIDER_DECLINED", "FAILED_PRECONDITION declined")),
        (2, DOUBT),
    ],
)
async def test_a_result_that_is_not_done_is_no_success(
    house: House, result: int, told: Told
) -> None:
    await _try(house, "openloyaltypay", "Gift.PayWithGiftCard", _result(result), told)


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_what_never_left_can_be_sent_again(house: House, connection: str) -> None:
    vendor = house.vendors[connection]
    request = await ask(house, (BOOKING_OF[connection], connection))
    question = await ask(house, (READ_OF[connection], connection))
    before = vendor.books
    await vendor.recorder.stop()
    try:
        booked, read = await house.call(request), await house.call(question)
    finally:
        await vendor.recorder.start()

    unreachable = read_told("PROVIDER_UNREACHABLE", "UNAVAILABLE")
    check_told(read, unreachable, connection, "")
    check_told(
        booked,
        booking_told(connection, "PROVIDER_UNREACHABLE", "UNAVAILABLE limited"),
        connection,
        "",
    )
    assert vendor.books == before
    again = await house.call(request)
    assert again.is_ok, str(again)
    assert len(vendor.books.effects_since(before)) == 1


async def _try(house: House, connection: str, rpc: str, answer: Answer, told: Told) -> None:
    request = await ask(house, (rpc, connection))

    trial = await send_at(house, connection, request, speak(connection, rpc, answer))

    check_told(trial.reply, told, connection, "")
    if is_booking(rpc):
        await check_truth(house, connection, trial)
        assert CANARY.encode() not in house.journal_bytes()


def test_every_page_and_every_line_is_about_every_vendor_that_has_it() -> None:
    told = {connection for line in TABLE for connection in line.codes}

    assert told == set(CONNECTIONS) == set(MODES)
