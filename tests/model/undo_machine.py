"""Undo, cancellation and questions in any order: nothing that was told is ever untrue.

Where machine.py predicts every step of a life, this one knows the promises alone: at most one
effect for a request_id, an OK for one that happened, a final "no" for one that never will have.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from loyalty_gateway.booking.calls import (
    AccountKey,
    BookingCall,
    BookingKey,
    Decision,
    OriginalKey,
)
from loyalty_gateway.booking.connections import Connections, Link, proof
from loyalty_gateway.booking.engine import Engine
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import TRANSITIONS, Answer, Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.domain.operations import UNDO_OPERATIONS, InDoubtPolicy, Operation
from loyalty_gateway.journal.journal import Journal, ListQuery
from loyalty_gateway.providers.port import Executed, Finding, Question, Send
from tests.booking import vendor as acts
from tests.booking.house import CARD, KEYRING, PATIENT, TENANT, PlainCodec
from tests.booking.vendor import FakeVendor
from tests.model.machine import JumpingLoop
from tests.model.places import FilePlace, ModelPlace

_UNDO = Operation.REVERSE_POINTS
_OFFERS = {
    Operation.DEBIT_BALANCE: replace(acts.RESENT, undo=_UNDO),
    Operation.PAY_WITH_GIFT_CARD: replace(acts.ASKED, undo=_UNDO),
    Operation.TOP_UP_GIFT_CARD: replace(acts.RESENT, ways=(acts.REVERSE,), undo=_UNDO),
    Operation.TOP_UP_BALANCE: acts.ASKED,
    _UNDO: acts.RESENT,
}
_PROMISES = (acts.RESEND_IS_SAFE, acts.QUERY_ANSWERS, acts.UNDO_TAKES_OUR_NUMBER)
_SALES = dict(zip((f"sale-{number:04}" for number in range(4)), _OFFERS, strict=False))
_UNDOS = [f"undo-{number:04}" for number in range(2)]
_CALL_S = 30.0
_REAL_TIME_MAX_S = 20.0
_ROUNDS_MAX = 40
_POLICY = replace(PATIENT, schedule_s=(60.0,), then_every_s=600.0, not_found_waits_s=(300.0, 600.0))

_PLAYED = {
    "books": acts.books,
    "books and is silent": acts.loses_the_answer,
    "does nothing and is silent": acts.loses_the_request,
    "breaks the adapter": acts.breaks,
    "is not reached": acts.is_not_reached,
    "limits the rate": acts.limits_the_rate(0),
    "refuses": acts.refuses(Reason.PROVIDER_DECLINED),
}
_LATE = "books later and is silent"
_REPLIES = {"silent": acts.is_silent, "pending": acts.is_working_on_it}

_plans = st.lists(st.sampled_from([*_PLAYED, _LATE, _LATE]), max_size=3)
_replies = st.lists(st.sampled_from(sorted(_REPLIES)), max_size=2)
_sales = st.sampled_from(sorted(_SALES))


@dataclass(slots=True)
class Told:
    """What callers were told of one request_id."""

    ok: set[bytes] = field(default_factory=set)
    is_refused: bool = False
    is_cancelled: bool = False


class UndoMachine(RuleBasedStateMachine):
    """Callers, a vendor with whims, crashes, time and operators."""

    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self, new_place: Callable[[], ModelPlace] = FilePlace) -> None:
        super().__init__()
        self.loop = JumpingLoop()
        self.place = new_place()
        self.plan: deque[str] = deque()
        self.replies: deque[str] = deque()
        self.late: list[Send] = []
        self.vendor = FakeVendor(otherwise=self._play, offers=_OFFERS)
        self.vendor._ask = self._reply  # type: ignore[method-assign]
        self.vendor.operations = {
            operation: replace(offer, ask=offer.ask and self._reply)
            for operation, offer in self.vendor.operations.items()
        }
        self.now_s = 0
        self.boots = 0
        self.told: dict[str, Told] = {}
        self._start()

    def _start(self) -> None:
        self.boots += 1
        self.store = self.place.open()
        self.store.offset_us = self.now_s * 1_000_000
        self.journal = Journal(self.store, f"boot-{self.boots}")
        link = Link("main", self.vendor, KEYRING.target_hash(self.vendor.target))

        async def start() -> None:
            await self.journal.start(KEYRING.salt_check)
            now = self.journal.now()
            link.proven.update({name: proof(name, True, now, "") for name in _PROMISES})
            self.engine = Engine(
                self.journal,
                KEYRING,
                Connections([link]),
                PlainCodec(),
                limits=Limits(),
                policy=_POLICY,
                tenant=TENANT,
                recovery_parallel_max=8,
            )
            await self.engine.start(proves_itself=False)

        self.loop.run_until_complete(start())

    async def _stop(self) -> None:
        await self.engine.stop(0)
        await self.journal.stop()

    # --- the vendor -----------------------------------------------------------------------

    async def _play(self, vendor: FakeVendor, send: Send) -> Executed:
        """The next act of the plan, but never a lie: what is booked is not denied."""
        wish = self.plan.popleft() if self.plan else "books"
        is_known = send.outbound_id in vendor._receipts
        is_coming = any(it.outbound_id == send.outbound_id for it in self.late)
        if is_known and wish in ("refuses", "is not reached", "limits the rate"):
            wish = "books" if wish == "refuses" else wish
        if is_coming and wish == "refuses":
            wish = "does nothing and is silent"
        self.seen[wish] += 1
        if wish == _LATE:
            if not is_known:
                self.late.append(send)
            raise acts._no_answer()
        return await _PLAYED[wish](vendor, send)

    async def _reply(self, question: Question) -> Finding:
        self.seen["question"] += 1
        wish = self.replies.popleft() if self.replies else ""
        reply = _REPLIES.get(wish, acts.tells_the_truth)
        return await reply(self.vendor, question)

    def _late_ones_arrive(self) -> None:
        """Within the settle time, so before anything that takes longer."""
        for send in self.late:
            if send.outbound_id in self.vendor._receipts:
                continue
            try:
                self.vendor.execute(send)
            except Exception:
                continue  # An undo that came too late for anything.
            self.seen["late effect"] += 1
        self.late.clear()

    # --- rules ------------------------------------------------------------------------------

    def _begin(self, plan: list[str], replies: list[str]) -> None:
        self._late_ones_arrive()
        self.plan, self.replies = deque(plan), deque(replies)
        # A kick is heard once a second.
        self.loop.offset_s += 2

    @initialize(request_id=_sales, plan=_plans, is_auto=st.booleans())
    def book_first(self, request_id: str, plan: list[str], is_auto: bool) -> None:
        self.book(request_id, plan, [], is_auto)

    @rule(request_id=_sales, plan=_plans, replies=_replies, is_auto=st.booleans())
    def book(self, request_id: str, plan: list[str], replies: list[str], is_auto: bool) -> None:
        self._begin(plan, replies)
        operation = _SALES[request_id]
        is_auto = is_auto and operation is not Operation.TOP_UP_BALANCE
        call = BookingCall(
            tenant=TENANT,
            operation=operation,
            # Of each sale there are two, so that the policy is a field of the request.
            request_id=f"{request_id}-{'auto' if is_auto else 'plain'}",
            account=AccountKey("main", plain_id=CARD),
            asked=Money("CHF", 1000),
            deadline=self.loop.time() + _CALL_S,
            in_doubt_policy=InDoubtPolicy.AUTO_REVERSE if is_auto else InDoubtPolicy.RESOLVE,
        )
        self.seen["repeat" if call.request_id in self.told else "new"] += 1
        self._hear(call.request_id, self._run(self.engine.book(call)))

    @rule(request_id=_sales, is_auto=st.booleans())
    def book_in_peace(self, request_id: str, is_auto: bool) -> None:
        """Else there is hardly ever something to undo."""
        self.book(request_id, [], [], is_auto)

    @rule(
        request_id=st.sampled_from(_UNDOS),
        of=_sales,
        chosen=st.integers(0, 2**16),
        plan=_plans,
    )
    def undo(self, request_id: str, of: str, chosen: int, plan: list[str]) -> None:
        self._begin(plan, [])
        booked = sorted(key for key, told in self.told.items() if told.ok and "undo" not in key)
        # Mostly what was booked, and now and then anything.
        of = booked[chosen % len(booked)] if booked and chosen % 4 else f"{of}-plain"
        call = BookingCall(
            tenant=TENANT,
            operation=_UNDO,
            request_id=f"{request_id}-{of}",
            account=AccountKey(""),
            original=OriginalKey(request_id=of),
            deadline=self.loop.time() + _CALL_S,
        )
        end = self._run(self.engine.book(call))
        self.seen[f"undo {'ok' if isinstance(end, Answer) else 'refused'}"] += 1
        self._hear(call.request_id, end)

    @rule(request_id=_sales, is_auto=st.booleans(), plan=_plans)
    def cancel(self, request_id: str, is_auto: bool, plan: list[str]) -> None:
        self._begin(plan, [])
        request_id = f"{request_id}-{'auto' if is_auto else 'plain'}"
        if request_id not in self.told and len(plan) < 3:
            return  # A request_id that is closed before it was used says little afterwards.
        cancelling = self.engine.cancel(
            TENANT, BookingKey(request_id=request_id), self.loop.time() + _CALL_S
        )
        end = self._run(cancelling)
        told = self.told.setdefault(request_id, Told())
        if isinstance(end, Booking):
            self.seen["cancelled"] += 1
            told.is_cancelled = True
        else:
            assert isinstance(end, LoyaltyError), end
            assert end.reason is Reason.CANCEL_NOT_POSSIBLE, end
            self.seen["not cancelled"] += 1

    @rule(seconds=st.sampled_from([30, 120, 1000, 3600]), plan=_plans, replies=_replies)
    def time_passes(self, seconds: int, plan: list[str], replies: list[str]) -> None:
        self._begin(plan, replies)
        self._jump(seconds)
        self._run(asyncio.sleep(0))

    @rule(plan=_plans)
    def crash(self, plan: list[str]) -> None:
        self._begin(plan, [])
        self.loop.run_until_complete(self._stop())
        self.seen["crash"] += 1
        self._start()
        self._run(asyncio.sleep(0))

    @rule(request_id=_sales, is_auto=st.booleans(), plan=_plans)
    def crash_in_a_booking(self, request_id: str, is_auto: bool, plan: list[str]) -> None:
        """The process dies at some moment of a call: of a booking, or of its cancellation."""
        self._begin(plan, [])
        is_auto = is_auto and _SALES[request_id] is not Operation.TOP_UP_BALANCE
        call = BookingCall(
            tenant=TENANT,
            operation=_SALES[request_id],
            request_id=f"{request_id}-{'auto' if is_auto else 'plain'}",
            account=AccountKey("main", plain_id=CARD),
            asked=Money("CHF", 1000),
            deadline=self.loop.time() + _CALL_S,
            in_doubt_policy=InDoubtPolicy.AUTO_REVERSE if is_auto else InDoubtPolicy.RESOLVE,
        )

        async def die() -> Any:
            task = asyncio.create_task(self.engine.book(call))
            for _ in range(len(plan) * 3):
                await asyncio.sleep(0.0005)
            await self._stop()
            task.cancel()
            (end,) = await asyncio.gather(task, return_exceptions=True)
            return end

        end = self.loop.run_until_complete(die())
        self.seen["crash in a call"] += 1
        self._start()
        self._run(asyncio.sleep(0))
        if isinstance(end, Answer | LoyaltyError):
            self._hear(call.request_id, end)

    @rule(request_id=_sales, is_auto=st.booleans())
    def resolve(self, request_id: str, is_auto: bool) -> None:
        """An operator has looked at the vendor's statement, which is right by then."""
        self._begin([], [])
        request_id = f"{request_id}-{'auto' if is_auto else 'plain'}"

        async def go() -> Any:
            known = await self.journal.find(TENANT, request_id=request_id)
            if known is None or known.state is not State.NEEDS_REVIEW:
                return None
            fate = Fate.EXECUTED if self._net(known) else Fate.NOT_EXECUTED
            decision = Decision(fate, f"line of {request_id}", "seen")
            deadline = self.loop.time() + _CALL_S
            return await self.engine.resolve(TENANT, known.booking_id, decision, "anna", deadline)

        if self._run(go()) is not None:
            self.seen["resolved"] += 1

    def teardown(self) -> None:
        """An honest vendor and time enough: what a machine can end has ended."""
        self._begin([], [])
        for _ in range(_ROUNDS_MAX):
            rows = self.loop.run_until_complete(self._rows())
            if all(it.is_final or it.state is State.NEEDS_REVIEW for it in rows.values()):
                break
            self._jump(3600)
            self._run(asyncio.sleep(0))
        else:
            raise AssertionError(f"not ended: {self._open(rows)}")
        self.loop.run_until_complete(self._check_stories())
        self.loop.run_until_complete(self._stop())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.place.clear()

    # --- running and waiting ------------------------------------------------------------------

    def _jump(self, seconds: int) -> None:
        self.now_s += seconds
        self.store.offset_us = self.now_s * 1_000_000
        self.loop.offset_s += 60

    def _run(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Runs a call to its end, whoever waits for a doubt until its time is up."""

        async def go() -> Any:
            task = asyncio.ensure_future(call)
            await asyncio.wait({task}, timeout=0.01)
            if not task.done():
                await self._quiet(task)
                self.loop.offset_s += _CALL_S + 1
            ends = await asyncio.gather(task, return_exceptions=True)
            await self._quiet()
            return ends[0]

        end: Any = self.loop.run_until_complete(go())
        if isinstance(end, BaseException) and not isinstance(end, LoyaltyError):
            raise end
        self.loop.run_until_complete(self._check())
        return end

    async def _quiet(self, task: "asyncio.Future[Any] | None" = None) -> None:
        """Waits until no machine has anything to do at this moment."""
        give_up_s = time.monotonic() + _REAL_TIME_MAX_S
        while True:
            rows = await self._rows()
            now = self.journal.now()
            is_quiet = not self.engine._recovery._busy and all(
                # What is being undone belongs to whoever opens the undo, for the lease.
                (not it.owner or it.state is State.REVERSING)
                and not it.attempt_open
                and (it.is_final or it.next_attempt_time is None or it.next_attempt_time > now)
                for it in rows.values()
            )
            if (is_quiet and (task is not None or not self.engine._flights.in_flight)) or (
                task is not None and task.done()
            ):
                return
            if time.monotonic() > give_up_s:
                raise AssertionError(f"never quiet: {self._open(rows)}")
            await asyncio.sleep(0.001)

    async def _rows(self) -> dict[str, Booking]:
        rows = (await self.journal.list(ListQuery(tenant=TENANT, limit=200))).bookings
        return {booking.request_id: booking for booking in rows}

    @staticmethod
    def _open(rows: dict[str, Booking]) -> list[Any]:
        return [
            (it.request_id, it.state, it.intent, it.next_attempt_time, it.attempt_count)
            for it in rows.values()
            if not it.is_final
        ]

    # --- what must hold -----------------------------------------------------------------------

    def _hear(self, request_id: str, end: Any) -> None:
        told = self.told.setdefault(request_id, Told())
        if isinstance(end, Answer):
            told.ok.add(end.body)
            assert len(told.ok) == 1, "an OK is told to the letter"
            assert not told.is_refused, "what was refused for good is never OK"
        elif isinstance(end, LoyaltyError) and end.is_final and end.fate is Fate.NOT_EXECUTED:
            assert not told.ok, "what was OK is never refused"
            told.is_refused = True

    def _net(self, booking: Booking) -> int:
        happened = sum(it.outbound_id == booking.outbound_id for it in self.vendor.effects)
        return happened - (booking.outbound_id in self.vendor.undone)

    async def _check(self) -> None:
        rows = await self._rows()
        late = {it.outbound_id for it in self.late}
        effects = Counter(it.outbound_id for it in self.vendor.effects)
        assert max(effects.values(), default=0) <= 1, "one effect for one request_id"
        for booking in rows.values():
            self.seen[booking.state.name] += 1
            told = self.told.get(booking.request_id, Told())
            if booking.operation in UNDO_OPERATIONS:
                self._check_undo(booking, rows)
                continue
            net = self._net(booking)
            assert net in (0, 1), "undone once"
            if booking.state is State.SUCCEEDED:
                assert net == 1 and not told.is_refused, booking
            elif booking.is_final:
                assert net == 0 and booking.outbound_id not in late, booking
            if told.ok:
                assert effects[booking.outbound_id] == 1, "an OK is for what happened"
                assert booking.is_answered
            if told.is_refused:
                assert booking.is_final and net == 0

    def _check_undo(self, undo: Booking, rows: dict[str, Booking]) -> None:
        original = next(it for it in rows.values() if it.name == undo.original_booking)
        did_it = self.vendor.undone.get(original.outbound_id) == undo.outbound_id
        if undo.state is State.SUCCEEDED:
            # Between the two commits the original has still to follow; at the end it has.
            followed = (State.REVERSED, State.REVERSING)
            assert did_it and original.state in followed, (undo, original)
        elif undo.is_final:
            assert not did_it, (undo, original)
        elif undo.state in (State.SENDING, State.IN_DOUBT, State.NEEDS_REVIEW):
            assert original.state is State.REVERSING, (undo, original)

    async def _check_stories(self) -> None:
        for booking in (await self._rows()).values():
            history, attempts = await self.journal.story(TENANT, booking.booking_id)
            assert [entry.sequence for entry in history] == list(range(1, booking.epoch + 1))
            for entry in history:
                assert (entry.from_state, entry.to_state) in TRANSITIONS or (
                    entry.from_state is entry.to_state
                )
            numbers = [attempt.number for attempt in attempts]
            assert numbers == list(range(1, booking.attempt_count + 1))
            assert booking.state is not State.REVERSING
