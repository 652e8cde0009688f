"""Waiting for a doubt to end: whoever waits is told at once of what moves in this process."""

import asyncio
import contextlib
import logging
from datetime import datetime
from typing import Protocol

from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.journal.journal import Journal

log = logging.getLogger(__name__)

_OTHERS_POLL_S = 0.2
_LAST_LOOK_S = 0.06

UNSETTLED = frozenset({State.SENDING, State.IN_DOUBT, State.REVERSING})
"""States that a machine will end."""


def last_look(deadline: float) -> float:
    """Until when a caller waits for the journal. One that answers does so in time for a look at
    the deadline itself; one that is silent must not keep the caller from hearing so."""
    return max(deadline, asyncio.get_running_loop().time()) + _LAST_LOOK_S


class Kick(Protocol):
    """Recovery, as the engine needs it."""

    def kick(self, booking: Booking) -> None:
        """Takes the booking's next step now, at most once a second."""
        ...

    def is_busy(self, booking_id: str) -> bool:
        """Whether a step of this booking runs at the moment."""
        ...

    def wake(self, due: datetime | None = None) -> None:
        """Tells that a booking became due at this time, or now."""
        ...


class Watchers:
    """Who waits for which booking, and the recovery that may be asked to hurry."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._recovery: Kick | None = None

    def attach(self, recovery: Kick) -> None:
        """Joins the engine and its recovery, which need each other."""
        self._recovery = recovery

    def is_busy(self, booking_id: str) -> bool:
        """Whether a step of recovery runs for this booking at the moment."""
        return self._recovery is not None and self._recovery.is_busy(booking_id)

    def due(self, time: datetime) -> None:
        """Tells recovery that a booking becomes due then."""
        assert self._recovery is not None, "the engine joins them while it is built"
        self._recovery.wake(time)

    def tell(self, booking_id: str) -> None:
        for event in self._watchers.get(booking_id, ()):
            event.set()

    async def watch(self, booking: Booking, deadline: float, *, is_kicked: bool) -> Booking:
        """Waits until the booking is settled or a person's, at most until the deadline.

        What moves in this process is told at once; what another replica moves is asked for.
        """
        event = asyncio.Event()
        watchers = self._watchers.setdefault(booking.booking_id, set())
        watchers.add(event)
        poll_s = _OTHERS_POLL_S if self._journal.is_shared else None
        loop = asyncio.get_running_loop()
        try:
            while True:
                # Read only now: what was told before this was registered is not told again.
                async with asyncio.timeout_at(last_look(deadline)):
                    found = await self._journal.find(booking.tenant, booking_id=booking.booking_id)
                assert found is not None, "bookings are not deleted"
                booking = found
                if booking.state not in UNSETTLED or loop.time() >= deadline:
                    break
                if is_kicked and self._recovery is not None and booking.state is State.IN_DOUBT:
                    self._recovery.kick(booking)
                    is_kicked = False
                until = deadline if poll_s is None else min(deadline, loop.time() + poll_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await event.wait()
                event.clear()
        except TimeoutError:
            log.warning("Booking %s could not be watched: the journal is silent", booking.name)
        except LoyaltyError as error:
            # It was sent, so "the journal cannot be asked" is no answer: still in doubt.
            if error.reason is not Reason.JOURNAL_UNAVAILABLE:
                raise
            log.warning("Booking %s could not be watched: %s", booking.name, error.message)
        finally:
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(booking.booking_id, None)
        return booking
