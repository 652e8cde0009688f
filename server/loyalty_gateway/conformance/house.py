"""The real booking room over the played vendor: a journal on disk, recovery in quick motion."""

import asyncio
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from loyalty_gateway.booking.calls import (
    AccountKey,
    BookingCall,
    BookingKey,
    ChallengeCall,
    CredentialsCall,
    OriginalKey,
    OwnershipCall,
    Promise,
    ReadCall,
)
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.engine import Engine
from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.conformance.stage import CONNECTION, Stage
from loyalty_gateway.domain.booking import FINAL, Booking, State
from loyalty_gateway.domain.errors import LoyaltyError
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    UNDO_OPERATIONS,
    ChallengePurpose,
    Operation,
    Order,
)
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.journal.sqlite import SqliteStore
from loyalty_gateway.rpc.codec.answers import WireAnswerCodec

TENANT: Final = "conformance"
KEYRING: Final = Keyring([("k1", b"s" * 32)], b"p" * 32)
CALLER_WAITS_S: Final = 2.0
TRUTH_S: Final = 20.0
SETTLE_S: Final = 1.2
"""Longer than the played vendor's late effects, or a late one would be missed by right."""

QUICK: Final = Policy(
    schedule_s=(0.02, 0.05, 0.1),
    then_every_s=0.2,
    settle_s=SETTLE_S,
    abandon_reserved_s=900.0,
    not_found_waits_s=(0.05, 0.05),
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
        return await _error_of(self.engine.book(call))

    async def ask(
        self, operation: Operation, filled_fields: frozenset[str] = frozenset()
    ) -> LoyaltyError | None:
        """Asks anything as a caller would who gives an account and little more.

        For what must be refused before the vendor is asked; a code cannot be checked so, since
        its token is made when one is sent.
        """
        account = AccountKey(CONNECTION, plain_id=self.stage.subject.accounts.ordinary)
        deadline = asyncio.get_running_loop().time() + CALLER_WAITS_S
        of_all: dict[str, Any] = {"tenant": TENANT, "account": account, "deadline": deadline}
        match operation:
            case Operation.CREATE_CHALLENGE:
                challenge = ChallengeCall(
                    tenant=TENANT,
                    connection=CONNECTION,
                    purpose=ChallengePurpose.LOG_IN,
                    request_id=str(uuid.uuid4()),
                    deadline=deadline,
                    account=account,
                    filled_fields=filled_fields,
                )
                return await _error_of(self.engine.create_challenge(challenge))
            case Operation.VERIFY_CARD_OWNERSHIP:
                receipt = OwnershipCall(receipt_number="R-1", filled_fields=filled_fields, **of_all)
                return await _error_of(self.engine.verify_ownership(receipt))
            case Operation.VERIFY_CREDENTIALS:
                login = CredentialsCall(password_hash="0" * 32, scheme="MD5", **of_all)
                return await _error_of(self.engine.verify_credentials(login))
            case _ if operation in BOOKING_OPERATIONS:
                booking = BookingCall(
                    operation=operation,
                    request_id=str(uuid.uuid4()),
                    filled_fields=filled_fields,
                    **of_all,
                )
                return await _error_of(self.engine.book(booking))
            case _:
                read = ReadCall(operation=operation, filled_fields=filled_fields, **of_all)
                return await _error_of(self.engine.read(read))

    async def cancel(self, request_id: str) -> LoyaltyError | None:
        """Gives the booking up as a caller would; the error that was answered, or None."""
        deadline = asyncio.get_running_loop().time() + CALLER_WAITS_S
        key = BookingKey(request_id=request_id)
        return await _error_of(self.engine.cancel(TENANT, key, deadline))

    async def settle(self, request_id: str, *, than: State | None = None) -> Booking:
        """Waits until no machine works on the booking any more, and returns it.

        `than` is a state that does not count as an end, since the caller has given up.
        """
        give_up_s = time.monotonic() + TRUTH_S
        while True:
            booking = await self.engine.get(TENANT, BookingKey(request_id=request_id))
            if booking.state in SETTLED and booking.state is not than:
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
            account=AccountKey("") if operation in UNDO_OPERATIONS else account,
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
            proof_token=_seal(order.proof),
            sale=order.sale,
            in_doubt_policy=order.in_doubt_policy,
            fault=fault,
            filled_fields=frozenset(self.link.adapter.operations[operation].needed_fields),
        )


def _seal(proof: str) -> str:
    """The token that a caller has for the vendor's proof, where the order has one."""
    end = datetime.now(UTC) + timedelta(hours=1)
    return KEYRING.seal_proof(TENANT, CONNECTION, proof, end) if proof else ""


async def _error_of(answer: Awaitable[object]) -> LoyaltyError | None:
    try:
        await answer
    except LoyaltyError as error:
        return error
    return None


async def _new_journal(stage: Stage) -> Journal:
    """A journal without a booking; its schema is made once for a scene and copied."""
    template = stage.scene.folder / "empty-journal.sqlite3"
    if not template.exists():
        store = SqliteStore(template)
        store.start(KEYRING.salt_check)
        store.stop()
    path = stage.folder() / "journal.sqlite3"
    shutil.copyfile(template, path)
    journal = Journal(SqliteStore(path), boot_id=str(uuid.uuid4()))
    await journal.start(KEYRING.salt_check)
    return journal


@asynccontextmanager
async def open_house(
    stage: Stage, *, proves: bool = True, proven: Mapping[str, Promise] | None = None
) -> AsyncIterator[House]:
    """An engine on a new journal, with the promises that the adapter has just put to the proof.

    `proven` are those of an earlier house, which need no second proof. Without `proves` nothing
    is asked of the vendor, and no promise holds.
    """
    adapter = stage.adapter
    adapter.settle_s = SETTLE_S
    journal = await _new_journal(stage)
    link = Link(CONNECTION, adapter, KEYRING.target_hash(adapter.target))
    link.proven.update(proven or {})
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
        await engine.start(proves_itself=proves and proven is None)
        yield House(stage, engine, link)
    finally:
        await engine.stop(TRUTH_S)
        await journal.stop()
