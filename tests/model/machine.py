"""Drives the real engine and the reference side by side; every disagreement is a failure.

The engine's two clocks stand still while a rule runs and jump between rules, so that nothing
waits and nothing depends on how fast this machine is.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from loyalty_gateway.booking.calls import AccountKey, BookingCall, BookingKey, Decision
from loyalty_gateway.booking.connections import Connections, Link, proof
from loyalty_gateway.booking.engine import Engine
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import TRANSITIONS, Answer, Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Proves, Reason
from loyalty_gateway.domain.operations import Operation
from loyalty_gateway.journal.journal import Journal, ListQuery
from loyalty_gateway.providers.port import Executed, Send
from tests.booking import vendor as acts
from tests.booking.house import CARD, KEYRING, PATIENT, TENANT, PlainCodec
from tests.booking.vendor import RESEND_IS_SAFE, FakeVendor
from tests.model.places import FilePlace, ModelPlace
from tests.model.reference import FINAL, Act, Life

_PLAYED: dict[Act, acts.Act] = {
    Act.BOOKS: acts.books,
    Act.BOOKS_AND_IS_SILENT: acts.loses_the_answer,
    Act.DOES_NOTHING_AND_IS_SILENT: acts.loses_the_request,
    Act.BREAKS_THE_ADAPTER: acts.breaks,
    Act.IS_NOT_REACHED: acts.is_not_reached,
    # No pause, since the journal's clock stands still between the rules.
    Act.LIMITS_THE_RATE: acts.limits_the_rate(0),
    Act.REFUSES: acts.refuses(),
    Act.REFUSES_THE_WHOLE: acts.refuses(proves=Proves.WHOLE_BOOKING),
    Act.CONTRADICTS: acts.contradicts,
}
assert set(_PLAYED) == set(Act), "every act is played"

_REAL_TIME_MAX_S = 10.0
_CALL_S = 30.0
_ROUNDS_S = (2 * 3600, 5 * 3600)
_ids = st.sampled_from([f"sale-{number:04}" for number in range(4)])
# By way of a large number, since a short list is drawn from its beginning most of the time.
_acts = st.integers(0, 2**16).map(lambda number: tuple(Act)[number % len(Act)])


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time may jump ahead, so that a deadline passes at once."""

    offset_s = 0.0

    def time(self) -> float:
        return super().time() + self.offset_s


