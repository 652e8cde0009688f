"""The connections of this deployment: what each can do, what was proven of it, how it fares.

A recovery mode counts only while the promise it rests on holds for this very target.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypedDict

from loyalty_gateway.booking.calls import Capability, ConnectionState, Promise, PromiseSource
from loyalty_gateway.booking.judge import Means
from loyalty_gateway.domain.booking import Booking
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS, Operation, RecoveryMode, Support
from loyalty_gateway.providers.port import Adapter, Offer, Way

_PROMISES_ASKED = ("keys_survive_rotation", "declines_are_replayed")
"""Promises that the engine itself asks for, beside those that offers rest on."""


@dataclass(slots=True)
class Link:
    """One connection at work. `declared` is the operator's word, `proven` what was shown."""

    connection: str
    adapter: Adapter
    target_hash: bytes
    is_paused: bool = False
    declared: Mapping[str, Promise] = field(default_factory=dict)
    proven: dict[str, Promise] = field(default_factory=dict)
    in_flight: int = 0
    unresolved_count: int = 0
    """Bookings in doubt or in review, as last counted; changed here as they come and go."""
    state: ConnectionState = ConnectionState.OK

    def promise(self, name: str) -> Promise:
        """What is known of a promise: proof before declaration before the default, no."""
        return (
            self.proven.get(name)
            or self.declared.get(name)
            or Promise(name, value=False, source=PromiseSource.DEFAULT)
        )

    def mode(self, offer: Offer) -> RecoveryMode:
        """The recovery mode that holds today."""
        return next((way.mode for way in offer.ways if self.holds(way)), RecoveryMode.MANUAL)

    def holds(self, way: Way) -> bool:
        """Whether the promise that a way rests on holds today."""
        is_any = not way.any_of or any(self.promise(name).value for name in way.any_of)
        return is_any and (not way.promise or self.promise(way.promise).value)

    def means(self, booking: Booking) -> Means:
        """How the truth about this booking may be found out today."""
        offer = booking.operation and self.adapter.operations.get(booking.operation)
        if not offer or booking.first_sent_time is None:
            return Means(RecoveryMode.MANUAL)
        is_same_target = (
            booking.target_hash == self.target_hash or self.promise("keys_survive_rotation").value
        )
        # Half of the vendor's memory: a key that it has forgotten would book a second time.
        until = booking.first_sent_time + timedelta(seconds=self.adapter.key_lifetime_s / 2)
        return Means(
            self.mode(offer),
            resend_until=until if is_same_target else None,
            declines_are_replayed=self.promise("declines_are_replayed").value,
        )

    def saw(self, reason: Reason | None) -> None:
        """Notes what a call met: None for a call that went well."""
        if self.is_paused:
            self.state = ConnectionState.PAUSED
        elif reason in (Reason.PROVIDER_CREDENTIALS_REJECTED, Reason.PROVIDER_ACCESS_DENIED):
            self.state = ConnectionState.CREDENTIALS_REJECTED
        elif reason in _TROUBLES:
            self.state = ConnectionState.DEGRADED
        else:
            self.state = ConnectionState.OK

    def promises_of(self, offer: Offer) -> tuple[Promise, ...]:
        """Every promise that matters for an operation."""
        names = [*offer.promises, *_PROMISES_ASKED]
        return tuple(self.promise(name) for name in dict.fromkeys(names))

    def capability(self, operation: Operation) -> Capability:
        """What GetCapabilities says of one operation."""
        offer = self.adapter.operations.get(operation)
        if offer is None:
            note = self.adapter.unsupported_notes.get(operation, "")
            return Capability(operation, Support.UNSUPPORTED, note=note)
        is_booking = operation in BOOKING_OPERATIONS
        return Capability(
            operation,
            offer.support,
            recovery_mode=self.mode(offer) if is_booking else None,
            promises=self.promises_of(offer) if is_booking else (),
            partial_amounts=offer.partial_amounts,
            needed_fields=offer.needed_fields,
            note=offer.note,
        )


_TROUBLES = frozenset(
    {
        Reason.PROVIDER_UNREACHABLE,
        Reason.PROVIDER_INTERNAL,
        Reason.PROVIDER_ANSWER_UNREADABLE,
        Reason.PROVIDER_RATE_LIMITED,
        Reason.ADAPTER_ROUTE_INVALID,
    }
)


class Connections:
    """The connections by id. Every tenant of this deployment shares them for now."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._links = {link.connection: link for link in links}

    def __iter__(self) -> Iterator[Link]:
        return iter(self._links.values())

    def find(self, connection: str) -> Link | None:
        return self._links.get(connection)

    def get(self, connection: str) -> Link:
        """Raises LoyaltyError CONNECTION_NOT_FOUND."""
        link = self._links.get(connection)
        if link is None:
            raise LoyaltyError(
                Reason.CONNECTION_NOT_FOUND,
                "There is no such connection; Providers.ListConnections names those you have.",
                field="account.connection",
            )
        return link

    def offer(self, link: Link, operation: Operation) -> Offer:
        """Raises LoyaltyError CAPABILITY_NOT_SUPPORTED, without asking the vendor."""
        offer = link.adapter.operations.get(operation)
        if offer is None:
            raise LoyaltyError(
                Reason.CAPABILITY_NOT_SUPPORTED,
                f"{operation} is not something this connection's vendor can do;"
                " Providers.GetCapabilities tells what it can.",
                connection=link.connection,
                provider=link.adapter.provider,
            )
        return offer


class _Where(TypedDict):
    connection: str
    provider: str


def at(link: Link) -> _Where:
    """Where an error comes from, for its metadata."""
    return {"connection": link.connection, "provider": link.adapter.provider}


def proof(name: str, value: bool, time: datetime, evidence: str) -> Promise:
    """A promise that was put to the proof."""
    return Promise(name, value, PromiseSource.PROVEN, time, evidence)
