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
from loyalty_gateway.domain.operations import (
    AMOUNT_ECHO_UNIT,
    BOOKING_OPERATIONS,
    Operation,
    Order,
    RecoveryMode,
    Support,
)
from loyalty_gateway.providers.port import Adapter, Offer, Way

_PROMISES_ASKED = ("keys_survive_rotation", "declines_are_replayed")
"""Promises that the engine itself asks for, beside those that offers rest on."""

NO_OTHER_CHANNEL_BOOKS = "no_other_channel_books"
"""The promise that nothing but this gateway books on the vendor's accounts."""


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

    def find_offer(self, booking: Booking) -> Offer | None:
        """What the adapter offers for a booking's operation today."""
        if booking.operation is None:
            return None
        return self.adapter.operations.get(booking.operation)

    def find_undo(self, booking: Booking) -> Operation | None:
        """The operation that undoes a booking, where the adapter offers it."""
        offer = self.find_offer(booking)
        undo = offer.undo if offer else None
        return undo if undo in self.adapter.operations else None

    def is_tagged(self, offer: Offer) -> bool:
        """Whether a new booking carries a tag that the vendor's statement shows."""
        return bool(offer.tag_promise) and self.promise(offer.tag_promise).value

    def may_match(self, way: Way, offer: Offer, order: Order) -> bool:
        """Whether a statement can tell this very booking: by its tag, or since nothing else
        books on the account."""
        if order.carries_tag:
            return not way.promise or self.promise(way.promise).value
        others = [name for name in way.promises if name != offer.tag_promise]
        return any(self.promise(name).value for name in others)

    def holds_for(self, way: Way, offer: Offer, order: Order) -> bool:
        """Whether a way holds today for this very order."""
        if way.only_for is not None and not way.only_for(order):
            return False
        is_asked = way.mode in (RecoveryMode.STATUS_QUERY, RecoveryMode.STATEMENT_MATCH)
        if is_asked and offer.ask is None:
            return False
        if way.mode is RecoveryMode.STATEMENT_MATCH:
            return self.may_match(way, offer, order)
        return self.holds(way)

    def may_take_part(self, offer: Offer) -> bool:
        """Whether the vendor may be told that it may take less than it is asked for."""
        is_promised = not offer.partial_promise or self.promise(offer.partial_promise).value
        return offer.partial_amounts and is_promised

    def may_auto_reverse(self, offer: Offer, order: Order) -> bool:
        """Whether a machine can undo a doubt about this order, whatever happened."""
        if offer.undo not in self.adapter.operations:
            return False
        return any(
            self.holds_for(way, offer, order)
            and (order.carries_tag or way.mode is not RecoveryMode.STATEMENT_MATCH)
            for way in offer.ways
        )

    def is_target_of(self, booking: Booking) -> bool:
        """Whether what a booking was sent to would know its ids here."""
        is_same = booking.target_hash == self.target_hash
        return is_same or self.promise("keys_survive_rotation").value

    def means(self, booking: Booking) -> Means:
        """How the truth about this booking may be found out today."""
        offer = self.find_offer(booking)
        if offer is None or booking.order is None or booking.first_sent_time is None:
            return Means()
        ways = tuple(way.mode for way in offer.ways if self.holds_for(way, offer, booking.order))
        is_same_target = self.is_target_of(booking)
        # Half of the vendor's memory: a key that it has forgotten would book a second time.
        until = booking.first_sent_time + timedelta(seconds=self.adapter.key_lifetime_s / 2)
        return Means(
            ways,
            resend_until=until if is_same_target else None,
            settle_s=self.adapter.settle_s,
            declines_are_replayed=self.promise("declines_are_replayed").value,
            echo_is_exact=self.promise(AMOUNT_ECHO_UNIT).value,
            books_alone=self.promise(NO_OTHER_CHANNEL_BOOKS).value,
            is_held_in_doubt=offer.is_held_in_doubt,
            is_keyless=any(
                way.mode is RecoveryMode.SAFE_RESEND and not way.promises for way in offer.ways
            ),
            is_same_target=is_same_target,
            may_undo=self.find_undo(booking) is not None,
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
