"""The table of faults that every player can commit; it must never decide when one fires."""

from dataclasses import dataclass, replace
from typing import Literal

Delivery = Literal["whole", "truncated", "none"]

FAULT_HEADER = "X-Sandbox-Fault"
RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What a player sends back, and how much of it reaches the wire."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    delivery: Delivery = "whole"

    def with_headers(self, *extra: tuple[str, str]) -> "Answer":
        return replace(self, headers=self.headers + extra)


@dataclass(frozen=True, slots=True)
class Fault:
    """One way of failing: `when` is its place relative to the effect of a booking.

    `card` is the magic account on which the first attempt of every booking fails so.
    """

    name: str
    card: str
    kind: Literal["lost", "slow", "500", "503", "garbage", "truncated", "429"]
    when: Literal["before", "after"]
    happens: str

    @property
    def has_effect(self) -> bool:
        """Whether the failed attempt books; slow ones do in the end, whatever the caller saw."""
        return self.when == "after" or self.kind == "slow"


# A booking fault fires on the first attempt of an Idempotency-Key only, a read fault whenever
# the header names it. Docs and the first screen print this table; it has no other home.
FAULTS: tuple[Fault, ...] = (
    Fault("lost-before", "20001", "lost", "before", "not booked; the connection just closes"),
    Fault("lost-after", "20002", "lost", "after", "booked; the connection just closes"),
    Fault("slow-after", "20003", "slow", "after", "booked at once; answered after a long wait"),
    Fault("500-before", "20004", "500", "before", "not booked; HTTP 500"),
    Fault("500-after", "20005", "500", "after", "booked; HTTP 500"),
    Fault("garbage-after", "20006", "garbage", "after", "booked; HTTP 200 that is not JSON"),
    Fault("429", "20007", "429", "before", "not booked; HTTP 429 with Retry-After"),
    Fault("slow-before", "20008", "slow", "before", "a long wait; then booked and answered"),
    Fault("garbage-before", "20009", "garbage", "before", "not booked; HTTP 200 that is not JSON"),
    Fault("truncated-after", "20010", "truncated", "after", "booked; half an answer, then a close"),
    Fault("503-after", "20011", "503", "after", "booked; HTTP 503 in a proxy's words"),
)
FAULT_BY_NAME = {fault.name: fault for fault in FAULTS}
FAULT_BY_CARD = {fault.card: fault for fault in FAULTS}

_GARBAGE = b"<!doctype html><title>Welcome</title><p>It works!</p>"
_PROXY_PAGE = b"<html><body><h1>503 Service Unavailable</h1></body></html>"


def spoil(fault: Fault, answer: Answer, *, internal_error: Answer, rate_limited: Answer) -> Answer:
    """The answer that leaves under the fault; a slow one leaves unchanged, only later.

    The vendor's own envelopes for 500 and 429 are handed in, since each vendor has its own.
    """
    match fault.kind:
        case "lost":
            return replace(answer, delivery="none")
        case "slow":
            return answer
        case "500":
            return internal_error
        case "503":
            return Answer(503, _PROXY_PAGE, content_type="text/html")
        case "garbage":
            return Answer(200, _GARBAGE)
        case "truncated":
            return replace(answer, delivery="truncated")
        case "429":
            return rate_limited.with_headers(("Retry-After", str(RETRY_AFTER_S)))


def describe_unknown(name: str) -> str:
    """The text for a fault that does not exist, naming those that do."""
    known = ", ".join(fault.name for fault in FAULTS)
    return f"{FAULT_HEADER} does not know {name[:40]!r}; known faults: {known}"
