"""How a player books and reads, faults and all; every vendor goes through here, and nothing else.

A vendor says what its booking does to the books and in which words it refuses; the rule of the
key, the gate, the fault, and effect and kept answer in one transaction are the same for all.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loyalty_gateway.sandbox.book import Book, Outcome
from loyalty_gateway.sandbox.faults import (
    FAULT_BY_CARD,
    FAULT_BY_NAME,
    FAULT_HEADER,
    Answer,
    Fault,
    draw,
    spoil,
)

if TYPE_CHECKING:
    from loyalty_gateway.sandbox.player import Call, Player

# What a vendor has to have words of its own for: kind of fault -> the player's method.
_OWN_WORDS = {
    "unauthorized": "unauthorized",
    "contradictory": "contradictory",
    "wrong-echo": "wrong_echo",
    "decline-on-repeat": "declined_repeat",
    "refused-first": "refused_repeat",
}
# What stands in place of an answer that a fault before the effect does not need.
_NOTHING_DONE = Answer(200, b"{}")


class Declined(Exception):
    """The vendor says no: nothing was booked, and this is what it answers."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Entry:
    """What a booking is entered with: its key, given or made up, and the vendor's time."""

    key: str
    now_ms: int

    @property
    def now_s(self) -> int:
        return self.now_ms // 1000


