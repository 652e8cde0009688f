"""Codes that were asked for, one row for each request_id; what was answered is kept sealed."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, RowMapping, select, text, update

from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.rows import from_us, to_us


class ChallengeState(StrEnum):
    """OPEN: the code may be on its way, or its sender is gone. ISSUED: it was sent. FAILED: it
    provably was not, for the row's reason. LOST: nobody knows whether it was sent."""

    OPEN = "OPEN"
    ISSUED = "ISSUED"
    FAILED = "FAILED"
    LOST = "LOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One request for a code. After `expire_time` its request_id may be taken anew."""

    tenant: str
    request_id: str
    fingerprint: bytes = field(repr=False)
    connection: str
    create_time: datetime
    expire_time: datetime
    state: ChallengeState = ChallengeState.OPEN
    answer_sealed: bytes | None = field(default=None, repr=False)
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class OpenedChallenge:
    """The row that stands under a request_id; `is_new` when it is the one handed in."""

    challenge: Challenge
    is_new: bool


_columns = [column.name for column in schema.challenge.c]
_INSERT = text(
    f"INSERT INTO challenge ({', '.join(_columns)}) VALUES (:{', :'.join(_columns)})"
    " ON CONFLICT (tenant, request_id) DO NOTHING"
)


def open_challenge(connection: Connection, challenge: Challenge, now: datetime) -> OpenedChallenge:
    """Inserts a row, or finds the one that has its request_id and has not expired."""
    table = schema.challenge
    connection.execute(
        table.delete().where(*_key(challenge), table.c.expire_time <= to_us(now)),
    )
    is_new = connection.execute(_INSERT, _row(challenge)).rowcount == 1
    if is_new:
        return OpenedChallenge(challenge, True)
    found = find_challenge(connection, challenge.tenant, challenge.request_id)
    # Expired and taken away within this very moment: to the caller it is as if it stood.
    return OpenedChallenge(found or challenge, False)


def settle_challenge(connection: Connection, challenge: Challenge) -> bool:
    """Writes the end of an open challenge. False when it is not open any more."""
    table = schema.challenge
    row = _row(challenge)
    statement = (
        update(table)
        .where(
            *_key(challenge),
            table.c.create_time == to_us(challenge.create_time),
            table.c.state == ChallengeState.OPEN.value,
        )
        .values({name: row[name] for name in ("state", "answer_sealed", "reason", "expire_time")})
    )
    return connection.execute(statement).rowcount == 1


def find_challenge(connection: Connection, tenant: str, request_id: str) -> Challenge | None:
    """The row under a request_id, expired or not."""
    table = schema.challenge
    statement = select(table).where(table.c.tenant == tenant, table.c.request_id == request_id)
    row = connection.execute(statement).mappings().one_or_none()
    return None if row is None else _challenge(row)


def prune_challenges(connection: Connection, tenant: str, before: datetime, limit: int) -> int:
    """Deletes rows that expired before then, at most `limit` of them; how many it were.

    There is no index by time: the table holds what lives, and little else as long as this runs.
    """
    table = schema.challenge
    are_expired = table.c.tenant == tenant, table.c.expire_time < to_us(before)
    # What another replica prunes at this moment is left to it.
    wanted = select(table.c.request_id).where(*are_expired).limit(limit)
    expired = connection.execute(wanted.with_for_update(skip_locked=True)).scalars().all()
    if expired:
        # Taken anew since then, it lives.
        connection.execute(table.delete().where(*are_expired, table.c.request_id.in_(expired)))
    return len(expired)


def _key(challenge: Challenge) -> tuple[Any, Any]:
    table = schema.challenge
    return table.c.tenant == challenge.tenant, table.c.request_id == challenge.request_id


def _row(challenge: Challenge) -> dict[str, Any]:
    return {
        "tenant": challenge.tenant,
        "request_id": challenge.request_id,
        "fingerprint": challenge.fingerprint,
        "connection": challenge.connection,
        "state": challenge.state.value,
        "answer_sealed": challenge.answer_sealed,
        "reason": challenge.reason.value if challenge.reason else "",
        "create_time": to_us(challenge.create_time),
        "expire_time": to_us(challenge.expire_time),
    }


def _challenge(row: RowMapping) -> Challenge:
    created, expires = from_us(row["create_time"]), from_us(row["expire_time"])
    assert created is not None and expires is not None, "the columns hold no nulls"
    return Challenge(
        tenant=row["tenant"],
        request_id=row["request_id"],
        fingerprint=row["fingerprint"],
        connection=row["connection"],
        create_time=created,
        expire_time=expires,
        state=ChallengeState(row["state"]),
        answer_sealed=row["answer_sealed"],
        reason=Reason(row["reason"]) if row["reason"] else None,
    )
