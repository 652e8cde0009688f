"""What the writer's thread writes in one commit: openings, changes, holds and references.

Each function runs inside the writer's transaction and says what became of each item.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select, text, tuple_

from loyalty_gateway.domain.booking import TRANSITIONS, Attempt, Booking, State
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import Reference
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.references import holder_of, reference_row
from loyalty_gateway.journal.rows import (
    ACTOR_MAX,
    attempt_row,
    booking_from_row,
    booking_row,
    changed_row,
    is_row_of,
    storable,
)
from loyalty_gateway.journal.store import Row, Store

_CONTRADICT_TRIES = 3


@dataclass(frozen=True, slots=True)
class Opening:
    """A booking to insert; it meets its own request_id if that is taken already."""

    booking: Booking
    actor: str
    note: str = ""
    holds_account: bool = False
    """Whether the booking keeps others off its account from its first moment on."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The row that stands under the request_id; `is_new` when it is the one handed in.

    `is_held` when nothing stands there, because another booking holds the account.
    """

    booking: Booking
    is_new: bool
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A move from one booking to the next; written only over `before`'s state and epoch."""

    before: Booking
    after: Booking
    actor: str
    note: str = ""
    attempt: Attempt | None = None
    holds_account: bool | None = None
    """True writes a hold on the booking's account, False releases it, None leaves it."""
    claims: Reference | None = None
    """The vendor's reference that is this booking's from now on, and can be no other's. Where
    it is another's already, both bookings go to NEEDS_REVIEW instead, and this change does not
    land as it was wished."""

    waits_for_account: bool = False
    """The change does not land while another booking holds the account."""

    def __post_init__(self) -> None:
        move = (self.before.state, self.after.state)
        is_note_only = self.before.state == self.after.state
        assert move in TRANSITIONS or is_note_only, f"no such move: {move}"
        is_reopened = move == (State.IN_DOUBT, State.RESERVED)
        assert not is_reopened or self.before.is_own_undo, "else its caller could repeat a doubt"
        assert self.after.epoch == self.before.epoch + 1, "every change raises the epoch"


@dataclass(frozen=True, slots=True)
class Claim:
    """A wish to take due bookings for the length of a lease."""

    tenant: str
    owner: str
    lease_us: int
    limit: int
    flying: tuple[str, ...] = ()
    """Bookings that are not taken, because this process still works on them."""
    paused: tuple[str, ...] = ()
    """Connections whose doubts are not taken, because their vendor must not be asked."""


