"""The table of faults that every player can commit; it must never decide when one fires."""

import gzip
import re
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import cache
from hashlib import sha256
from typing import Literal, Protocol

Delivery = Literal["whole", "truncated", "none", "reset", "chunks-cut", "dripped", "twice"]
Kind = Literal[
    "lost",
    "reset",
    "slow",
    "late",
    "500",
    "429",
    "page",
    "garbage",
    "truncated",
    "chunks-cut",
    "dripped",
    "twice",
    "body",
    "redirect",
    "unauthorized",
    "contradictory",
    "wrong-echo",
    "pending",
    "decline-on-repeat",
    "refused-first",
]

FAULT_HEADER = "X-Sandbox-Fault"
# Where a redirect leads: a path of no vendor, on the player itself, which logs who comes there.
ELSEWHERE = "/elsewhere"
# More than any vendor's answer, so that a reader without a limit shows.
OVERSIZED_BYTES = 300_000
NESTED_DEPTH = 100_000
UNPACKED_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a player sends back, and how much of it reaches the wire.

    `again_after_s` is for an answer that is delivered twice: how long after the first.
    """

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    delivery: Delivery = "whole"
    again_after_s: float = 0.0

    def with_headers(self, *extra: tuple[str, str]) -> "Answer":
        return replace(self, headers=self.headers + extra)


@dataclass(frozen=True, slots=True)
class Fault:
    """One way of failing: `when` is its place relative to the effect of a booking.

    `card` is the magic account on which the first attempt of every booking fails so; most faults
    have none, an empty text, and are asked for by header. `argument` says which of a kind it is.
    """

    name: str
    card: str
    kind: Kind
    when: Literal["before", "after", "later", "never"]
    happens: str
    argument: str = ""

    @property
    def has_effect(self) -> bool:
        """Whether the failed attempt books; slow ones do in the end, whatever the caller saw."""
        return self.when in ("after", "later") or self.kind == "slow"


# A booking fault fires on the first attempt of a key only, a read fault whenever the header
# names it. Docs and the first screen print these tables; they have no other home.
FAULTS: tuple[Fault, ...] = (
    Fault("lost-before", "20001", "lost", "before", "not booked; the connection just closes"),
    Fault("lost-after", "20002", "lost", "after", "booked; the connection just closes"),
    Fault("slow-after", "20003", "slow", "after", "booked at once; answered after a long wait"),
    Fault("500-before", "20004", "500", "before", "not booked; HTTP 500"),
    Fault("500-after", "20005", "500", "after", "booked; HTTP 500"),
    Fault("garbage-after", "20006", "garbage", "after", "booked; HTTP 200 that is not JSON"),
    Fault("429", "20007", "429", "before", "not booked; HTTP 429 with Retry-After", "2"),
    Fault("slow-before", "20008", "slow", "before", "a long wait; then booked and answered"),
    Fault("garbage-before", "20009", "garbage", "before", "not booked; HTTP 200 that is not JSON"),
    Fault("truncated-after", "20010", "truncated", "after", "booked; half an answer, then a close"),
    Fault("503-after", "20011", "page", "after", "booked; HTTP 503 in a proxy's words", "503"),
)
"""The faults that have a magic account, the same at every vendor."""

HEADER_FAULTS: tuple[Fault, ...] = (
    Fault("reset-before", "", "reset", "before", "not booked; the connection is reset"),
    Fault("reset-after", "", "reset", "after", "booked; the connection is reset"),
    Fault("late-effect", "", "late", "later", "the connection closes; booked a while later"),
    Fault("502-before", "", "page", "before", "not booked; HTTP 502 in a proxy's words", "502"),
    Fault("502-after", "", "page", "after", "booked; HTTP 502 in a proxy's words", "502"),
    Fault("503-before", "", "page", "before", "not booked; HTTP 503 in a proxy's words", "503"),
    Fault("504-before", "", "page", "before", "not booked; HTTP 504 in a proxy's words", "504"),
    Fault("504-after", "", "page", "after", "booked; HTTP 504 in a proxy's words", "504"),
    Fault("408-before", "", "page", "before", "not booked; HTTP 408 in a proxy's words", "408"),
    Fault("408-after", "", "page", "after", "booked; HTTP 408 in a proxy's words", "408"),
    Fault("empty-after", "", "body", "after", "booked; HTTP 200 without a body", "empty"),
    Fault("html-after", "", "body", "after", "booked; the answer is called text/html", "type"),
    Fault("bad-utf8-after", "", "body", "after", "booked; the answer is not UTF-8", "utf8"),
    Fault("duplicate-keys-after", "", "body", "after", "booked; every field comes twice", "keys"),
    Fault("nan-after", "", "body", "after", "booked; every number is NaN", "NaN"),
    Fault("1e999-after", "", "body", "after", "booked; every number is 1e999", "1e999"),
    Fault("nested-after", "", "body", "after", "booked; an answer nested without end", "nested"),
    Fault("oversized-after", "", "body", "after", "booked; an answer of 300 kB", "oversized"),
    Fault("gzip-bomb-after", "", "body", "after", "booked; gzip that unpacks to 20 MB", "gzip"),
    Fault("chunks-cut-after", "", "chunks-cut", "after", "booked; chunked, cut in the middle"),
    Fault("drip-before", "", "dripped", "before", "not booked; HTTP 200, byte by byte"),
    Fault("drip-after", "", "dripped", "after", "booked; answered byte by byte"),
    Fault("second-0-after", "", "twice", "after", "booked; answered twice at once", "0"),
    Fault("second-50-after", "", "twice", "after", "booked; again after 50 ms", "50"),
    Fault("second-500-after", "", "twice", "after", "booked; again after 500 ms", "500"),
    Fault("302-before", "", "redirect", "before", "not booked; HTTP 302 to another path", "302"),
    Fault("307-before", "", "redirect", "before", "not booked; HTTP 307 to another path", "307"),
    Fault("429-bare", "", "429", "before", "not booked; HTTP 429 without Retry-After"),
    Fault("429-date", "", "429", "before", "not booked; Retry-After is a date", "date"),
    Fault("429-far", "", "429", "before", "not booked; Retry-After is 1000000000", "1000000000"),
    Fault("429-negative", "", "429", "before", "not booked; Retry-After is -1", "-1"),
    Fault("429-text", "", "429", "before", "not booked; Retry-After is no number", "soon"),
    Fault("unauthorized-once", "", "unauthorized", "before", "not booked; token or key refused"),
    Fault("refused-first", "", "refused-first", "before", "not booked; refused as a repeat"),
    Fault("contradictory-after", "", "contradictory", "after", "booked; it says yes and no"),
    Fault("wrong-echo-after", "", "wrong-echo", "after", "booked; echoes another booking"),
    Fault("pending-then-success", "", "pending", "later", "answered as pending; booked later"),
    Fault("pending-then-failure", "", "pending", "never", "answered as pending; declined later"),
    Fault(
        "decline-on-repeat",
        "",
        "decline-on-repeat",
        "after",
        "booked; the connection closes; repeats are declined",
    ),
)
"""The faults that only the header asks for; a vendor without such a state does not know them."""

FAULT_BY_NAME = {fault.name: fault for fault in FAULTS + HEADER_FAULTS}
FAULT_BY_CARD = {fault.card: fault for fault in FAULTS if fault.card}

_GARBAGE = b"<!doctype html><title>Welcome</title><p>It works!</p>"
_PAGES = {
    408: "Request Timeout",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_NUMBER = re.compile(rb"([:\[,]\s*)-?\d+(\.\d+)?(?=\s*[,}\]])")
_RETRY_DATE_S = 7


class Voice(Protocol):
    """The vendor's own words for what goes wrong; each vendor has its own envelope."""

    def internal_error(self) -> Answer: ...

    def rate_limited(self) -> Answer: ...

    def unauthorized(self) -> Answer: ...

    def contradictory(self, answer: Answer) -> Answer: ...

    def wrong_echo(self, answer: Answer) -> Answer: ...


