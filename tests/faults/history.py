"""What every caller was told, when and by whom; and what that says of doubts and their ends."""

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from loyalty.v1 import bookings_pb2
from tests.e2e.caller import Reply
from tests.e2e.checker import Cancelled, Heard
from tests.e2e.wanted import BookingRequest


@dataclass(frozen=True, slots=True)
class Told:
    """One answer to a booking call, and the seconds between which it was asked for."""

    heard: Heard
    began_s: float
    ended_s: float

    @property
    def key(self) -> tuple[str, str, str]:
        """One content under one request_id."""
        return self.heard.key


@dataclass(slots=True)
class History:
    """All calls of one fleet's callers, in the order in which they ended."""

    told: list[Told] = field(default_factory=list)
    asked: list[BookingRequest] = field(default_factory=list)
    """Every request whose call was begun, each time."""
    sleepers_used: int = 0
    """How many gift cards were taken to be activated."""
    cancel_asked: set[str] = field(default_factory=set)
    """Every request_id that was to be cancelled, whatever was answered."""
    cancels: Counter[str] = field(default_factory=Counter)
    cancelled: list[Cancelled] = field(default_factory=list)
    words: list[tuple[str, Reply]] = field(default_factory=list)
    """What was told of a request_id beside the answers to its booking: to who cancelled, asked or
    read."""

    async def book(
        self,
        replica: Any,
        request: BookingRequest,
        *,
        timeout_s: float = 10.0,
        fault: str = "",
    ) -> Reply:
        began_s = time.monotonic()
        self.asked.append(request)
        reply: Reply = await replica.caller.call(request, timeout_s=timeout_s, fault=fault)
        self.told.append(Told(Heard(request, reply), began_s, time.monotonic()))
        return reply

    async def cancel(self, replica: Any, request_id: str) -> Reply:
        request: Message = bookings_pb2.CancelBookingRequest(request_id=request_id)
        self.cancel_asked.add(request_id)
        reply: Reply = await replica.caller.call(request, timeout_s=5.0)
        self.words.append((request_id, reply))
        self.cancels[reply.reason or reply.code.name] += 1
        if reply.is_ok:
            self.cancelled.append(Cancelled(request_id, is_final=reply.booking.final))
        return reply


@dataclass(frozen=True, slots=True)
class Summary:
    """The counts of one stretch of a history."""

    keys: int
    acked: int
    in_doubt: int
    resolved: int
    resolved_alone: int
    """Those of them for whose end nobody was asked."""
    resolve_s: tuple[float, ...]
    """Seconds from the first doubt to the end of what was resolved alone, shortest first."""
    replays: int
    conflicts: int


def summarise(
    told: list[Told],
    resolved_s: Mapping[str, float],
    open_ids: Collection[str] = (),
    helped_ids: Collection[str] = (),
    known_ids: Collection[str] | None = None,
) -> Summary:
    """Counts by request; in doubt is what was told to be unknown, and what nobody answered.

    By the journal `resolved_s` is how long each doubt lasted, since a caller may ask much later,
    and `open_ids` are the requests that have no end; `helped_ids` those whose end took a person;
    what is not among `known_ids`, if they are given, never arrived and is no doubt.
    """
    doubts: set[str] = set()
    acked: set[str] = set()
    conflicts = replays = 0
    for it in told:
        reply = it.heard.reply
        is_other = reply.reason == "REQUEST_ID_REUSED"
        conflicts += is_other
        replays += reply.is_replayed
        if reply.is_ok:
            acked.add(it.key[0])
        is_mute = not reply.outcome and not reply.reason
        if not reply.is_final and (reply.outcome == "UNKNOWN" or is_mute):
            doubts.add(it.key[0])
    if known_ids is not None:
        doubts.intersection_update(known_ids)
    resolved = doubts.difference(open_ids)
    alone = resolved.difference(helped_ids)
    return Summary(
        keys=len({it.key[0] for it in told}),
        acked=len(acked),
        in_doubt=len(doubts),
        resolved=len(resolved),
        resolved_alone=len(alone),
        resolve_s=tuple(sorted(resolved_s[it] for it in alone if it in resolved_s)),
        replays=replays,
        conflicts=conflicts,
    )


def percentile(values: tuple[float, ...], share: float) -> float | None:
    """The value below which this share lies; of few values the next higher one."""
    if not values:
        return None
    return values[min(len(values) - 1, int(share * len(values)))]
