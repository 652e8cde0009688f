"""The booking room's one door: its parts put together, started in order, stopped in reverse."""

import logging

from loyalty_gateway.booking import story
from loyalty_gateway.booking.attempts import Attempts
from loyalty_gateway.booking.calls import (
    BookingCall,
    BookingFilter,
    BookingKey,
    Capability,
    ChallengeCall,
    ChallengeIssued,
    CodeCall,
    ConnectionCheck,
    ConnectionFacts,
    CredentialsCall,
    Decision,
    OwnershipCall,
    Promise,
    ReadAnswer,
    ReadCall,
    Verified,
)
from loyalty_gateway.booking.challenges import Challenges
from loyalty_gateway.booking.closing import Closing
from loyalty_gateway.booking.connections import Connections
from loyalty_gateway.booking.drafts import Drafts
from loyalty_gateway.booking.flights import Flights
from loyalty_gateway.booking.judge import Policy
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.moves import Moves
from loyalty_gateway.booking.opening import Openings
from loyalty_gateway.booking.promises import Promises
from loyalty_gateway.booking.reads import Reads
from loyalty_gateway.booking.recovery import Recovery
from loyalty_gateway.booking.sealed import Sealed
from loyalty_gateway.booking.settling import Settling
from loyalty_gateway.booking.steps import Steps
from loyalty_gateway.booking.undo import undoes
from loyalty_gateway.booking.verifying import Verifying
from loyalty_gateway.booking.watching import Watchers
from loyalty_gateway.domain.booking import Answer, AnswerCodec, Booking, State, Story
from loyalty_gateway.domain.operations import CredentialsFacts
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.sealing import Keyring

log = logging.getLogger(__name__)


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
        self._tenant = tenant
        watchers = Watchers(journal)
        sealed = Sealed(journal, keyring)
        moves = Moves(journal, connections, sealed, watchers, limits, policy)
        settling = Settling(journal, connections, codec, sealed, moves, policy)
        drafts = Drafts(journal, keyring, connections, sealed, limits)
        attempts = Attempts(connections, limits.attempt_total_s)
        self._settling = settling
        openings = Openings(journal, drafts, sealed, attempts, moves, limits)
        self._flights = Flights(
            journal,
            codec,
            drafts,
            sealed,
            attempts,
            openings,
            moves,
            settling,
            watchers,
            limits,
        )
        self._closing = Closing(journal, connections, moves, settling, watchers, limits, policy)
        self._reads = Reads(journal, keyring, connections, limits.attempt_total_s)
        self._steps = Steps(
            journal,
            connections,
            drafts,
            sealed,
            attempts,
            moves,
            settling,
            policy,
            limits.lease_s,
        )
        self._recovery = Recovery(
            self._flights,
            self._steps,
            watchers,
            journal,
            connections,
            tenant=tenant,
            lease_s=limits.lease_s,
            parallel_max=recovery_parallel_max,
        )
        self._challenges = Challenges(journal, keyring, connections, limits)
        self._verifying = Verifying(journal, keyring, connections, limits)
        self._promises = Promises(journal, connections, tenant)

    # --- life ---------------------------------------------------------------------------------

    async def start(self, *, proves_itself: bool) -> None:
        """Loads what was proven, takes over what an earlier process left, starts recovery.

        `proves_itself` is the sandbox's: promises are put to the proof on a hidden account
        now, and again for a vendor that could not be asked.
        """
        await self._promises.start(proves_itself=proves_itself)
        adopted = await self._steps.adopt(self._tenant)
        if adopted:
            log.warning("%d bookings of an earlier process were found in doubt", adopted)
        self._recovery.start()

    async def stop(self, timeout_s: float) -> int:
        """Finishes what was sent; returns how many bookings had to be left to recovery."""
        self.drain()
        await self._promises.stop()
        await self._challenges.finish(timeout_s)
        left = await self._flights.finish(timeout_s)
        await self._recovery.stop(timeout_s)
        return left

    def drain(self) -> None:
        """From now on no new booking starts and no code is sent; known ones are still answered."""
        self._flights.drain()
        self._challenges.drain()

    # --- what callers ask -----------------------------------------------------------------------

    async def book(self, call: BookingCall) -> Answer:
        """See Flights.book."""
        return await self._flights.book(call)

    async def read(self, call: ReadCall) -> ReadAnswer:
        """See Reads.read."""
        return await self._reads.read(call)

    async def create_challenge(self, call: ChallengeCall) -> ChallengeIssued:
        """See Challenges.create."""
        return await self._challenges.create(call)

    async def verify_challenge(self, call: CodeCall) -> Verified:
        """See Verifying.verify."""
        return await self._verifying.verify(call)

    async def verify_ownership(self, call: OwnershipCall) -> Verified:
        """See Verifying.verify_ownership."""
        return await self._verifying.verify_ownership(call)

    async def verify_credentials(self, call: CredentialsCall) -> CredentialsFacts:
        """See Verifying.verify_credentials."""
        return await self._verifying.verify_credentials(call)

    async def get(self, tenant: str, key: BookingKey) -> Booking:
        """See Closing.get."""
        return await self._shown(await self._closing.get(tenant, key))

    async def list(self, tenant: str, filter: BookingFilter) -> tuple[tuple[Booking, ...], str]:
        """See Reads.list."""
        page, next_page_token = await self._reads.list(tenant, filter)
        return await self._settling.shown(page), next_page_token

    async def cancel(self, tenant: str, key: BookingKey, deadline: float) -> Booking:
        """See Closing.cancel."""
        return await self._shown(await self._closing.cancel(tenant, key, deadline))

    async def resolve(
        self,
        tenant: str,
        booking_id: str,
        decision: Decision | None,
        actor: str,
        deadline: float,
    ) -> Booking:
        """See Closing.resolve."""
        resolved = await self._closing.resolve(tenant, booking_id, decision, actor, deadline)
        return await self._shown(resolved)

    async def _shown(self, booking: Booking) -> Booking:
        (shown,) = await self._settling.shown((booking,))
        return shown

    async def explain(self, tenant: str, key: BookingKey) -> Story:
        """A booking's story in words. Raises LoyaltyError NOT_FOUND."""
        booking = await self._shown(await self._closing.get(tenant, key))
        told = await self._journal.excerpt(
            tenant, booking.booking_id, story.FIRST_TOLD, story.LAST_TOLD
        )
        undos: list[Booking] = []
        if booking.state is State.REVERSING:
            following = await self._journal.following(tenant, [booking.name])
            undos = [it for it in following if undoes(it)]
        return story.tell(booking, told, undos)

    async def connections(self, tenant: str) -> tuple[ConnectionFacts, ...]:
        """See Reads.connections."""
        return await self._reads.connections(tenant)

    async def capabilities(self, tenant: str, connection: str) -> tuple[Capability, ...]:
        """See Reads.capabilities."""
        return await self._reads.capabilities(tenant, connection)

    async def check(self, tenant: str, connection: str) -> ConnectionCheck:
        """See Reads.check."""
        return await self._reads.check(tenant, connection)

    async def prove(self, tenant: str, connection: str) -> tuple[Promise, ...]:
        """See Promises.prove."""
        return await self._promises.prove(connection)
