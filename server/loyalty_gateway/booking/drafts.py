"""From a call to the booking that write 1 would store; checks the request, writes nothing."""

import os
import uuid
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta

from loyalty_gateway.booking.calls import BookingCall, OriginalKey
from loyalty_gateway.booking.connections import Connections, Link, at
from loyalty_gateway.booking.gate import open_account, refuse_gaps
from loyalty_gateway.booking.limits import Limits
from loyalty_gateway.booking.sealed import Sealed
from loyalty_gateway.booking.undo import refusal_to_undo
from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import Amount, Money, Points
from loyalty_gateway.domain.booking import OWN_UNDO, Booking, State
from loyalty_gateway.domain.errors import LoyaltyError, Reason, Violation
from loyalty_gateway.domain.operations import (
    CREATE_OPERATIONS,
    UNDO_OPERATIONS,
    External,
    InDoubtPolicy,
    Order,
    Person,
    Purchase,
    RecoveryMode,
)
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.providers.port import Offer

_POINTS = "points"
"""The unit's name in the contract; an empty one means the same."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A booking that could be opened, with the order as it would be sent.

    `original` is the booking that it undoes or adds to. `refusal` says why no new booking may be
    made of it; a known one is answered all the same.
    """

    link: Link
    offer: Offer
    order: Order
    booking: Booking
    original: Booking | None = None
    refusal: LoyaltyError | None = None

    @property
    def is_undo(self) -> bool:
        return self.order.operation in UNDO_OPERATIONS


