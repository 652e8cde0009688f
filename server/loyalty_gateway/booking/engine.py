"""The booking room's one door: its parts put together, started in order, stopped in reverse."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from loyalty_gateway.booking import story
from loyalty_gateway.booking.calls import (
    BookingCall,
    BookingFilter,
    BookingKey,
    Capability,
    ConnectionFacts,
    Decision,
    ReadAnswer,
    ReadCall,
)
from loyalty_gateway.booking.connections import Connections, Link, proof
from loyalty_gateway.booking.flights import Flights, Limits
from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.booking.reads import Reads
from loyalty_gateway.booking.recovery import Recovery
from loyalty_gateway.domain.booking import Answer, AnswerCodec, Booking, Story
from loyalty_gateway.journal.journal import Journal, PromiseRow
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.providers.port import ProviderError

log = logging.getLogger(__name__)

_PROVE_TIMEOUT_S = 5.0
_PROVE_AGAIN_S = 30.0


class Engine:
    """Everything that callers can ask of bookings, for one tenant's recovery in this process."""

    def __init__(
        self,
        journal: Journal,
        keyring: Keyring,
        connections: Connections,
        codec: AnswerCodec,
        *,
        limits: Limits,
        policy: Policy,
        tenant: str,
        recovery_parallel_max: int,
    ) -> None:
        self._journal = journal
        self._connections = connections
        self._tenant = tenant
        self._flights = Flights(journal, keyring, connections, codec, limits, policy)
        self._reads = Reads(journal, keyring, connections, limits.attempt_total_s)
        self._recovery = Recovery(
            self._flights,
            journal,
            keyring,
            connections,
            policy,
            tenant=tenant,
            lease_s=limits.lease_s,
            parallel_max=recovery_parallel_max,
        )
        self._proving: asyncio.Task[None] | None = None

    # --- life ---------------------------------------------------------------------------------

    async def start(self, *, proves_itself: bool) -> None:
        """Loads what was proven, takes over what an earlier process left, starts recovery.

        `proves_itself` is the sandbox's: promises are put to the proof on a hidden account
        now, and again for a vendor that could not be asked.
        """
        for row in await self._journal.promises(self._tenant):
            link = self._connections.find(row.connection)
            # A proof speaks of one target: after a change of vendor or credential it is void.
            if link is not None and link.target_hash == row.target_hash:
                link.proven[row.name] = proof(row.name, row.value, row.time, row.evidence)
        if proves_itself:
            unproven = await self._prove_all(list(self._connections))
            if unproven:
                self._proving = asyncio.create_task(self._keep_proving(unproven))
        adopted = await self._flights.adopt(self._tenant)
        if adopted:
            log.warning("%d bookings of an earlier process were found in doubt", adopted)
        self._recovery.start()

    async def stop(self, timeout_s: float) -> int:
        """Finishes what was sent; returns how many bookings had to be left to recovery."""
        self._flights.drain()
        if self._proving is not None:
            self._proving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._proving
        left = await self._flights.finish(timeout_s)
        await self._recovery.stop(timeout_s)
        return left

    def drain(self) -> None:
        """From now on no new booking starts; known ones are still answered."""
        self._flights.drain()

    # --- promises -----------------------------------------------------------------------------

    async def _prove_all(self, links: Sequence[Link]) -> list[Link]:
        """Proves what the links' offers rest on; returns those that could not be asked."""
        asked = await asyncio.gather(*(self._prove(link) for link in links))
        return [link for link, was_asked in zip(links, asked, strict=True) if not was_asked]

    async def _prove(self, link: Link) -> bool:
        promises = link.adapter.promises
        for name in sorted(name for name, facts in promises.items() if facts.is_provable):
            now = self._journal.now()
            try:
                async with asyncio.timeout(_PROVE_TIMEOUT_S):
                    evidence = await link.adapter.prove(name)
            except LookupError as error:
                shown = proof(name, False, now, str(error))
            except (ProviderError, TimeoutError):
                return False
            else:
                shown = proof(name, True, now, evidence)
            link.proven[name] = shown
            await self._journal.save_promise(
                self._tenant,
                PromiseRow(
                    link.connection, name, link.target_hash, shown.value, now, shown.evidence
                ),
            )
        return True

    async def _keep_proving(self, links: list[Link]) -> None:
        while links:
            await asyncio.sleep(_PROVE_AGAIN_S)
            links = await self._prove_all(links)

    # --- what callers ask -----------------------------------------------------------------------

    async def book(self, call: BookingCall) -> Answer:
        """See Flights.book."""
        return await self._flights.book(call)

    async def read(self, call: ReadCall) -> ReadAnswer:
        """See Reads.read."""
        return await self._reads.read(call)

    async def get(self, tenant: str, key: BookingKey) -> Booking:
        """See Flights.get."""
        return await self._flights.get(tenant, key)

    async def list(self, tenant: str, filter: BookingFilter) -> tuple[tuple[Booking, ...], str]:
        """See Reads.list."""
        return await self._reads.list(tenant, filter)

    async def cancel(self, tenant: str, key: BookingKey, deadline: float) -> Booking:
        """See Flights.cancel."""
        return await self._flights.cancel(tenant, key, deadline)

    async def resolve(
        self,
        tenant: str,
        booking_id: str,
        decision: Decision | None,
        actor: str,
        deadline: float,
    ) -> Booking:
        """See Flights.resolve."""
        return await self._flights.resolve(tenant, booking_id, decision, actor, deadline)

    async def explain(self, tenant: str, key: BookingKey) -> Story:
        """A booking's story in words. Raises LoyaltyError NOT_FOUND."""
        booking = await self._flights.get(tenant, key)
        history, attempts = await self._journal.story(tenant, booking.booking_id)
        return story.tell(booking, list(history), list(attempts))

    async def connections(self, tenant: str) -> tuple[ConnectionFacts, ...]:
        """See Reads.connections."""
        return await self._reads.connections(tenant)

    async def capabilities(self, tenant: str, connection: str) -> tuple[Capability, ...]:
        """See Reads.capabilities."""
        return await self._reads.capabilities(tenant, connection)
