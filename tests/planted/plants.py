"""Bugs that break the promise of exactly once, planted into the real classes for a test's length.

Nothing of this may ever be reachable from the product.

M5, M12 and M13 can do harm where a doubt is sent again, M6 and M7 where the vendor is asked about
it, M14 where a booking is undone, M15 where money is moved and not only whole points; all the
others at every vendor.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pyreqwest.client import ClientBuilder
from sqlalchemy import Connection, text

from loyalty_gateway.booking import findings, judge
from loyalty_gateway.booking.attempts import Attempts
from loyalty_gateway.booking.connections import Link
from loyalty_gateway.booking.drafts import Drafts
from loyalty_gateway.booking.flights import Flights
from loyalty_gateway.booking.judge import Means, Policy, Verdict
from loyalty_gateway.booking.steps import Steps
from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS, Money
from loyalty_gateway.domain.booking import Answer, Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import UNDO_OPERATIONS
from loyalty_gateway.journal import postgres
from loyalty_gateway.journal.journal import Journal, ListQuery, Page
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.journal.writer import Change, Opened, Opening
from loyalty_gateway.providers.http import HttpAnswer, HttpRequest, PyreqwestEngine
from loyalty_gateway.providers.port import Finding, Send, StatusRow
from loyalty_gateway.rpc import dispatch
from loyalty_gateway.rpc.catalog import Rpc
from loyalty_gateway.rpc.status import WireStatus, wire_status
from loyalty_gateway.telemetry.spans import SpanHandle

Patch = pytest.MonkeyPatch
GIVES_UP_AFTER = 3


def _dedupe_in_memory_only(patch: Patch) -> None:
    """Another process, or the same after a restart, does not know the request_ids so far."""
    real_open = Journal.open
    seen: dict[Journal, set[tuple[str, str]]] = {}

    def forget(connection: Connection, key: tuple[str, str]) -> None:
        connection.execute(
            text(
                "UPDATE booking SET request_id = booking_id, outbound_id = NULL"
                " WHERE tenant = :tenant AND request_id = :request_id"
            ),
            {"tenant": key[0], "request_id": key[1]},
        )

    async def forgetful_open(self: Journal, opening: Opening) -> Opened:
        key = (opening.booking.tenant, opening.booking.request_id)
        memory = seen.setdefault(self, set())
        if key not in memory:
            memory.add(key)
            await self._writer.run(lambda connection: forget(connection, key))
        return await real_open(self, opening)

    patch.setattr(Journal, "open", forgetful_open)


def _journal_after_the_send(patch: Patch) -> None:
    """Write 1 is put off until the vendor has answered."""
    real_open, real_change = Journal.open, Journal.change
    put_off: dict[str, Opening] = {}

    async def late_open(self: Journal, opening: Opening) -> Opened:
        booking = opening.booking
        known = await self.find(booking.tenant, request_id=booking.request_id)
        if known is not None:
            return Opened(known, False)
        put_off[booking.booking_id] = opening
        return Opened(booking, True)

    async def opening_change(self: Journal, change: Change) -> bool:
        opening = put_off.pop(change.before.booking_id, None)
        if opening is not None:
            await real_open(self, opening)
        return await real_change(self, change)

    patch.setattr(Journal, "open", late_open)
    patch.setattr(Journal, "change", opening_change)


def _unknown_is_declined(patch: Patch) -> None:
    """No answer is taken for a no."""
    real = judge.after_attempt

    def hasty(
        booking: Booking, verdict: Verdict, now: datetime, means: Means, policy: Policy
    ) -> Booking:
        if verdict.status.fate is Fate.UNKNOWN:
            refused = StatusRow(Reason.PROVIDER_DECLINED, Fate.NOT_EXECUTED, is_refusal=True)
            verdict = replace(verdict, status=refused)
        return real(booking, verdict, now, means, policy)

    patch.setattr(judge, "after_attempt", hasty)


def _gives_up_as_failed(patch: Patch) -> None:
    """After some tries without an answer the booking is called failed."""
    real = judge.in_doubt

    def impatient(ended: Booking, now: datetime, means: Means, policy: Policy) -> Booking:
        doubted = real(ended, now, means, policy)
        if doubted.recovery_tries < GIVES_UP_AFTER:
            return doubted
        return replace(doubted, state=State.NOT_EXECUTED, next_attempt_time=None, settle_time=now)

    patch.setattr(judge, "in_doubt", impatient)


def _new_reference_on_retry(patch: Patch) -> None:
    """Each retry has an id of its own on the vendor's wire."""
    real = Attempts.attempt

    async def renaming(self: Attempts, link: Any, send: Send, span: SpanHandle) -> Verdict:
        if send.attempt_number > 1:
            send = replace(send, outbound_id=str(uuid.uuid4()))
        return await real(self, link, send, span)

    patch.setattr(Attempts, "attempt", renaming)


def _pooled_keep_alive(patch: Patch) -> None:
    """Bookings go over connections that other bookings have used."""
    real = PyreqwestEngine.send

    async def pooled(self: PyreqwestEngine, request: HttpRequest) -> HttpAnswer:
        return await real(self, replace(request, is_exclusive=False))

    patch.setattr(PyreqwestEngine, "send", pooled)