class BookingMachine(RuleBasedStateMachine):
    """Callers, a vendor, crashes, time and operators, in any order."""

    seen: ClassVar[Counter[str]] = Counter()
    """What was met over all examples, for the floor below which the run proves nothing."""

    def __init__(self, new_place: Callable[[], ModelPlace] = FilePlace) -> None:
        super().__init__()
        self.loop = JumpingLoop()
        self.place = new_place()
        self.plans: dict[str, Act | acts.Act] = {}
        self.unplanned: list[Send] = []
        self.vendor = FakeVendor(otherwise=self._play)
        self.now_s = 0
        self.boots = 0
        self.lives: dict[str, Life] = {}
        self._start()

    # --- the engine -----------------------------------------------------------------------

    def _start(self) -> None:
        self.boots += 1
        self.store = self.place.open()
        self.store.offset_us = self.now_s * 1_000_000
        self.journal = Journal(self.store, f"boot-{self.boots}")
        promise = proof(RESEND_IS_SAFE, True, datetime.now(UTC), "for the test")
        link = Link(
            "main",
            self.vendor,
            KEYRING.target_hash(self.vendor.target),
            proven={RESEND_IS_SAFE: promise},
        )
        self.engine = Engine(
            self.journal,
            KEYRING,
            Connections([link]),
            PlainCodec(),
            limits=Limits(),
            policy=PATIENT,
            tenant=TENANT,
            recovery_parallel_max=8,
        )

        async def start() -> None:
            await self.journal.start(KEYRING.salt_check)
            await self.engine.start(proves_itself=False)

        self.loop.run_until_complete(start())

    async def _stop(self) -> None:
        """As a crash would: what is in flight stays as the journal has it."""
        await self.engine.stop(0)
        await self.journal.stop()

    def teardown(self) -> None:
        self.loop.run_until_complete(self._check_stories())
        self.loop.run_until_complete(self._stop())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.place.clear()

    # --- the vendor -----------------------------------------------------------------------

    async def _play(self, vendor: FakeVendor, send: Send) -> Executed:
        """What the rule has planned for this attempt; what it has not planned is a finding."""
        act = self.plans.pop(send.outbound_id, None)
        if act is None:
            self.unplanned.append(send)
            act = Act.BOOKS
        if not isinstance(act, Act):
            return await act(vendor, send)
        return await _PLAYED[act](vendor, send)

    def _plan(self, request_id: str, act: "Act | acts.Act") -> None:
        self.plans[KEYRING.outbound_id(TENANT, request_id)] = act
        if isinstance(act, Act):
            self.seen[act.name] += 1

    # --- waiting, by this machine's own clock ------------------------------------------------

    async def _until(self, is_so: Callable[[], Awaitable[bool] | bool], what: str) -> None:
        give_up_s = time.monotonic() + _REAL_TIME_MAX_S
        while True:
            holds = is_so()
            if not isinstance(holds, bool):
                holds = await holds
            if holds:
                return
            if time.monotonic() > give_up_s:
                raise AssertionError(f"waited: {what}; {self.lives}; {await self._rows()}")
            await asyncio.sleep(0.001)

    async def _find(self, request_id: str) -> Booking | None:
        return await self.journal.find(TENANT, request_id=request_id)

    async def _rows(self) -> dict[str, Booking]:
        rows = (await self.journal.list(ListQuery(tenant=TENANT))).bookings
        return {booking.request_id: booking for booking in rows}

    async def _agree(self) -> bool:
        """Whether the journal stands where the reference does, with nobody at work on it."""
        rows = await self._rows()
        return set(rows) == {key for key, life in self.lives.items() if life.state} and all(
            (row.state, row.attempt_count) == (self.lives[key].state, self.lives[key].attempts)
            and not row.attempt_open
            and not row.owner
            for key, row in rows.items()
        )

    async def _ends(self, request_id: str, *tasks: "asyncio.Task[Any]") -> list[Any]:
        """The ends of calls; who waits for a doubt waits until its time is up, and that is now."""
        if self.lives[request_id].state is State.IN_DOUBT:
            await self._until(self._agree, f"{request_id} is in doubt")
            self.loop.offset_s += _CALL_S + 1
        await self._until(lambda: all(task.done() for task in tasks), f"{request_id} is answered")
        return await asyncio.gather(*tasks, return_exceptions=True)

    def _life(self, request_id: str) -> Life:
        # A kick is heard once a second.
        self.loop.offset_s += 2
        return self.lives.setdefault(request_id, Life())

    def _call(self, request_id: str, amount: int) -> BookingCall:
        return BookingCall(
            tenant=TENANT,
            operation=Operation.DEBIT_BALANCE,
            request_id=request_id,
            account=AccountKey("main", plain_id=CARD),
            asked=Money("CHF", amount),
            deadline=self.loop.time() + _CALL_S,
        )

    # --- the rules --------------------------------------------------------------------------

    @initialize(request_id=_ids, act=_acts)
    def book_first(self, request_id: str, act: Act) -> None:
        """Without any booking the other rules have little to do."""
        self._book(request_id, act, 1)

    @rule(request_id=_ids, act=_acts)
    def book_alone(self, request_id: str, act: Act) -> None:
        """A new booking or a repeat."""
        self._book(request_id, act, 1)

    @rule(request_id=_ids, act=_acts, callers=st.sampled_from([1, 2, 5]))
    def book_together(self, request_id: str, act: Act, callers: int) -> None:
        """The same by several callers at the same moment."""
        self._book(request_id, act, callers)

    def _book(self, request_id: str, act: Act, callers: int) -> None:
        life, amount = self._life(request_id), _amount(request_id)
        before = life.state
        if before in (None, State.RESERVED):
            self._plan(request_id, act)
            life.sent_by_caller(act, amount, self.now_s)
        elif before is State.IN_DOUBT:
            act = life.honest(act, self.now_s)
            if life.may_resend(self.now_s):
                self._plan(request_id, act)
            life.sent_again(act, self.now_s)
        self.seen["repeat" if before else "new"] += 1

        async def go() -> list[Any]:
            call = self._call(request_id, amount)
            tasks = [asyncio.create_task(self.engine.book(call)) for _ in range(callers)]
            return await self._ends(request_id, *tasks)

        for end in self.loop.run_until_complete(go()):
            self._hear(life, end)

    @rule(request_id=_ids)
    def book_something_else(self, request_id: str) -> None:
        """The same request_id for another amount."""
        life = self._life(request_id)
        if life.state is None:
            return
        self.seen["conflict"] += 1

        async def go() -> list[Any]:
            call = self._call(request_id, _amount(request_id) + 1)
            return await self._ends_at_once(self.engine.book(call))

        (end,) = self.loop.run_until_complete(go())
        assert isinstance(end, LoyaltyError), end
        if life.is_tombstone:
            assert end.reason is Reason.CANCELLED_BEFORE_ARRIVAL and end.is_final
        else:
            assert end.reason is Reason.REQUEST_ID_REUSED

    @rule(request_id=_ids)
    def cancel(self, request_id: str) -> None:
        life = self._life(request_id)
        is_closed = life.cancelled()
        self.seen["cancel"] += 1
        key = BookingKey(request_id=request_id)
        cancelling = self.engine.cancel(TENANT, key, self.loop.time() + _CALL_S)
        (end,) = self.loop.run_until_complete(self._ends_at_once(cancelling))
        if is_closed:
            assert isinstance(end, Booking) and end.state is life.state, end
        else:
            assert isinstance(end, LoyaltyError), end
            assert (end.reason, end.fate) == (Reason.CANCEL_NOT_POSSIBLE, life.outcome)

    @rule(request_id=_ids)
    def resolve(self, request_id: str) -> None:
        """An operator has looked at the vendor's statement, which is right."""
        life = self._life(request_id)
        if life.state is None:
            return
        is_taken = life.resolved(life.has_effect)
        self.seen["resolve"] += is_taken
        fate = Fate.EXECUTED if life.has_effect else Fate.NOT_EXECUTED
        decision = Decision(fate, "statement line 7", "seen at the vendor")

        async def go() -> list[Any]:
            booking = await self._find(request_id)
            assert booking is not None
            deadline = self.loop.time() + _CALL_S
            return await self._ends_at_once(
                self.engine.resolve(TENANT, booking.booking_id, decision, "anna", deadline)
            )

        (end,) = self.loop.run_until_complete(go())
        if is_taken:
            assert isinstance(end, Booking) and end.state is life.state, end
        else:
            assert isinstance(end, LoyaltyError), end
            assert end.reason is Reason.RESOLUTION_NOT_POSSIBLE

    @rule(request_id=_ids, act=_acts)
    def ask_now(self, request_id: str, act: Act) -> None:
        """An operator wishes that the machine asks once more."""
        life = self._life(request_id)
        if life.state not in (State.IN_DOUBT, State.NEEDS_REVIEW):
            return
        is_refused = life.state is State.NEEDS_REVIEW and not life.may_resend(self.now_s)
        if not is_refused:
            life.state = State.IN_DOUBT
            act = life.honest(act, self.now_s)
            if life.may_resend(self.now_s):
                self._plan(request_id, act)
            life.sent_again(act, self.now_s)
            self.seen["ask"] += 1

        async def go() -> list[Any]:
            booking = await self._find(request_id)
            assert booking is not None
            deadline = self.loop.time() + _CALL_S
            asking = self.engine.resolve(TENANT, booking.booking_id, None, "anna", deadline)
            return await self._ends(request_id, asyncio.create_task(asking))

        (end,) = self.loop.run_until_complete(go())
        if is_refused:
            assert isinstance(end, LoyaltyError), end
            assert end.reason is Reason.RESOLUTION_NOT_POSSIBLE
        else:
            assert isinstance(end, Booking) and end.state is life.state, end

    @rule(seconds=st.sampled_from(_ROUNDS_S), act=_acts)
    def time_passes(self, seconds: int, act: Act) -> None:
        """Every step of recovery becomes due once."""
        self.now_s += seconds
        for request_id, life in self.lives.items():
            if life.state is State.IN_DOUBT and life.may_resend(self.now_s):
                self._plan(request_id, life.honest(act, self.now_s))
            life.time_passed(act, self.now_s)
        self.store.offset_us = self.now_s * 1_000_000
        # Recovery sleeps by the loop's clock and decides by the journal's.
        self.loop.offset_s += 60
        self.loop.run_until_complete(self._until(self._agree, "the journal agrees"))

    @rule(request_id=_ids, has_effect=st.booleans(), act=_acts)
    def crash_while_the_vendor_is_asked(self, request_id: str, has_effect: bool, act: Act) -> None:
        """By a caller's own attempt, by a resend which a repeat has triggered, or not at all."""
        life = self._life(request_id)
        is_first = life.state in (None, State.RESERVED)
        is_resend = life.state is State.IN_DOUBT and life.may_resend(self.now_s)
        if not (is_first or is_resend):
            self._crash_and_start(None, act)
            return
        self.seen["crash in a send" if is_first else "crash in a resend"] += 1
        arrived = asyncio.Event()

        async def hang(vendor: FakeVendor, send: Send) -> Executed:
            if has_effect:
                vendor.execute(send)
            arrived.set()
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")

        self._plan(request_id, hang)

        async def go() -> asyncio.Task[Answer]:
            call = self._call(request_id, _amount(request_id))
            task = asyncio.create_task(self.engine.book(call))
            await self._until(arrived.is_set, "the vendor is asked")
            return task

        caller = self.loop.run_until_complete(go())
        if is_first:
            life.crashed_while_sending(has_effect, _amount(request_id), self.now_s)
            self._crash_and_start(caller, act)
        else:
            life.crashed_while_resending(has_effect, self.now_s)
            self._crash_and_start(caller, act, resent=request_id)

    def _crash_and_start(
        self, caller: "asyncio.Task[Answer] | None", act: Act, resent: str = ""
    ) -> None:
        self.seen["crash"] += 1

        async def die() -> None:
            await self._stop()
            if caller is None:
                return
            caller.cancel()
            (end,) = await asyncio.gather(caller, return_exceptions=True)
            # Whatever a dying process still says, it is not that nothing happened.
            assert not isinstance(end, Answer), end
            if isinstance(end, LoyaltyError):
                assert end.fate in (None, Fate.UNKNOWN) and not end.is_final, end

        self.loop.run_until_complete(die())
        if resent:
            # A resend without an end is looked at as soon as somebody is there to do it.
            life = self.lives[resent]
            act = life.honest(act, self.now_s)
            if life.may_resend(self.now_s):
                self._plan(resent, act)
            life.sent_again(act, self.now_s)
        self._start()
        self.loop.run_until_complete(self._until(self._agree, "the journal agrees"))

    async def _ends_at_once(self, call: Coroutine[Any, Any, Any]) -> list[Any]:
        task = asyncio.create_task(call)
        await self._until(task.done, "the call is answered")
        return list(await asyncio.gather(task, return_exceptions=True))

    # --- what must hold ---------------------------------------------------------------------

    def _hear(self, life: Life, end: Any) -> None:
        """A caller is told the truth, the same each time, and never more than is known."""
        if life.state is State.SUCCEEDED:
            assert isinstance(end, Answer), end
            life.told.add(end.body)
            return
        assert isinstance(end, LoyaltyError), end
        assert (end.fate, end.is_final) == (life.outcome, life.state in FINAL), end
        if life.state is State.DECLINED:
            assert end.status_bytes is not None
            life.told.add(end.status_bytes)

    @invariant()
    def the_vendor_was_asked_as_planned_and_booked_at_most_once(self) -> None:
        assert not self.unplanned, self.unplanned
        assert not self.plans, f"never sent: {self.plans}"
        effects = Counter(effect.outbound_id for effect in self.vendor.effects)
        for request_id, life in self.lives.items():
            happened = effects[KEYRING.outbound_id(TENANT, request_id)]
            assert happened == life.has_effect, (request_id, life, happened)

    @invariant()
    def the_journal_agrees_and_nothing_told_is_contradicted(self) -> None:
        self.loop.run_until_complete(self._check_rows())

    async def _check_rows(self) -> None:
        assert await self._agree(), (self.lives, await self._rows())
        for request_id, booking in (await self._rows()).items():
            life = self.lives[request_id]
            self.seen[booking.state.name] += 1
            assert len(life.told) <= 1, life.told
            if life.state is State.SUCCEEDED:
                assert life.has_effect and life.told <= {booking.answer_bytes}
            elif life.told:
                assert life.state is State.DECLINED and life.told == {booking.status_bytes}
            if life.state in FINAL and life.state is not State.SUCCEEDED:
                assert not life.has_effect

    async def _check_stories(self) -> None:
        for booking in (await self._rows()).values():
            history, attempts = await self.journal.story(TENANT, booking.booking_id)
            assert [entry.sequence for entry in history] == list(range(1, booking.epoch + 1))
            for entry in history:
                assert (entry.from_state, entry.to_state) in TRANSITIONS
            numbers = [attempt.number for attempt in attempts]
            assert numbers == list(range(1, booking.attempt_count + 1))


def _amount(request_id: str) -> int:
    return 1000 + 10 * int(request_id[-4:])
