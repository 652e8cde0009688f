"""Looks at the parts of a deployment as the server would meet them, and changes nothing of them."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum

from loyalty_gateway.app import StartRefused, open_connections, open_keyring, open_store
from loyalty_gateway.booking.connections import Link
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.store import Examination, JournalRefused
from loyalty_gateway.providers.port import Check
from loyalty_gateway.settings import Settings

FREE_BYTES_MIN = 256 * 1024 * 1024
SKEW_WARN_S = 5.0
"""Vendors tell their clock in whole seconds, so less than this is no news."""
SKEW_FAIL_S = 300.0
"""From here on tokens and signatures are refused, and statements are searched at wrong times."""


class Verdict(StrEnum):
    """How a part is: fine, worth a look, or in the way of bookings."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one part, in words without a secret."""

    part: str
    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True)
class Vendor:
    """How the vendor behind one connection was met; None for what could not be told."""

    connection: str
    is_reachable: bool
    are_credentials_accepted: bool | None = None
    latency_s: float | None = None
    clock_skew_s: float | None = None
    trouble: str = ""
    is_paused: bool = False


def look_at_journal(settings: Settings) -> tuple[Finding, float | None]:
    """The journal's finding, and its database's clock less ours where it has one of its own.

    It is neither made nor migrated, and a running server is not disturbed.
    """
    try:
        store = open_store(settings)
        try:
            found = store.examine(open_keyring(settings).salt_check)
        finally:
            store.stop()
    except (JournalRefused, StartRefused) as error:
        return Finding("journal", Verdict.FAIL, str(error)), None
    return judge_journal(found), found.clock_skew_s


def judge_journal(found: Examination) -> Finding:
    """What a person should know of the journal."""
    verdict = Verdict.OK
    if found.is_in_use:
        text = "in use by a running server"
    elif not found.revision:
        text = "not made yet; the server makes it when it starts"
    elif found.revision == schema.REVISION:
        text = f"reachable and durable, at migration {found.revision}"
    else:
        verdict = Verdict.WARN
        text = (
            f"at migration {found.revision}, this program wants {schema.REVISION}: "
            "`loyalty migrate`, or the next start of the server, brings it there"
        )
    if found.free_bytes is not None and found.free_bytes < FREE_BYTES_MIN:
        verdict = Verdict.WARN
        text += f"; only {found.free_bytes // 1024**2} MiB are free on its volume"
    return Finding("journal", verdict, text)


def look_at_vendors(settings: Settings) -> list[Vendor]:
    """Every connection of the configuration, asked by ourselves and all at once.

    Raises:
        StartRefused: naming every setting of a connection that cannot be used.
    """
    return asyncio.run(_look_at_vendors(settings))


async def _look_at_vendors(settings: Settings) -> list[Vendor]:
    async with AsyncExitStack() as stack:
        connections = open_connections(settings, open_keyring(settings), stack)
        limit_s = settings.provider.attempt_total_s
        return list(await asyncio.gather(*(_look_at(link, limit_s) for link in connections)))


async def _look_at(link: Link, limit_s: float) -> Vendor:
    try:
        async with asyncio.timeout(limit_s):
            check: Check = await link.adapter.check()
    except TimeoutError:
        return Vendor(
            link.connection,
            is_reachable=False,
            trouble=f"no answer within {limit_s:g} s",
            is_paused=link.is_paused,
        )
    trouble = ""
    if check.error is not None:
        code = f" ({check.error.provider_code})" if check.error.provider_code else ""
        trouble = f"{check.error.status.reason.value}{code}"
    return Vendor(
        link.connection,
        is_reachable=check.is_reachable,
        are_credentials_accepted=check.are_credentials_accepted if check.is_reachable else None,
        latency_s=check.latency_s if check.is_reachable else None,
        clock_skew_s=check.clock_skew_s,
        trouble=trouble,
        is_paused=link.is_paused,
    )


def judge_vendor(vendor: Vendor) -> Finding:
    """What a person should know of a connection."""
    part = f"connection {vendor.connection}"
    why = f": {vendor.trouble}" if vendor.trouble else ""
    if not vendor.is_reachable:
        return Finding(part, Verdict.FAIL, f"cannot be reached{why}")
    if vendor.are_credentials_accepted is False:
        return Finding(part, Verdict.FAIL, f"the vendor refuses our credentials{why}")
    words = ["reachable"]
    if vendor.latency_s is not None:
        words[0] += f" in {vendor.latency_s * 1000:.0f} ms"
    if vendor.are_credentials_accepted:
        words.append("credentials accepted")
    if vendor.clock_skew_s is not None:
        words.append(f"its clock {skew_text(vendor.clock_skew_s)}")
    verdict = Verdict.OK
    if vendor.trouble:
        verdict = Verdict.WARN
        words.append(f"but it answered with {vendor.trouble}")
    if vendor.is_paused:
        verdict = Verdict.WARN
        words.append("paused by an operator: it takes no bookings")
    return Finding(part, verdict, ", ".join(words))


def judge_clocks(skews: Sequence[tuple[str, float]]) -> Finding:
    """This machine's clock against all others that were met, by who has them."""
    if not skews:
        return Finding("clock", Verdict.OK, "no other clock was met to compare it with")
    worst = max(abs(skew_s) for _, skew_s in skews)
    if worst < SKEW_WARN_S:
        return Finding("clock", Verdict.OK, f"agrees with {', '.join(name for name, _ in skews)}")
    verdict = Verdict.FAIL if worst >= SKEW_FAIL_S else Verdict.WARN
    apart = [f"{name} {skew_text(skew)}" for name, skew in skews if abs(skew) >= SKEW_WARN_S]
    text = f"differs: {', '.join(apart)}; is this machine's synchronised?"
    return Finding("clock", verdict, text)


def skew_text(skew_s: float) -> str:
    """A clock's distance from ours, in words."""
    if abs(skew_s) < SKEW_WARN_S:
        return "agrees"
    return f"is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
