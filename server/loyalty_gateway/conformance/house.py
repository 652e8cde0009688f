"""The real booking room over the played vendor: a journal on disk, recovery in quick motion."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from loyalty_gateway.booking.calls import AccountKey, BookingCall, BookingKey, OriginalKey
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.engine import Engine
from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.conformance.stage import CONNECTION, Stage
from loyalty_gateway.domain.booking import FINAL, Booking, State
from loyalty_gateway.domain.errors import LoyaltyError
from loyalty_gateway.domain.operations import Operation, Order
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.rpc.codec.answers import WireAnswerCodec

TENANT: Final = "conformance"
KEYRING: Final = Keyring([("k1", b"s" * 32)], b"p" * 32)
CALLER_WAITS_S: Final = 2.0
TRUTH_S: Final = 20.0
SETTLE_S: Final = 0.6
"""Longer than the played vendor's late effects, or a late one would be missed by right."""

QUICK: Final = Policy(
    schedule_s=(0.02, 0.05, 0.1), then_every_s=0.2, settle_s=SETTLE_S, abandon_reserved_s=900.0
)
"""Recovery does in fractions of a second what it does in minutes."""

SETTLED: Final = FINAL | {State.NEEDS_REVIEW}
"""The states in which no machine works on a booking any more."""


@dataclass(frozen=True, slots=True)
class House:
    """A running engine with one connection, that of the stage's adapter."""

    stage: Stage
    engine: Engine
    link: Link

    async def book(self, call: BookingCall) -> LoyaltyError | None:
        """Books as a caller would; the error that was answered, or None for a success."""
        try:
            await self.engine.book(call)
        except LoyaltyError as error:
            return error
        return None

    async def settle(self, request_id: str) -> Booking:
        """Waits until no machine works on the booking any more, and returns it."""
        give_up_s = time.monotonic() + TRUTH_S
        while True:
            booking = await self.engine.get(TENANT, BookingKey(request_id=request_id))
            if booking.state in SETTLED:
                # What the vendor still carries out on its own is part of the truth.
                await self.stage.player.stage.finish()
                return booking
            assert time.monotonic() < give_up_s, f"the booking stays at {booking.state}"
            await asyncio.sleep(0.01)

    def call(
        self, operation: Operation, order: Order, *, fault: str = "", original: str = ""
    ) -> BookingCall:
        """The order as a caller's request; `original` is the request_id that it refers to."""
        account = AccountKey(CONNECTION, plain_id=order.account_id, entry_mode=order.entry_mode)
        return BookingCall(
            tenant=TENANT,
            operation=operation,
            request_id=str(uuid.uuid4()),
            account=AccountKey("") if original and order.asked is None else account,
            deadline=asyncio.get_running_loop().time() + CALLER_WAITS_S,
            asked=order.asked,
            allow_partial=order.allow_partial,
            money_value=order.money_value,
            redemption_kind=order.redemption_kind,
            activate=order.activate,
            card_type=order.card_type,
            purchase=order.purchase,
            original=OriginalKey(request_id=original) if original else None,
            person=order.person,
            update_mask=order.update_mask,
            external=order.external,
            sale=order.sale,
            in_doubt_policy=order.in_doubt_policy,
            fault=fault,
            filled_fields=frozenset(self.link.adapter.operations[operation].needed_fields),
        )


@asynccontextmanager
async def open_house(stage: Stage) -> AsyncIterator[House]:
    """An engine on a new journal, with the promises that the adapter has just put to the proof."""
    adapter = stage.adapter
    adapter.settle_s = SETTLE_S
    journal = Journal(SqliteStore(stage.folder() / "journal.sqlite3"), boot_id=str(uuid.uuid4()))
    await journal.start(KEYRING.salt_check)
    link = Link(CONNECTION, adapter, KEYRING.target_hash(adapter.target))
    engine = Engine(
        journal,
        KEYRING,
        Connections([link]),
        WireAnswerCodec(),
        limits=Limits(),
        policy=QUICK,
        tenant=TENANT,
        recovery_parallel_max=4,
    )
    try:
        await engine.start(proves_itself=True)
        yield House(stage, engine, link)
    finally:
        await engine.stop(TRUTH_S)
        await journal.stop()