CarryOut = Callable[[Book, Entry], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """One booking, ready to be carried out.

    `operation` and `account` say what is asked of whom. `key` is the caller's id of it, None
    where the vendor knows none: then every request books. `fingerprint` is equal in a true
    repeat and in nothing else. `carry_out` runs in the ledger's thread, in one transaction with
    the kept answer; it raises Declined when the vendor says no, and then nothing of it stays.

    A vendor that can leave a booking open has `carry_pending`, which answers so and may keep a
    thing about it, and `carry_failure`, which ends it without an effect; both return an answer.

    `moves_value` is False for a change of records alone: it passes no gate, and an account with
    a fault of its own does not fail on it. `key_dedupes` is False where this vendor takes no
    notice of this key: then every request with it books.
    """

    operation: str
    account: str
    key: str | None
    fingerprint: str
    carry_out: CarryOut
    carry_pending: CarryOut | None = None
    carry_failure: CarryOut | None = None
    moves_value: bool = True
    key_dedupes: bool = True


def fingerprint_of(*asked: object) -> str:
    """What has to be equal in a repeat; how the body is spelled is not part of it."""
    return hashlib.sha256(repr(asked).encode()).hexdigest()


async def book(player: Player, call: Call, booking: Booking) -> Answer:
    """Carry a booking out, or answer its repeat; a fault fires on the first attempt of a key.

    Raises: Declined for a repeat that the vendor refuses, and for a fault that it cannot play.
    """
    stage, key = player.stage, booking.key or f"request-{secrets.token_hex(8)}"
    call.exchange.card = booking.account or call.exchange.card
    call.exchange.idempotency_key = key
    wish = find_fault(player, call, booking)
    repeated = _repeated(player, call, booking)
    if repeated is not None:
        return repeated
    fault = _fault_of(player, call, booking, wish)
    marks_running = _is_known_by_key(player, booking)
    if marks_running:
        stage.running[key] = booking.fingerprint
    is_left_running = False
    try:
        if booking.moves_value:
            await stage.gate.come_to("before-effect", key)
        if fault is not None and fault.when in ("later", "never"):
            answer = await _begin(player, call, booking, fault, key)
            # An open booking has its answer, which a repeat gets; a late one has none yet.
            is_left_running = marks_running and fault.kind == "late"
            stage.later(_end(player, call, booking, fault, key, is_left_running))
            return _spoiled(player, fault, answer)
        if fault is not None and fault.when == "before":
            name = fault.name
            await player.ledger.run(lambda book: book.note_fault(key, name))
            if fault.kind == "refused-first":
                # It is refused for what is over, not for what still runs.
                stage.running.pop(key, None)
                return player.refused_repeat(booking)
            if fault.kind != "slow":
                return _spoiled(player, fault, _NOTHING_DONE)
            if not await stage.pause(stage.settings.slow_s):
                # A player that stops while it is being slow must not book in its last moment.
                return replace(_NOTHING_DONE, delivery="none")
        answer = await _carry_out(player, call, booking, fault, key)
    finally:
        if marks_running and not is_left_running:
            stage.running.pop(key, None)
    # From here on the key is answered from the ledger, however late this answer leaves.
    if booking.moves_value:
        await stage.gate.come_to("after-effect", key)
    if booking.key is not None:
        answer = player.marked(answer, is_replay=False)
    if fault is None or fault.when == "before":
        return answer
    if fault.kind == "slow":
        await stage.pause(stage.settings.slow_s)
    return _spoiled(player, fault, answer)


async def read(
    player: Player, call: Call, operation: str, find: Callable[[], Answer], account: str = ""
) -> Answer:
    """Answer a read; its fault fires each time that the header names one.

    `find` raises Declined for what is not there. Raises: Declined for an unknown fault.
    """
    call.exchange.card = account or call.exchange.card
    fault = find_fault(player, call, None) or _drawn(player, operation, _said(call), None)
    try:
        answer = find()
    except Declined as declined:
        answer = declined.answer
    if fault is None:
        return answer
    call.exchange.fault = fault.name
    if fault.kind == "slow":
        await player.stage.pause(player.stage.settings.slow_s)
    return _spoiled(player, fault, answer)


def find_fault(player: Player, call: Call, booking: Booking | None) -> Fault | None:
    """The fault that the header asks for.

    Raises: Declined when there is no such fault, or none of the kind at this vendor.
    """
    name = call.headers.get(FAULT_HEADER)
    if name is None:
        return None
    fault = FAULT_BY_NAME.get(name)
    if fault is None or not can_play(player, fault, booking):
        raise Declined(player.unknown_fault(name))
    return fault


def can_play(player: Player, fault: Fault, booking: Booking | None) -> bool:
    """Whether this request, a booking or a read, can have such a fault at this vendor."""
    match fault.kind:
        case "pending":
            if booking is None or booking.carry_pending is None:
                return False
            return fault.when == "later" or booking.carry_failure is not None
        case "refused-first":
            return booking is not None and booking.key is not None and knows(player, fault)
    return knows(player, fault)


def knows(player: Player, fault: Fault) -> bool:
    """Whether some request to this vendor can have the fault."""
    if fault.kind == "pending":
        return player.leaves_open
    return player.has_words_for(_OWN_WORDS.get(fault.kind))


def _is_known_by_key(player: Player, booking: Booking) -> bool:
    """Whether a second request with the booking's key is met as a repeat."""
    is_keyed = booking.key is not None and booking.key_dedupes
    return is_keyed and player.stage.settings.repeat != "books_again"


def _repeated(player: Player, call: Call, booking: Booking) -> Answer | None:
    """The answer to a repeat, or None when the request is to be booked.

    Raises: Declined when the vendor refuses the repeat.
    """
    stage, key = player.stage, booking.key
    if key is None or not _is_known_by_key(player, booking):
        return None
    running = stage.running.get(key)
    oldest_s = stage.now() - stage.settings.key_lifetime_s
    outcome = player.ledger.find_outcome(key, stored_after_s=oldest_s)
    first = running or (outcome.fingerprint if outcome is not None else None)
    if first is None:
        return None
    if first != booking.fingerprint:
        raise Declined(player.reused_key(booking))
    if stage.settings.repeat == "refuses":
        raise Declined(player.refused_repeat(booking))
    if running is not None:
        raise Declined(player.key_in_progress(booking))
    fired = FAULT_BY_NAME.get(player.ledger.find_fired(key) or "")
    if fired is not None and fired.kind == "decline-on-repeat":
        call.exchange.fault = fired.name
        raise Declined(player.declined_repeat(booking))
    assert outcome is not None
    if outcome.body_hash != _body_hash(call):
        problem = "a repeat says the same as the first request in other bytes"
        stage.report(call.exchange, [("body", problem)])
    call.exchange.is_replay = True
    return player.marked(
        Answer(outcome.status, outcome.body, content_type=outcome.content_type), is_replay=True
    )


def _fault_of(player: Player, call: Call, booking: Booking, wish: Fault | None) -> Fault | None:
    """The fault of this booking, if this is the first attempt of its key."""
    fault = wish or (FAULT_BY_CARD.get(booking.account) if booking.moves_value else None)
    if fault is None:
        fault = _drawn(player, booking.operation, booking.key or _body_hash(call), booking)
    elif booking.key is not None and player.ledger.has_fired(booking.key):
        return None
    if fault is not None:
        call.exchange.fault = fault.name
    return fault


def _drawn(player: Player, operation: str, key: str, booking: Booking | None) -> Fault | None:
    """The fault that chaos gives this attempt."""
    chaos = player.stage.settings.chaos
    if chaos is None:
        return None
    player.stage.attempts[operation, key] += 1
    number = player.stage.attempts[operation, key]
    is_first = number == 1 and not player.ledger.has_fired(key)
    names = tuple(
        name
        for name, fault in FAULT_BY_NAME.items()
        if (chaos.faults is None or name in chaos.faults)
        and can_play(player, fault, booking)
        # A later attempt would be told that the one before was booked, and it may not have been.
        and (is_first or fault.kind != "refused-first")
    )
    name = draw(chaos.seed, chaos.ratio, names, operation, key, number)
    return FAULT_BY_NAME[name] if name is not None else None


async def _begin(player: Player, call: Call, booking: Booking, fault: Fault, key: str) -> Answer:
    """What happens at once of a booking that is carried out later or never."""
    if fault.kind != "pending":
        await player.ledger.run(lambda book: book.note_fault(key, fault.name))
        return _NOTHING_DONE
    assert booking.carry_pending is not None
    pending = replace(booking, carry_out=booking.carry_pending)
    return await _carry_out(player, call, pending, fault, key)


async def _end(
    player: Player, call: Call, booking: Booking, fault: Fault, key: str, is_left_running: bool
) -> None:
    """What happens a while after the answer has gone; a player that stops first lets it be."""
    try:
        if not await player.stage.pause(player.stage.settings.late_effect_s):
            return
        if fault.when == "never":
            assert booking.carry_failure is not None
            booking = replace(booking, carry_out=booking.carry_failure)
        await _carry_out(player, call, booking, None, key)
    finally:
        if is_left_running:
            player.stage.running.pop(key, None)


async def _carry_out(
    player: Player, call: Call, booking: Booking, fault: Fault | None, key: str
) -> Answer:
    """Effect, kept answer and fired fault in one transaction."""
    entry = Entry(key, int(player.stage.now() * 1000))
    body_hash, keeps_refused = _body_hash(call), player.stage.settings.keeps_refused_keys

    def work(book: Book) -> Answer:
        try:
            answer, is_kept = book.attempt(lambda part: booking.carry_out(part, entry)), True
        except Declined as declined:
            answer, is_kept = declined.answer, keeps_refused
        if booking.key is not None and is_kept:
            book.remember(
                Outcome(
                    key,
                    booking.fingerprint,
                    body_hash,
                    answer.status,
                    answer.body,
                    answer.content_type,
                    entry.now_s,
                )
            )
        if fault is not None:
            book.note_fault(key, fault.name)
        return answer

    return await player.ledger.run(work)


def _spoiled(player: Player, fault: Fault, answer: Answer) -> Answer:
    return spoil(fault, answer, player, origin=player.origin, now_s=player.stage.now())


def _said(call: Call) -> str:
    return repr((call.query, _body_hash(call)))


def _body_hash(call: Call) -> str:
    return hashlib.sha256(call.body or b"").hexdigest()