def _no_fingerprint_check(patch: Patch) -> None:
    """A request_id alone decides whether two calls are the same."""
    patch.setattr(Drafts, "_fingerprint", lambda *_: b"the same for all")


def _replay_rendered_again(patch: Patch) -> None:
    """A repeat is answered from the row instead of with the stored bytes."""
    real = Flights._answer

    def rendering(self: Flights, landed: Any, *, is_replayed: bool) -> Answer:
        answer = real(self, landed, is_replayed=is_replayed)
        return replace(answer, body=self._codec.encode_answer(landed.booking))

    patch.setattr(Flights, "_answer", rendering)


def _no_epoch_check(patch: Patch) -> None:
    """Whoever comes back writes over what the booking became after its lease."""
    statement = postgres._UPDATE.text
    for correct, wrong in (
        (" AND b.epoch = x.epoch - 1 AND b.state = n.from_state", ""),
        # The journal's history has a second wall of its own against it.
        (
            " INSERT INTO history SELECT n.* FROM n JOIN u USING (tenant, booking_id))",
            " INSERT INTO history SELECT n.* FROM n JOIN u USING (tenant, booking_id)"
            " ON CONFLICT DO NOTHING)",
        ),
    ):
        assert correct in statement, "the plant fits the statement"
        statement = statement.replace(correct, wrong)
    patch.setattr(postgres, "_UPDATE", text(statement))


def _not_found_trusted_at_once(patch: Patch) -> None:
    """The first "not found" is a proof, whenever it comes."""
    real = findings.after_finding

    def hasty(booking: Booking, finding: Finding, *args: Any, **kwargs: Any) -> Booking:
        is_absent = not (finding.candidates or finding.is_pending or finding.is_refused)
        after = real(booking, finding, *args, **kwargs)
        if not is_absent or after.state is not State.IN_DOUBT:
            return after
        began = args[0]
        return replace(after, state=State.NOT_EXECUTED, next_attempt_time=None, settle_time=began)

    patch.setattr(findings, "after_finding", hasty)


def _settle_counted_from_the_rows_creation(patch: Patch) -> None:
    """The settle time begins when the booking was born, not when its last attempt ended."""

    def early(booking: Booking, means: Means, policy: Policy) -> datetime | None:
        return booking.create_time + timedelta(seconds=means.settle_s or policy.settle_s)

    patch.setattr(judge, "settled_time", early)
    patch.setattr(findings, "settled_time", early)


def _key_pruned_replay_anyway(patch: Patch) -> None:
    """Sends again although the vendor has forgotten the number."""
    real = Link.means

    def tireless(self: Link, booking: Booking) -> Means:
        return replace(real(self, booking), resend_until=datetime.max.replace(tzinfo=UTC))

    patch.setattr(Link, "means", tireless)


def _decline_on_attempt_2_trusted(patch: Patch) -> None:
    """A refusal of a resend is taken for the whole booking's."""
    real = judge.after_attempt

    def trusting(
        booking: Booking, verdict: Verdict, now: datetime, means: Means, policy: Policy
    ) -> Booking:
        return real(booking, verdict, now, replace(means, declines_are_replayed=True), policy)

    patch.setattr(judge, "after_attempt", trusting)


def _new_id_for_each_void(patch: Patch) -> None:
    """Each attempt of an undo has an id of its own on the vendor's wire."""
    real = Attempts.attempt

    async def renaming(self: Attempts, link: Any, send: Send, span: SpanHandle) -> Verdict:
        if send.order.operation in UNDO_OPERATIONS:
            send = replace(send, outbound_id=str(uuid.uuid4()))
        return await real(self, link, send, span)

    patch.setattr(Attempts, "attempt", renaming)


def _float_amounts(patch: Patch) -> None:
    """Every amount passes through a float of whole units, wherever it comes from."""
    real = Money.__init__

    def floating(self: Money, currency: str, minor: int) -> None:
        parts = 10 ** CURRENCY_EXPONENTS.get(currency, 0)
        real(self, currency, int(minor / parts * parts))

    patch.setattr(Money, "__init__", floating)