def spoil(fault: Fault, answer: Answer, voice: Voice, *, origin: str, now_s: float) -> Answer:
    """The answer that leaves under the fault; a slow one leaves unchanged, only later."""
    match fault.kind:
        case "lost" | "late" | "decline-on-repeat":
            return replace(answer, delivery="none")
        case "reset" | "truncated" | "chunks-cut" | "dripped":
            return replace(answer, delivery=fault.kind)
        case "slow" | "pending" | "refused-first":
            return answer
        case "twice":
            again_after_s = int(fault.argument) / 1000
            return replace(answer, delivery="twice", again_after_s=again_after_s)
        case "500":
            return voice.internal_error()
        case "page":
            status = int(fault.argument)
            page = f"<html><body><h1>{status} {_PAGES[status]}</h1></body></html>"
            return Answer(status, page.encode(), content_type="text/html")
        case "garbage":
            return Answer(200, _GARBAGE)
        case "body":
            return _with_another_body(fault.argument, answer)
        case "429":
            wait = formatdate(now_s + _RETRY_DATE_S, usegmt=True)
            wait = wait if fault.argument == "date" else fault.argument
            headers = (("Retry-After", wait),) if wait else ()
            return voice.rate_limited().with_headers(*headers)
        case "redirect":
            return Answer(int(fault.argument), b"", (("Location", origin + ELSEWHERE),))
        case "unauthorized":
            return voice.unauthorized()
        case "contradictory":
            return voice.contradictory(answer)
        case "wrong-echo":
            return voice.wrong_echo(answer)


