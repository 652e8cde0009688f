"""What an adapter makes of an exchange that failed, or of an answer that is none."""

import asyncio
from typing import Final

from loyalty_gateway.conformance.duties.duty import Duty, to_any
from loyalty_gateway.conformance.stage import HURRIED, Ask, Stage
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS, Operation
from loyalty_gateway.providers.port import ProviderError
from loyalty_gateway.sandbox.faults import ELSEWHERE

LOST: Final = ("lost-before", "lost-after", "reset-before", "reset-after")
LATE: Final = ("slow-before", "slow-after", "drip-before", "drip-after")
CUT: Final = ("truncated-after", "chunks-cut-after")
PAGES: Final = (
    "500-before 500-after 502-before 502-after 503-before 503-after"
    " 504-before 504-after 408-before 408-after"
).split()
UNREADABLE: Final = (
    "garbage-before garbage-after empty-after html-after bad-utf8-after duplicate-keys-after"
    " nan-after 1e999-after nested-after oversized-after gzip-bomb-after"
).split()
REDIRECTS: Final = ("302-before", "307-before")

_FAILED: Final = frozenset({Reason.PROVIDER_INTERNAL, Reason.PROVIDER_ANSWER_UNREADABLE})


async def not_reached_is_not_sent(stage: Stage, operation: Operation) -> None:
    ask = await stage.ask(operation)
    await stage.recorder.stop()
    try:
        error = await ask.fails()
    finally:
        await stage.recorder.start()
    assert error.status.reason is Reason.PROVIDER_UNREACHABLE, _told(error)
    assert error.status.fate is Fate.NOT_EXECUTED, _told(error)
    assert not error.status.is_refusal, "a vendor that was not reached has refused nothing"
    await ask.send()
    if operation in BOOKING_OPERATIONS:
        assert ask.effects == 1, "the same booking, sent once the vendor is back, books once"


async def a_lost_answer_proves_nothing(stage: Stage, operation: Operation) -> None:
    for fault in LOST:
        ask = await _asked(stage, operation)
        await _proves_nothing(ask, fault)
    for fault in CUT:
        ask = await _asked(stage, operation)
        await _proves_nothing(ask, fault)


async def a_late_answer_proves_nothing(stage: Stage, operation: Operation) -> None:
    hurried = stage.open_adapter(HURRIED)
    # Made ready within the ordinary time limits; the short ones are for the request alone.
    asks = [await stage.ask(operation) for _ in LATE]
    for ask in asks:
        ask.adapter = hurried
    await asyncio.gather(
        *(_proves_nothing(it, fault) for it, fault in zip(asks, LATE, strict=True))
    )


async def an_unreadable_answer_proves_nothing(stage: Stage, operation: Operation) -> None:
    for fault in UNREADABLE:
        ask = await _asked(stage, operation)
        error = await _proves_nothing(ask, fault)
        assert error.status.reason is Reason.PROVIDER_ANSWER_UNREADABLE, f"{fault}: {_told(error)}"


async def a_failing_vendor_proves_nothing(stage: Stage, operation: Operation) -> None:
    for fault in PAGES:
        ask = await _asked(stage, operation)
        error = await _proves_nothing(ask, fault)
        assert error.status.reason is Reason.PROVIDER_INTERNAL, f"{fault}: {_told(error)}"


async def redirects_are_not_followed(stage: Stage, operation: Operation) -> None:
    for fault in REDIRECTS:
        ask = await _asked(stage, operation)
        await _proves_nothing(ask, fault)
        strayed = [it for it in stage.recorder.seen if it.target.startswith(ELSEWHERE)]
        assert not strayed, f"{fault} was followed"


async def faults_stay_in_the_sandbox(stage: Stage, operation: Operation) -> None:
    ask = await stage.ask(operation, adapter=stage.open_adapter(profile="production"))
    await ask.send("lost-before")
    named = [it for it in stage.recorder.seen if "lost-before" in it.text]
    assert not named, "a wish for a fault leaves the gateway outside the sandbox"


async def _asked(stage: Stage, operation: Operation) -> Ask:
    """Ready to be sent; a booking after a fresh start, since the one before may have booked."""
    if operation in BOOKING_OPERATIONS:
        await stage.fresh()
    return await stage.ask(operation)


async def _proves_nothing(ask: Ask, fault: str) -> ProviderError:
    error = await ask.fails(fault)
    if ask.operation in BOOKING_OPERATIONS:
        assert error.status.fate is Fate.UNKNOWN, f"{fault}: {_told(error)}"
        assert not error.status.contradicts, f"{fault} contradicts nothing"
    else:
        assert error.status.reason in _FAILED, f"{fault}: {_told(error)}"
    assert not error.status.is_refusal, f"{fault} is no refusal of the vendor's"
    return error


def _told(error: ProviderError) -> str:
    row = error.status
    return f"taken for {row.reason} with fate {row.fate} by the rule {error.rule!r}"


DUTIES: Final = (
    Duty(
        "not-reached",
        "a vendor that cannot be reached has got nothing: the same request may be sent again",
        to_any,
        not_reached_is_not_sent,
    ),
    Duty(
        "lost-answer",
        "an answer that is lost, reset or cut off proves nothing, before the effect or after it",
        to_any,
        a_lost_answer_proves_nothing,
    ),
    Duty(
        "late-answer",
        "an answer beyond the time limit proves nothing, before the effect or after it",
        to_any,
        a_late_answer_proves_nothing,
    ),
    Duty(
        "unreadable-answer",
        "an answer that is no exact JSON of the vendor's proves nothing, whatever its status",
        to_any,
        an_unreadable_answer_proves_nothing,
    ),
    Duty(
        "failing-vendor",
        "an HTTP 5xx or 408 proves nothing, in the vendor's words or a proxy's",
        to_any,
        a_failing_vendor_proves_nothing,
    ),
    Duty(
        "no-redirect",
        "a redirect is not followed and proves nothing",
        to_any,
        redirects_are_not_followed,
    ),
    Duty(
        "sandbox-faults",
        "a wish for a fault is sent in the sandbox and nowhere else",
        to_any,
        faults_stay_in_the_sandbox,
    ),
)
