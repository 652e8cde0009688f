"""The only way in which a booking's state is moved: written, counted, told, and followed."""

import asyncio
import logging
from dataclasses import replace
from datetime import datetime, timedelta

from loyalty_gateway import failpoints
from loyalty_gateway.booking.cancelling import cancelled
from loyalty_gateway.booking.connections import Connections
from loyalty_gateway.booking.holds import hold_after
from loyalty_gateway.booking.judge import Means, Policy
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.sealed import Sealed
from loyalty_gateway.booking.undo import (
    begun,
    followed,
    is_live,
    not_undone,
    refusal_to_undo,
    undoes,
)
from loyalty_gateway.booking.watching import Watchers
from loyalty_gateway.domain.booking import Attempt, Booking, Intent, State
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.domain.operations import OPERATOR_EVIDENCE, Reference
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.rows import is_row_of
from loyalty_gateway.journal.writer import Change
from loyalty_gateway.telemetry import metrics

log = logging.getLogger(__name__)

_RETRY_EVERY_S = 0.25
_TOGETHER_MAX = 8


class Moves:
    """Changes of bookings, with what belongs to each: holds, claims, watchers, originals."""

    def __init__(
        self,
        journal: Journal,
        connections: Connections,
        sealed: Sealed,
        watchers: Watchers,
        limits: Limits,
        policy: Policy,
    ) -> None:
        self._journal = journal
        self._connections = connections
        self._sealed = sealed
        self._watchers = watchers
        self._limits = limits
        self._policy = policy

    def change(
        self,
        before: Booking,
        after: Booking,
        means: Means,
        actor: str,
        attempt: Attempt | None = None,
        note: str = "",
    ) -> Change:
        """A move with what belongs to it: the hold on the account, the claim of the reference."""
        return Change(
            before,
            after,
            actor,
            note,
            attempt=attempt,
            holds_account=hold_after(before, after, means),
            claims=_claim(before, after),
        )

    def means_of(self, booking: Booking) -> Means:
        """How the truth about a booking may be found out today."""
        link = self._connections.find(booking.connection)
        return link.means(booking) if link else Means()

    async def move(self, change: Change) -> Booking:
        """Writes a change, for as long as that may help, and tells everybody who waits."""
        loop = asyncio.get_running_loop()
        began = self._journal.now()
        give_up = loop.time() + self._limits.settle_retry_s
        while True:
            try:
                has_landed = await self._journal.change(change)
                break
            except LoyaltyError as error:
                if error.reason is not Reason.JOURNAL_UNAVAILABLE or loop.time() > give_up:
                    log.error(
                        "Booking %s could not be moved to %s: %s",
                        change.before.name,
                        change.after.state,
                        error.message,
                    )
                    return change.before
                await asyncio.sleep(_RETRY_EVERY_S)
        after = change.after
        is_overtaken = False
        if not has_landed:
            try:
                found = await self._journal.find(after.tenant, booking_id=after.booking_id)
            except LoyaltyError as error:
                log.error("Booking %s could not be read again: %s", after.name, error.message)
                return change.before
            assert found is not None, "bookings are not deleted"
            # A commit whose answer was lost has landed all the same.
            if not is_row_of(found, after):
                if is_same_attempt(change.before, found):
                    return found
                log.log(*_overtaken(change, found))
                is_overtaken = True
            after = found
        self._count(change.before, after)
        metrics.booking_settled(
            after.connection, after.operation.value if after.operation else "", after.state.value
        )
        if after.state is State.NEEDS_REVIEW:
            log.error(
                "Booking %s needs review: %s", after.name, after.reason or "no machine can find out"
            )
        has_ended = undoes(after) and is_live(change.before) and not is_live(after)
        if has_ended and not is_overtaken:
            # First, so that whoever hears of an undo finds its original where it belongs. Who was
            # faster has seen to that, and a further undo may have begun since.
            await self._follow(after, began)
        self._watchers.tell(after.booking_id)
        if after.next_attempt_time is not None:
            self._watchers.due(after.next_attempt_time)
        return after

    async def _follow(self, undo: Booking, began: datetime) -> None:
        """An undo has ended, and with it what it was to undo; else recovery finds it later.

        What was begun to be undone once more since `began`, elsewhere, follows that undo.
        """
        failpoints.hit("undo-settled")
        try:
            for _ in range(_TOGETHER_MAX):
                original = await self._sealed.find_original(undo)
                assert original is not None, "an undo is opened for what is in the journal"
                ended = followed(original, undo, self._journal.now(), self._policy)
                if ended is None:
                    return
                after, note = ended
                if after.state is not State.REVERSED and await self._is_undone_anew(
                    original, began
                ):
                    return
                means = self.means_of(original)
                moved = await self.move(
                    self.change(original, after, means, "undo", attempt=None, note=note)
                )
                if moved.epoch == after.epoch and moved.state is after.state:
                    failpoints.hit("undo-followed")
                    return
        except LoyaltyError as error:
            log.warning("The original of %s has to wait: %s", undo.name, error.message)

    async def _is_undone_anew(self, original: Booking, since: datetime) -> bool:
        history, _ = await self._journal.story(original.tenant, original.booking_id)
        return any(
            it.time > since and it.to_state is State.REVERSING and it.from_state is not it.to_state
            for it in history
        )

    def wish(self, before: Booking, after: Booking, actor: str, note: str) -> Change:
        """An operator's or a caller's move."""
        return self.change(before, after, self.means_of(before), actor, note=note)

    # --- undo and giving up ---------------------------------------------------------------------

    async def begin_undo(self, original: Booking | None, undo: Booking) -> LoyaltyError | None:
        """SUCCEEDED -> REVERSING, on disk before the undo itself is; or why it may not be.

        Whoever moves it so is the only one to open an undo, until this one has ended.
        """
        assert original is not None, "an undo has an original"
        failpoints.hit("undo-beginning")
        while True:
            refusal = refusal_to_undo(original)
            if refusal is not None:
                return refusal
            lease_until = self._journal.now() + timedelta(seconds=self._limits.lease_s)
            after = begun(original, self._journal.boot_id, lease_until)
            note = f"by {undo.name}, for the caller"
            if await self._journal.change(Change(original, after, "caller", note)):
                self._count(original, after)
                self._watchers.tell(original.booking_id)
                failpoints.hit("undo-begun")
                return None
            original = await self._read(original)

    async def end_undo(self, original: Booking | None, why: str) -> None:
        """Takes back what begin_undo did, where no undo came of it."""
        assert original is not None, "an undo has an original"
        found = await self._read(original)
        if found.state is State.REVERSING and found.owner == self._journal.boot_id:
            after = not_undone(found, self._journal.now())
            await self.move(self.change(found, after, self.means_of(found), "caller", None, why))

    async def give_up(self, asked: Booking, why: str) -> Booking | None:
        """Notes that the caller relies on the undo of what it asked for, should it be a doubt.

        Returns:
            What the journal holds then; None where it has nothing, or where the request_id means
            something else, which is not this caller's to give up.
        """
        found = await self._journal.find(asked.tenant, request_id=asked.request_id)
        while found is not None and found.fingerprint == asked.fingerprint:
            if found.state not in (State.SENDING, State.IN_DOUBT) or found.cancel_requested:
                return found
            # Whoever is at the vendor with it meets the wish when it settles.
            wished = replace(found, intent=Intent.CANCEL, epoch=found.epoch + 1)
            if await self._journal.change(Change(found, wished, "caller", why)):
                self._watchers.tell(wished.booking_id)
                return wished
            found = await self._read(found)
        return None

    async def take_back(self, settled: Booking) -> Booking:
        """Undoes what was settled before the wish of its caller, who had heard of a doubt, could
        be written; where a machine can."""
        if settled.state is not State.SUCCEEDED:
            return settled
        link = self._connections.find(settled.connection)
        after = cancelled(settled, link, self._journal.now())
        if after is None:
            return settled
        # Nobody of this process has heard of it yet, and nobody shall.
        after = replace(after, settle_time=None)
        return await self.move(self.wish(settled, after, "caller", "AUTO_REVERSE"))

    async def keep_giving_up(self, asked: Booking, why: str) -> None:
        """Gives up what was asked for as soon as the journal can be written, for as long as a
        settle is tried."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.settle_retry_s
        while True:
            try:
                await self.give_up(asked, why)
                return
            except LoyaltyError as error:
                if error.reason is not Reason.JOURNAL_UNAVAILABLE or loop.time() > until:
                    raise
            await asyncio.sleep(_RETRY_EVERY_S)

    async def _read(self, booking: Booking) -> Booking:
        found = await self._journal.find(booking.tenant, booking_id=booking.booking_id)
        assert found is not None, "bookings are not deleted"
        return found

    async def decide(self, original: Booking, after: Booking, note: str) -> Booking:
        """Moves what is being undone on, as recovery has decided."""
        means = self.means_of(original)
        return await self.move(
            self.change(original, after, means, "recovery", attempt=None, note=note)
        )

    async def park(
        self, booking: Booking, actor: str, why: str, attempt: Attempt | None = None
    ) -> Booking:
        """Hands a booking to a person."""
        after = replace(
            booking,
            state=State.NEEDS_REVIEW,
            epoch=booking.epoch + 1,
            owner="",
            lease_until=None,
            next_attempt_time=None,
        )
        # Nobody can find out, so another booking on the account would hide the truth.
        holds = bool(after.account_hash) and not undoes(after)
        return await self.move(
            Change(booking, after, actor, why, attempt, holds_account=holds or None)
        )

    def _count(self, before: Booking, after: Booking) -> None:
        link = self._connections.find(after.connection)
        if link is not None:
            stands = (State.IN_DOUBT, State.NEEDS_REVIEW, State.REVERSING)
            link.unresolved_count += (after.state in stands) - (before.state in stands)


def _overtaken(change: Change, found: Booking) -> tuple[int, str, str, State, State]:
    """How loud, and in which words, it is told that a move did not land and another one did."""
    before, after = change.before, change.after
    names = (found.name, found.state, after.state)
    if found.epoch <= before.epoch:
        # Refused, and nobody has moved it: the journal has forgotten something, or has a bug.
        return (
            logging.ERROR,
            "Booking %s stands at %s and was moved by nobody, and yet %s could not be written",
            *names,
        )
    is_contradiction = (
        change.attempt is not None
        and after.is_final
        and found.is_final
        and after.outcome is not found.outcome
        and found.state is not State.REVERSED
    )
    if is_contradiction:
        return (
            logging.ERROR,
            "Booking %s was closed at %s by somebody else, while the vendor's answer made it %s;"
            " compare the account's statement",
            *names,
        )
    # Another replica, an operator or recovery was faster, which the epochs are there for. What an
    # attempt ended with is lost with it, and tells of a lease that was too short.
    return (
        logging.INFO if change.attempt is None else logging.WARNING,
        "Booking %s was moved to %s by somebody else before %s could be written",
        *names,
    )


def _claim(before: Booking, after: Booking) -> Reference | None:
    """The vendor's reference that becomes this booking's with the move, if any."""
    known = (State.SUCCEEDED, State.REVERSING)
    is_new = after.state in known and before.state not in known
    first = after.references[0] if is_new and after.references else None
    # One note of a person's may speak of several bookings; a vendor's number is one booking's.
    return None if first is None or first.kind == OPERATOR_EVIDENCE else first


def is_same_attempt(before: Booking, found: Booking) -> bool:
    """Whether the attempt that was running still runs, though somebody changed the row."""
    return (
        found.attempt_open
        and found.epoch > before.epoch
        and (found.state, found.attempt_count, found.owner)
        == (before.state, before.attempt_count, before.owner)
    )