def _tenants_are_not_told_apart(patch: Patch) -> None:
    """Whoever knows a booking's name, or a card's token, is shown it.

    A server of today has one tenant, whom every caller belongs to; but several may share a
    journal and its keys, and the rooms behind the door are handed a tenant with every call.
    """
    real_find, real_list, real_excerpt = Journal.find, Journal.list, Journal.excerpt
    real_token, real_open = Keyring.token, Keyring.open_token

    async def owner_of(journal: Journal, tenant: str, **key: str) -> str:
        [(name, value)] = [(name, value) for name, value in key.items() if value]
        statement = text(f"SELECT tenant FROM booking WHERE {name} = :value")
        rows = await journal._read(lambda it: it.execute(statement, {"value": value}).first())
        return tenant if rows is None else str(rows[0])

    async def find(
        self: Journal, tenant: str, *, booking_id: str = "", request_id: str = ""
    ) -> Booking | None:
        owner = await owner_of(self, tenant, booking_id=booking_id, request_id=request_id)
        return await real_find(self, owner, booking_id=booking_id, request_id=request_id)

    async def excerpt(self: Journal, tenant: str, booking_id: str, first: int, last: int) -> Any:
        owner = await owner_of(self, tenant, booking_id=booking_id)
        return await real_excerpt(self, owner, booking_id, first, last)

    async def list_all(self: Journal, wanted: ListQuery) -> Any:
        rows = await self._read(
            lambda it: it.execute(text("SELECT DISTINCT tenant FROM booking")).fetchall()
        )
        pages = [await real_list(self, replace(wanted, tenant=tenant)) for (tenant,) in rows]
        return Page([booking for page in pages for booking in page.bookings], None)

    patch.setattr(Journal, "find", find)
    patch.setattr(Journal, "excerpt", excerpt)
    patch.setattr(Journal, "list", list_all)
    patch.setattr(Keyring, "token", lambda self, _, *rest: real_token(self, "", *rest))
    patch.setattr(Keyring, "open_token", lambda self, _, *rest: real_open(self, "", *rest))


def _exceptions_text_is_told(patch: Patch) -> None:
    """What went wrong inside is told as it is."""

    def frank(rpc: Rpc, error: BaseException, span: SpanHandle) -> WireStatus:
        return wire_status(LoyaltyError(Reason.INTERNAL, f"{type(error).__name__}: {error}"))

    patch.setattr(dispatch, "_unexpected", frank)


def _failed_commit_is_ignored(patch: Patch) -> None:
    """A write that did not go through is taken for one that did, at write 1 and at write 2."""
    real_open, real_change = Journal.open, Journal.change

    async def hopeful_open(self: Journal, opening: Opening) -> Opened:
        try:
            return await real_open(self, opening)
        except LoyaltyError:
            return Opened(opening.booking, True)

    async def hopeful_change(self: Journal, change: Change) -> bool:
        try:
            return await real_change(self, change)
        except LoyaltyError:
            return True

    patch.setattr(Journal, "open", hopeful_open)
    patch.setattr(Journal, "change", hopeful_change)


def _recovery_ignores_the_state(patch: Patch) -> None:
    """Whatever is due is closed, as what was never sent may be."""

    async def sweeping(self: Steps, booking: Booking) -> None:
        await self._close(booking, "nobody repeated it")

    patch.setattr(Steps, "take", sweeping)


def _redirects_are_followed(patch: Patch) -> None:
    """Both engines go where the vendor's answer leads."""
    real = PyreqwestEngine._builder

    def trusting(self: PyreqwestEngine, is_https: bool, authorities: bytes) -> ClientBuilder:
        return real(self, is_https, authorities).follow_redirects(True)

    real_send = httpx.AsyncClient.send

    async def following(self: httpx.AsyncClient, request: httpx.Request, **kwargs: Any) -> Any:
        return await real_send(self, request, **{**kwargs, "follow_redirects": True})

    patch.setattr(PyreqwestEngine, "_builder", trusting)
    patch.setattr(httpx.AsyncClient, "send", following)


@dataclass(frozen=True, slots=True)
class Plant:
    """One bug: what it is called in the plan, and how it gets in."""

    title: str
    put_in: Callable[[Patch], None]


PLANTS = {
    "M1": Plant("dedupe in memory only", _dedupe_in_memory_only),
    "M2": Plant("journal after the send", _journal_after_the_send),
    "M3": Plant("unknown -> declined", _unknown_is_declined),
    "M4": Plant("give up after n tries -> failed", _gives_up_as_failed),
    "M5": Plant("new provider ref on retry", _new_reference_on_retry),
    "M6": Plant('"not found" trusted at once', _not_found_trusted_at_once),
    "M7": Plant("settle counted from row creation", _settle_counted_from_the_rows_creation),
    "M8": Plant("pooled keep-alive", _pooled_keep_alive),
    "M9": Plant("no fingerprint check", _no_fingerprint_check),
    "M10": Plant("replay re-rendered", _replay_rendered_again),
    "M11": Plant("lease without epoch check", _no_epoch_check),
    "M12": Plant("provider key pruned, replay anyway", _key_pruned_replay_anyway),
    "M13": Plant("decline on attempt 2 trusted", _decline_on_attempt_2_trusted),
    "M14": Plant("void repeated with a new id each time", _new_id_for_each_void),
    "M15": Plant("float amounts", _float_amounts),
    "M16": Plant("foreign card and booking readable", _tenants_are_not_told_apart),
    "M17": Plant("exception text to the client", _exceptions_text_is_told),
    "M18": Plant("a failed commit is ignored", _failed_commit_is_ignored),
    "M19": Plant("recovery ignores the state", _recovery_ignores_the_state),
    "M20": Plant("redirect followed", _redirects_are_followed),
}
"""Every bug that can be planted, by its number in the plan."""


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The product with this bug, for the length of the block."""
    with pytest.MonkeyPatch.context() as patch:
        PLANTS[name].put_in(patch)
        yield