def draw(seed: int, ratio: float, names: tuple[str, ...], *attempt: object) -> str | None:
    """The fault that chance gives an attempt, or None; the same attempt always gets the same."""
    digest = sha256(repr((seed, *attempt)).encode()).digest()
    # Whole numbers alone, so that no machine rounds the draw in another way.
    if int.from_bytes(digest[:8]) >= int(ratio * 2**32) << 32 or not names:
        return None
    return names[int.from_bytes(digest[8:16]) % len(names)]


def describe_unknown(name: str) -> str:
    """The text for a fault that does not exist, naming those that do."""
    known = ", ".join(FAULT_BY_NAME)
    return f"{FAULT_HEADER} does not know {name[:40]!r} here; known faults: {known}"


def _with_another_body(how: str, answer: Answer) -> Answer:
    """The answer with a body that a careless reader takes for another, or chokes on."""
    body = answer.body
    inner = body.strip()[1:-1]
    match how:
        case "empty":
            return replace(answer, body=b"")
        case "type":
            return replace(answer, content_type="text/html; charset=utf-8")
        case "utf8":
            return replace(answer, body=b'{"\xff\xfe":0,' + inner + b"}")
        case "keys":
            return replace(answer, body=b"{" + inner + b"," + inner + b"}")
        case "nested":
            return replace(answer, body=b"[" * NESTED_DEPTH + b"]" * NESTED_DEPTH)
        case "oversized":
            return replace(answer, body=body + b" " * OVERSIZED_BYTES)
        case "gzip":
            packed = replace(answer, body=_bomb())
            return packed.with_headers(("Content-Encoding", "gzip"))
        case number:
            spoiled, count = _NUMBER.subn(rb"\g<1>" + number.encode(), body)
            if not count:
                spoiled = b'{"":' + number.encode() + b"," + inner + b"}"
            return replace(answer, body=spoiled)


@cache
def _bomb() -> bytes:
    return gzip.compress(b" " * UNPACKED_BYTES)