class Batches:
    """The statements of a batch, over one kind of database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def apply_openings(self, connection: Connection, openings: Sequence[Opening]) -> list[Opened]:
        # The second of two equal keys in one batch meets the first. A cancellation goes before its
        # booking, which may have to wait for its account and then stands nowhere.
        firsts: dict[tuple[str, str], Opening] = {}
        for opening in openings:
            key = (opening.booking.tenant, opening.booking.request_id)
            first = firsts.setdefault(key, opening)
            if opening.booking.is_tombstone and not first.booking.is_tombstone:
                firsts[key] = opening
        holding = [opening for opening in firsts.values() if opening.holds_account]
        if holding:
            self._store.begin_whole(connection)
        new = self._insert(connection, [it for it in firsts.values() if not it.holds_account])
        # One after the other: each must see the holds of those before it, here and elsewhere.
        for opening in sorted(holding, key=lambda it: it.booking.account_hash):
            self._store.lock_account(connection, opening.booking.account_hash)
            inserted = self._insert(connection, [opening])
            if inserted:
                self._hold(connection, opening.booking)
            new |= inserted
        missing = [o for o in openings if o.booking.booking_id not in new]
        known = _standing(connection, missing)
        answers: list[Opened] = []
        for opening in openings:
            booking = opening.booking
            if booking.booking_id in new:
                answers.append(Opened(booking, True))
                continue
            found = known.get((booking.tenant, booking.request_id))
            if found is None:
                answers.append(Opened(booking, False, is_held=True))
            else:
                # A batch that was tried again may meet what it wrote itself.
                answers.append(Opened(found, found.booking_id == booking.booking_id))
        return answers

    def _insert(self, connection: Connection, openings: Sequence[Opening]) -> set[str]:
        now_us = self._store.now_us()
        if not openings:
            return set()
        return self._store.insert(
            connection,
            [booking_row(opening.booking) for opening in openings],
            [
                _history_row(opening.booking, None, opening.actor, opening.note, now_us)
                for opening in openings
            ],
        )

    def found_openings(
        self, connection: Connection, openings: Sequence[Opening]
    ) -> list[Opened | None]:
        """After a lost commit: what stands under each request_id, None where nothing does."""
        known = _standing(connection, openings)
        answers: list[Opened | None] = []
        for opening in openings:
            booking = known.get((opening.booking.tenant, opening.booking.request_id))
            is_ours = booking is not None and booking.booking_id == opening.booking.booking_id
            answers.append(None if booking is None else Opened(booking, is_ours))
        return answers

    def apply_changes(self, connection: Connection, changes: Sequence[Change]) -> list[bool]:
        # One statement moves a booking once. Two changes of one booking in a batch go one after
        # the other: the first may be stale and the second the one that must land.
        rounds: list[list[Change]] = []
        places: dict[tuple[str, str], int] = {}
        for change in changes:
            key = (change.before.tenant, change.before.booking_id)
            place = places[key] = places.get(key, -1) + 1
            if place == len(rounds):
                rounds.append([])
            rounds[place].append(change)
        waiting = [change for change in changes if change.waits_for_account]
        if (
            len(rounds) > 1
            or waiting
            or any(change.holds_account is not None for change in changes)
        ):
            self._store.begin_whole(connection)
        waiting.sort(key=lambda it: it.before.account_hash)
        for change in waiting:
            self._store.lock_account(connection, change.before.account_hash)
        landed: set[int] = set()
        for chosen in rounds:
            free = [change for change in chosen if not change.waits_for_account]
            if free:
                landed |= self._apply_round(connection, free)
            # One after the other: each must see the holds of those before it.
            for change in chosen:
                if change.waits_for_account and not self._is_held(connection, change.before):
                    landed |= self._apply_round(connection, [change])
        return [id(change) in landed for change in changes]

    def _apply_round(self, connection: Connection, changes: Sequence[Change]) -> set[int]:
        """Changes of different bookings; the identities of those that landed."""
        now_us = self._store.now_us()
        ids = self._store.update(
            connection,
            [changed_row(change.after) for change in changes],
            [
                _history_row(change.after, change.before, change.actor, change.note, now_us)
                for change in changes
            ],
            [
                attempt_row(change.before.tenant, change.before.booking_id, change.attempt)
                for change in changes
                if change.attempt is not None
            ],
            [
                reference_row(change.after, change.claims)
                for change in changes
                if change.claims is not None
            ],
        )
        landed = [change for change in changes if change.before.booking_id in ids]
        self._apply_holds(connection, landed)
        return set(map(id, landed))

    def _is_held(self, connection: Connection, booking: Booking) -> bool:
        """Whether another booking holds the account, which this batch has locked."""
        table = schema.account_hold
        statement = select(table.c.root_booking).where(
            table.c.tenant == booking.tenant,
            table.c.connection == booking.connection,
            table.c.account_hash == booking.account_hash,
            table.c.root_booking != booking.booking_id,
        )
        return connection.execute(statement).first() is not None

    def _hold(self, connection: Connection, booking: Booking) -> None:
        connection.execute(
            text(
                "INSERT INTO account_hold"
                " (tenant, connection, account_hash, root_booking, create_time)"
                " VALUES (:tenant, :connection, :account_hash, :root, :now_us)"
                " ON CONFLICT DO NOTHING"
            ),
            {
                "tenant": booking.tenant,
                "connection": booking.connection,
                "account_hash": booking.account_hash,
                "root": booking.booking_id,
                "now_us": self._store.now_us(),
            },
        )

    def _apply_holds(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Rare, so one statement each; a hold comes with the doubt and goes with it."""
        table = schema.account_hold
        for change in changes:
            after = change.after
            if change.holds_account is True:
                self._hold(connection, after)
            elif change.holds_account is False:
                connection.execute(
                    table.delete().where(
                        table.c.tenant == after.tenant,
                        table.c.connection == after.connection,
                        table.c.account_hash == after.account_hash,
                        table.c.root_booking == after.booking_id,
                    )
                )

    def apply_contradicted(
        self, connection: Connection, changes: Sequence[Change]
    ) -> Sequence[bool]:
        """A settle whose reference another booking has: both become a person's to judge."""
        (change,) = changes
        assert change.claims is not None, "only a claim can meet another's"
        self._store.begin_whole(connection)
        theirs = holder_of(connection, change.after, change.claims)
        if theirs is None:
            raise RuntimeError("a reference that nobody holds could not be claimed")
        # Its caller has heard nothing yet, so what would have answered is kept and never told.
        untold = replace(
            change.after,
            settle_time=change.before.settle_time,
            intent=change.after.intent_in_doubt,
        )
        ours = replace(
            change,
            after=_contradicted(untold, change.after.epoch),
            claims=None,
            note=f"{change.note + '; ' if change.note else ''}bookings/{theirs} has the same"
            " vendor's reference",
            holds_account=None,
        )
        if not self._apply_round(connection, [ours]):
            return [False]
        for _ in range(_CONTRADICT_TRIES):
            holder = _booking_of(connection, change.after.tenant, theirs)
            if (holder.state, State.NEEDS_REVIEW) not in TRANSITIONS:
                break  # It is final without effect, or with a person already.
            move = Change(
                holder,
                _contradicted(holder, holder.epoch + 1),
                change.actor,
                f"{change.after.name} has the same vendor's reference",
            )
            if self._apply_round(connection, [move]):
                break
        # What landed is not what was wished: whoever wished it reads it again.
        return [False]

    def found_changes(self, connection: Connection, changes: Sequence[Change]) -> list[bool | None]:
        """After a lost commit: whether each change stands, None where nothing has moved."""
        table = schema.booking
        keys = {(change.before.tenant, change.before.booking_id) for change in changes}
        rows = connection.execute(
            select(table).where(tuple_(table.c.tenant, table.c.booking_id).in_(keys))
        ).mappings()
        standing = {
            (row["tenant"], row["booking_id"]): booking_from_row(row, checks_answer=False)
            for row in rows
        }
        answers: list[bool | None] = []
        for change in changes:
            found = standing[(change.before.tenant, change.before.booking_id)]
            if found.epoch == change.before.epoch:
                answers.append(None)
            else:
                # All of it: another's move may lead to the same epoch, state and owner.
                answers.append(is_row_of(found, change.after))
        return answers


