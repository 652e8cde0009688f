"""Random lives: faulty vendor, leaving callers, dying processes; then ledger and journal agree."""

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import Fate, LoyaltyError, Reason
from loyalty_gateway.journal.journal import ListQuery
from loyalty_gateway.providers.port import Executed, Send
from tests.booking.house import KEYRING, TENANT, House, open_house, until
from tests.booking.vendor import (
    Act,
    FakeVendor,
    books,
    breaks,
    cancels_itself,
    contradicts,
    is_not_reached,
    limits_the_rate,
    loses_the_answer,
    loses_the_request,
    refuses,
)
from tests.postgres import Place

POLICY = Policy(
    schedule_s=(0.02, 0.05, 0.1), then_every_s=0.2, settle_s=0.6, abandon_reserved_s=1.5
)
LATE_MAX_S = 0.3
"""Effects come at most so late: less than the settle time, which is what that time is for."""

LIMITS = Limits(lease_s=1.0)
"""Where others may live on, a process that died is known to be dead by its lease alone."""

REQUESTS = 60
LIVES = 4


class ChaoticVendor(FakeVendor):
    """Idempotent by its key, and otherwise as bad as the dice say; the dice are seeded."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__(otherwise=self._roll)
        self.seen: Counter[str] = Counter()
        self._dice = dice
        self._late: set[asyncio.Task[None]] = set()
        self._refused: set[str] = set()

    async def _roll(self, vendor: FakeVendor, send: Send) -> Executed:
        await asyncio.sleep(self._dice.random() * 0.02)
        acts: list[tuple[Act, int]] = [
            (books, 30),
            (loses_the_answer, 15),
            (loses_the_request, 10),
            (self._is_late, 10),
            (is_not_reached, 8),
            (limits_the_rate(0.05), 4),
            (breaks, 4),
            (cancels_itself, 3),
            (contradicts, 1),
        ]
        if send.outbound_id not in self._receipts:
            # What it knows it replays; what it does not know it may refuse.
            acts.append((refuses(Reason.INSUFFICIENT_BALANCE), 15))
        act = self._dice.choices([it for it, _ in acts], [weight for _, weight in acts])[0]
        self.seen[getattr(act, "__name__", "act")] += 1
        return await act(self, send)

    async def _is_late(self, vendor: FakeVendor, send: Send) -> Executed:
        """No answer now, and the effect a while later, whatever happens meanwhile."""

        async def land() -> None:
            await asyncio.sleep(self._dice.random() * LATE_MAX_S)
            self.execute(send)

        task = asyncio.create_task(land())
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return await loses_the_request(vendor, send)

    async def settled(self) -> None:
        while self._late:
            await asyncio.gather(*self._late)


@dataclass(slots=True)
class Heard:
    """What a caller was told of one request_id, over all its calls."""

    request_id: str
    answers: set[bytes] = field(default_factory=set)
    final_errors: set[tuple[Reason, bytes | None]] = field(default_factory=set)
    is_cancelled: bool = False

    @property
    def is_over(self) -> bool:
        return bool(self.answers or self.final_errors)

    def note(self, error: LoyaltyError) -> None:
        if error.is_final:
            assert error.fate is Fate.NOT_EXECUTED
            self.final_errors.add((error.reason, error.status_bytes))


async def live(house: House, heard: Heard, dice: random.Random, *, is_last: bool) -> None:
    """A caller who repeats, gives up, cancels or leaves, as callers do."""
    for _ in range(dice.randrange(1, 4)):
        await asyncio.sleep(dice.random() * 0.3)
        call = house.book(
            heard.request_id,
            within_s=dice.choice([0.3, 0.5, 1.0]),
            asked=Money("CHF", 100 + int(heard.request_id[-4:])),
        )
        try:
            if dice.random() < 0.25:
                async with asyncio.timeout(dice.random() * 0.2):
                    answer = await call
            else:
                answer = await call
            heard.answers.add(answer.body)
        except TimeoutError:
            pass
        except LoyaltyError as error:
            heard.note(error)
        if dice.random() < 0.1 and not is_last:
            with contextlib.suppress(LoyaltyError):
                booking = await house.cancel(heard.request_id)
                heard.is_cancelled |= booking.state is State.NOT_EXECUTED


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_after_any_chaos_the_journal_and_the_vendors_ledger_agree(
    place: Place, seed: int
) -> None:
    dice = random.Random(seed)
    vendor = ChaoticVendor(random.Random(seed + 1_000))
    all_heard = [Heard(f"sale-{number:04}") for number in range(REQUESTS)]
    for life in range(LIVES):
        is_last = life == LIVES - 1
        async with open_house(
            place, vendor, policy=POLICY, limits=LIMITS, boot_id=f"boot-{life}"
        ) as house:
            callers = asyncio.gather(
                *(live(house, heard, dice, is_last=is_last) for heard in all_heard)
            )
            if is_last:
                await callers
                await vendor.settled()
                await is_quiet(house)
                bookings = [await house.find(heard.request_id) for heard in all_heard]
                await check_replays(house, all_heard)
            else:
                # The process dies while calls, sends and resends are under way.
                await asyncio.sleep(0.3 + dice.random() * 0.4)
                await house.stop(0)
                callers.cancel()
                await asyncio.gather(callers, return_exceptions=True)
    await vendor.settled()

    effects = Counter(effect.outbound_id for effect in vendor.effects)
    states: Counter[State] = Counter()
    for heard, booking in zip(all_heard, bookings, strict=True):
        assert booking is not None
        states[booking.state] += 1
        check(heard, booking, effects[KEYRING.outbound_id(TENANT, heard.request_id)])
    # The chaos took place, else the agreement is worth nothing.
    assert states[State.SUCCEEDED] >= 10, states
    assert states[State.DECLINED] + states[State.NOT_EXECUTED] >= 3, states
    assert len(vendor.seen) >= 8, vendor.seen
    assert len(vendor.sends) > REQUESTS


async def is_quiet(house: House) -> None:
    """Until recovery has nothing left that it may do by itself."""

    async def nothing_open() -> bool:
        # What is merely reserved is closed soon, and a repeat would send it before that.
        rows = (await house.journal.list(ListQuery(tenant=TENANT, limit=200))).bookings
        return all(row.is_final or row.state is State.NEEDS_REVIEW for row in rows)

    await until(nothing_open, 30)


async def check_replays(house: House, all_heard: list[Heard]) -> None:
    """Whoever heard the end once hears the same bytes again."""
    for heard in all_heard:
        try:
            answer = await house.book(
                heard.request_id, asked=Money("CHF", 100 + int(heard.request_id[-4:]))
            )
            heard.answers.add(answer.body)
        except LoyaltyError as error:
            heard.note(error)


def check(heard: Heard, booking: Booking, effects: int) -> None:
    words = f"{heard} {booking.state} {effects} effects"
    assert effects <= 1, words
    match booking.state:
        case State.SUCCEEDED:
            assert effects == 1, words
        case State.DECLINED | State.NOT_EXECUTED | State.RESERVED:
            assert effects == 0, words
        case state:
            assert state is State.NEEDS_REVIEW, words
    assert len(heard.answers) <= 1, words
    assert len(heard.final_errors) <= 1, words
    assert not (heard.answers and heard.final_errors), words
    if heard.answers:
        assert booking.state is State.SUCCEEDED, words
        assert heard.answers == {booking.answer_bytes}, words
    if heard.final_errors:
        assert booking.is_final and effects == 0, words
    if heard.is_cancelled:
        assert booking.state is State.NOT_EXECUTED and effects == 0, words