class Drafts:
    """Makes drafts of calls, and of the undos that the gateway itself decides on."""

    def __init__(
        self,
        journal: Journal,
        keyring: Keyring,
        connections: Connections,
        sealed: Sealed,
        limits: Limits,
    ) -> None:
        self._journal = journal
        self._keyring = keyring
        self._connections = connections
        self._sealed = sealed
        self._limits = limits

    async def draft(self, call: BookingCall) -> Draft:
        """The booking that a call asks for, if the connection can do it; nothing is written.

        Raises LoyaltyError for what is wrong with the request itself, without a fate.
        """
        original: Booking | None = None
        if call.original is not None:
            named = call.account.connection or call.original.reference_connection
            if named:
                # What a vendor cannot do is said before anything is looked up.
                self._connections.offer(self._connections.get(named), call.operation)
            original = await self._find_original(call.tenant, call.original)
        connection = original.connection if original else call.account.connection
        link = self._connections.get(connection)
        offer = self._connections.offer(link, call.operation)
        account_id = self._account_id(call, original)
        order = Order(
            operation=call.operation,
            account_id=account_id,
            asked=_in_vendors_unit(call.asked, link),
            allow_partial=call.allow_partial,
            may_take_part=call.allow_partial and link.may_take_part(offer),
            carries_tag=link.is_tagged(offer),
            money_value=call.money_value,
            redemption_kind=call.redemption_kind,
            sale=call.sale,
            in_doubt_policy=call.in_doubt_policy,
            entry_mode=call.account.entry_mode,
            activate=call.activate,
            card_type=call.card_type,
            purchase=call.purchase,
            update_mask=call.update_mask,
            person=call.person,
            external=call.external,
        )
        if original is not None:
            if call.operation in UNDO_OPERATIONS:
                assert original.order is not None, "a tombstone is not found as an original"
                order = replace(order, asked=original.applied or original.order.asked)
            order = replace(order, original=self._sealed.original_of(original))
        refusal: LoyaltyError | None = None
        if call.proof_token:
            order, refusal = self._with_proof(call, link, order)
        self._check(call, link, offer, order)
        refusal = refusal or _refusal_to_reverse(call, link, offer, order)
        if original is not None:
            refusal = refusal or _refusal(original, link, call)
        booking = self._born(call.tenant, call.request_id, link, offer, order, original)
        booking = replace(booking, fingerprint=self._fingerprint(call, order, booking))
        return Draft(link, offer, order, booking, original, refusal)

    async def undo_of(self, original: Booking) -> Draft:
        """The undo that the gateway itself decides on; always the same for one booking.

        Raises LookupError where there is none any more, or a key is gone.
        """
        link = self._connections.find(original.connection)
        undo = link.find_undo(original) if link else None
        if link is None or undo is None:
            raise LookupError("its connection offers no undo of it any more")
        assert original.order is not None, "a tombstone is final"
        offer = link.adapter.operations[undo]
        order = Order(
            operation=undo,
            account_id=self._sealed.account_of(original),
            asked=original.applied or original.order.asked,
            carries_tag=link.is_tagged(offer),
            sale=original.order.sale,
            original=self._sealed.original_of(original),
        )
        request_id = f"{OWN_UNDO}{original.booking_id}"
        booking = self._born(original.tenant, request_id, link, offer, order, original)
        booking = replace(booking, trace_parent=original.trace_parent)
        return Draft(link, offer, order, booking, original)

    def again(self, draft: Draft) -> Draft:
        """The draft with the times of now, and with what was prepared meanwhile."""
        now = self._journal.now()
        lease_until = now + timedelta(seconds=self._limits.lease_s)
        booking = draft.booking
        sealed = self._sealed.seal_private(booking.tenant, booking.booking_id, draft.order)
        return replace(
            draft,
            booking=replace(
                booking,
                create_time=now,
                lease_until=lease_until,
                next_attempt_time=lease_until,
                first_sent_time=now,
                sent_time=now,
                private_sealed=sealed,
            ),
        )

    def mode_of(self, link: Link, offer: Offer, order: Order) -> RecoveryMode:
        """How a doubt about this very order would be ended today."""
        held = (way.mode for way in offer.ways if link.holds_for(way, offer, order))
        return next(held, RecoveryMode.MANUAL)

    async def _find_original(self, tenant: str, key: OriginalKey) -> Booking:
        if key.reference_value:
            found = await self._journal.find_by_reference(
                tenant, key.reference_connection, key.reference_kind, key.reference_value
            )
        else:
            found = await self._journal.find(
                tenant, booking_id=key.booking_id, request_id=key.request_id
            )
        if found is None or found.is_tombstone or found.is_own_undo:
            raise LoyaltyError(
                Reason.ORIGINAL_NOT_FOUND,
                "There is no such booking to undo or to add to: it must have been made through"
                " this gateway, and a vendor's reference must be the first of its booking's.",
                field="original",
            )
        return found

    def _account_id(self, call: BookingCall, original: Booking | None) -> str:
        account = call.account
        is_named = bool(account.plain_id or account.token)
        if original is None:
            if not is_named and call.operation in CREATE_OPERATIONS:
                return ""  # The vendor chooses it.
            return open_account(self._keyring, call.tenant, account)
        try:
            account_id = self._sealed.account_of(original)
        except LookupError as error:
            raise LoyaltyError(
                Reason.ORIGINAL_NOT_REVERSIBLE,
                "The account of the original is not kept any more, so it is too old for this.",
                field="original",
            ) from error
        if is_named and open_account(self._keyring, call.tenant, account) != account_id:
            raise LoyaltyError(
                Reason.REQUEST_INVALID,
                "account is not the account of the original.",
                field="account",
                violations=(Violation("account", "is not the account of the original"),),
            )
        return account_id

    def _with_proof(
        self, call: BookingCall, link: Link, order: Order
    ) -> tuple[Order, LoyaltyError | None]:
        """The order with the vendor's own proof, and why it may not be used any more, if so."""
        try:
            opened = self._keyring.open_proof(call.tenant, link.connection, call.proof_token)
        except LookupError as error:
            raise LoyaltyError(
                Reason.REQUEST_INVALID,
                "proof_token is not a proof for this connection.",
                field="proof_token",
                violations=(Violation("proof_token", "is not a proof for this connection"),),
            ) from error
        refusal = None
        if opened.expire_time <= self._journal.now():
            refusal = LoyaltyError(
                Reason.CODE_EXPIRED,
                "proof_token has expired; nothing was done. Have a new code or receipt verified.",
                field="proof_token",
                **at(link),
            )
        return replace(order, proof=opened.plain), refusal

    def _check(self, call: BookingCall, link: Link, offer: Offer, order: Order) -> None:
        """The request itself, against what the connection can do; nothing durable is asked."""
        where = at(link)
        purchase = call.purchase.amount if call.purchase else None
        fields = (
            ("amount", call.asked),
            ("money_value", call.money_value),
            ("purchase.amount", purchase),
        )
        for field, amount in fields:
            if isinstance(amount, Money) and amount.currency != link.adapter.currency:
                raise LoyaltyError(
                    Reason.CURRENCY_NOT_ACCEPTED,
                    f"This connection books in {link.adapter.currency} only.",
                    field=field,
                    **where,
                )
        refuse_gaps(link, offer, call.filled_fields)

    def _born(
        self,
        tenant: str,
        request_id: str,
        link: Link,
        offer: Offer,
        order: Order,
        original: Booking | None,
    ) -> Booking:
        """The booking as write 1 will store it, if nobody has its request_id."""
        now = self._journal.now()
        booking_id = uuid7(now)
        lease_until = now + timedelta(seconds=self._limits.lease_s)
        account_id, where = order.account_id, (tenant, link.connection, order.account_id)
        return Booking(
            tenant=tenant,
            booking_id=booking_id,
            request_id=request_id,
            state=State.SENDING,
            create_time=now,
            operation=order.operation,
            connection=link.connection,
            provider=link.adapter.provider,
            account_hash=self._keyring.account_hash(*where) if account_id else b"",
            account_sealed=self._sealed.seal_account(tenant, booking_id, account_id),
            account_token=self._keyring.token(*where) if account_id else "",
            masked_id=mask_account_id(account_id) if account_id else "",
            order=replace(
                order,
                account_id="",
                original=None,
                person=None,
                external=None,
                proof="",
                prepared=(),
            ),
            private_sealed=self._sealed.seal_private(tenant, booking_id, order),
            outbound_id=self._keyring.outbound_id(tenant, request_id),
            target_hash=link.target_hash,
            recovery_mode=self.mode_of(link, offer, order),
            original_booking=original.name if original else "",
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

    def _fingerprint(self, call: BookingCall, order: Order, booking: Booking) -> bytes:
        """Version 1: the business fields that make two calls the same request."""
        parts: list[str | bytes] = [
            call.operation,
            booking.connection,
            booking.account_hash,
            str(order.asked or ""),
            str(order.money_value or ""),
            order.redemption_kind,
            str(order.allow_partial),
            booking.original_booking,
            order.in_doubt_policy,
            order.sale.order_id,
            order.sale.ticket_number,
        ]
        # What an operation does not have adds nothing, so that a fingerprint stays what it was
        # when another operation gets a field.
        further = {
            "activate": order.activate,
            "card_type": order.card_type,
            "purchase": order.purchase and _filled(order.purchase),
            "update_mask": order.update_mask,
            "person": order.person and _filled(order.person),
            "external": order.external and _filled(order.external),
            "proof": order.proof,
        }
        for name, value in further.items():
            if value not in (None, "", ()):
                parts += [name, repr(value)]
        return self._keyring.fingerprint(parts)


def _in_vendors_unit(asked: Amount | None, link: Link) -> Amount | None:
    """The amount as the vendor tells it: points are in its unit, whether that is named or not.

    Raises LoyaltyError REQUEST_INVALID for points of another unit.
    """
    if not isinstance(asked, Points):
        return asked
    unit = link.adapter.points_unit
    if asked.unit not in ("", _POINTS, unit):
        names = " or ".join(dict.fromkeys((unit or _POINTS, _POINTS)))
        raise LoyaltyError(
            Reason.REQUEST_INVALID,
            f"This connection's points are {names}; leave points.unit empty.",
            field="points.unit",
            violations=(Violation("points.unit", f"must be empty or {names}"),),
            **at(link),
        )
    return replace(asked, unit=unit)


def _refusal_to_reverse(
    call: BookingCall, link: Link, offer: Offer, order: Order
) -> LoyaltyError | None:
    """Why AUTO_REVERSE cannot be kept, or None. The promises that it rests on may have changed
    since a booking of that name was made."""
    is_reversed = call.in_doubt_policy is InDoubtPolicy.AUTO_REVERSE
    if not is_reversed or link.may_auto_reverse(offer, order):
        return None
    return LoyaltyError(
        Reason.CAPABILITY_NOT_SUPPORTED,
        f"A doubt about {call.operation} cannot be undone by a machine at this vendor, so"
        " AUTO_REVERSE cannot be kept; use RESOLVE.",
        field="options.in_doubt_policy",
        **at(link),
    )


def _refusal(original: Booking, link: Link, call: BookingCall) -> LoyaltyError | None:
    """Why nothing new may be done to this original."""
    refusal = refusal_to_undo(original)
    if refusal is None and call.operation in UNDO_OPERATIONS:
        undo = link.find_undo(original)
        if undo is not call.operation:
            refusal = LoyaltyError(
                Reason.ORIGINAL_NOT_REVERSIBLE,
                f"{original.operation} cannot be undone by {call.operation} at this vendor;"
                " nothing was done.",
                field="original",
                **at(link),
            )
    return refusal


def _filled(content: Person | Purchase | External) -> list[tuple[str, str]]:
    """The fields that are filled, by name: so that a new one changes nothing for those without."""
    named = ((field.name, getattr(content, field.name)) for field in fields(content))
    return sorted((name, str(value)) for name, value in named if value not in (None, "", ()))


def uuid7(now: datetime) -> str:
    """A UUID version 7: sorts by the time it was made (RFC 9562)."""
    milliseconds = int(now.timestamp()) * 1000 + now.microsecond // 1000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))