def _standing(
    connection: Connection, openings: Sequence[Opening]
) -> dict[tuple[str, str], Booking]:
    """The bookings that stand under these request_ids, read in a statement of their own."""
    if not openings:
        return {}
    table = schema.booking
    keys = {(opening.booking.tenant, opening.booking.request_id) for opening in openings}
    rows = connection.execute(
        select(table).where(tuple_(table.c.tenant, table.c.request_id).in_(keys))
    ).mappings()
    return {(row["tenant"], row["request_id"]): booking_from_row(row) for row in rows}


def _booking_of(connection: Connection, tenant: str, booking_id: str) -> Booking:
    table = schema.booking
    row = connection.execute(
        select(table).where(table.c.tenant == tenant, table.c.booking_id == booking_id)
    ).mappings()
    return booking_from_row(row.one(), checks_answer=False)


def _contradicted(booking: Booking, epoch: int) -> Booking:
    """The booking as a person finds it; what it was answered with, if it was, stays."""
    return replace(
        booking,
        state=State.NEEDS_REVIEW,
        epoch=epoch,
        owner="",
        lease_until=None,
        next_attempt_time=None,
        reason=Reason.PROVIDER_KEY_CONFLICT,
    )


def _history_row(
    booking: Booking, before: Booking | None, actor: str, note: str, now_us: int
) -> Row:
    return {
        "tenant": booking.tenant,
        "booking_id": booking.booking_id,
        "sequence": booking.epoch,
        "from_state": before.state.value if before else "",
        "to_state": booking.state.value,
        "actor": storable(actor, ACTOR_MAX),
        "time": now_us,
        "note": storable(note),
    }
