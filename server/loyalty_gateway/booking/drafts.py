"""From a call to the booking that write 1 would store; checks the request, writes nothing."""

import os
import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from loyalty_gateway.booking.calls import BookingCall
from loyalty_gateway.booking.connections import Connections, Link, at
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import Money
from loyalty_gateway.domain.booking import Booking, State
from loyalty_gateway.domain.errors import LoyaltyError, Reason, Violation
from loyalty_gateway.domain.operations import InDoubtPolicy, Order
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.providers.port import Offer


@dataclass(frozen=True, slots=True)
class Draft:
    """A booking that could be opened, with the order as it would be sent."""

    link: Link
    offer: Offer
    order: Order
    booking: Booking


class Drafts:
    """Makes drafts of calls."""

    def __init__(
        self, journal: Journal, keyring: Keyring, connections: Connections, limits: Limits
    ) -> None:
        self._journal = journal
        self._keyring = keyring
        self._connections = connections
        self._limits = limits

    def draft(self, call: BookingCall) -> Draft:
        """The booking that a call asks for, if the connection can do it; nothing is written.

        Raises LoyaltyError for what is wrong with the request itself, without a fate.
        """
        link = self._connections.get(call.account.connection)
        account_id = self._open_account(call)
        offer = self._connections.offer(link, call.operation)
        self._check(call, link, offer)
        order = Order(
            operation=call.operation,
            account_id=account_id,
            asked=call.asked,
            allow_partial=call.allow_partial,
            money_value=call.money_value,
            redemption_kind=call.redemption_kind,
            sale=call.sale,
            in_doubt_policy=call.in_doubt_policy,
        )
        return Draft(link, offer, order, self._born(call, link, offer, order))

    def _open_account(self, call: BookingCall) -> str:
        if call.account.plain_id:
            return call.account.plain_id
        try:
            return self._keyring.open_token(
                call.tenant, call.account.connection, call.account.token
            )
        except LookupError as error:
            raise LoyaltyError(
                Reason.REQUEST_INVALID,
                "account.token is not a token of this connection.",
                violations=(Violation("account.token", "is not a token of this connection"),),
            ) from error

    def _check(self, call: BookingCall, link: Link, offer: Offer) -> None:
        """The request itself, against what the connection can do; nothing durable is asked."""
        where = at(link)
        if call.in_doubt_policy is InDoubtPolicy.AUTO_REVERSE and offer.undo is None:
            raise LoyaltyError(
                Reason.CAPABILITY_NOT_SUPPORTED,
                f"{call.operation} has no undo at this vendor, so AUTO_REVERSE cannot be kept;"
                " use RESOLVE.",
                field="options.in_doubt_policy",
                **where,
            )
        for amount in (call.asked, call.money_value):
            if isinstance(amount, Money) and amount.currency != link.adapter.currency:
                raise LoyaltyError(
                    Reason.CURRENCY_NOT_ACCEPTED,
                    f"This connection books in {link.adapter.currency} only.",
                    field="amount" if amount is call.asked else "money_value",
                    **where,
                )
        missing = [name for name in offer.needed_fields if name not in call.filled_fields]
        if missing:
            raise LoyaltyError(
                Reason.FIELD_REQUIRED_BY_PROVIDER,
                f"This vendor needs {', '.join(missing)}.",
                violations=tuple(
                    Violation(name, "is required by this connection's vendor") for name in missing
                ),
                **where,
            )

    def _born(self, call: BookingCall, link: Link, offer: Offer, order: Order) -> Booking:
        """The booking as write 1 will store it, if nobody has its request_id."""
        now = self._journal.now()
        booking_id = uuid7(now)
        lease_until = now + timedelta(seconds=self._limits.lease_s)
        account_hash = self._keyring.account_hash(call.tenant, link.connection, order.account_id)
        return Booking(
            tenant=call.tenant,
            booking_id=booking_id,
            request_id=call.request_id,
            state=State.SENDING,
            create_time=now,
            operation=call.operation,
            connection=link.connection,
            provider=link.adapter.provider,
            account_hash=account_hash,
            account_sealed=self._keyring.seal(order.account_id, f"{call.tenant}/{booking_id}"),
            account_token=self._keyring.token(call.tenant, link.connection, order.account_id),
            masked_id=mask_account_id(order.account_id),
            fingerprint=self._fingerprint(call, order, account_hash),
            order=replace(order, account_id=""),
            outbound_id=self._keyring.outbound_id(call.tenant, call.request_id),
            target_hash=link.target_hash,
            recovery_mode=link.mode(offer),
            owner=self._journal.boot_id,
            lease_until=lease_until,
            # At birth, so that a dead owner's booking is always found.
            next_attempt_time=lease_until,
            attempt_count=1,
            doubtful_attempts=1,
            attempt_open=True,
            first_sent_time=now,
            sent_time=now,
        )

    def _fingerprint(self, call: BookingCall, order: Order, account_hash: bytes) -> bytes:
        """Version 1: the business fields that make two calls the same request."""
        return self._keyring.fingerprint(
            [
                call.operation,
                call.account.connection,
                account_hash,
                str(order.asked or ""),
                str(order.money_value or ""),
                order.redemption_kind,
                str(order.allow_partial),
                "",  # original, for undo and tips
                order.in_doubt_policy,
                order.sale.order_id,
                order.sale.ticket_number,
            ]
        )


def uuid7(now: datetime) -> str:
    """A UUID version 7: sorts by the time it was made (RFC 9562)."""
    milliseconds = int(now.timestamp()) * 1000 + now.microsecond // 1000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))
