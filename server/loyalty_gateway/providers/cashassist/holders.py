"""CashAssist's verbs about the holders of cards: who they are, and what is kept of them."""

from collections.abc import Callable
from datetime import UTC, datetime

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.operations import (
    ChallengePurpose,
    Confirmed,
    Issued,
    Operation,
    Order,
    Person,
    Receipt,
)
from loyalty_gateway.providers.answers import Document
from loyalty_gateway.providers.cashassist import holders_wire, status, wire
from loyalty_gateway.providers.cashassist.channel import DIALECT, Channel, refusal
from loyalty_gateway.providers.connection import VendorCall
from loyalty_gateway.providers.port import (
    CodeCheck,
    CodeWish,
    Executed,
    ProviderError,
    ReceiptCheck,
    Send,
)

_JSON = (("content-type", "application/json"),)


class Holders:
    """Codes by SMS, receipts, sign-up, creation and master data, over one channel."""

    def __init__(self, channel: Channel, currency: str) -> None:
        self._channel = channel
        self._currency = currency

    async def check_new(self, order: Order) -> tuple[tuple[str, str], ...]:
        """Refuses what a new card cannot be given, before the booking is opened; asks nobody.

        Raises:
            ProviderError: REQUEST_INVALID, naming the fields.
        """
        _refuse(
            holders_wire.find_uncreatable(order.person or Person()),
            "this provider takes only a name for a new card; number and address are those that "
            "were signed up with",
        )
        return ()

    async def check_change(self, order: Order) -> tuple[tuple[str, str], ...]:
        """Refuses what cannot be changed, before the booking is opened; asks nobody.

        Raises:
            ProviderError: REQUEST_INVALID, naming the fields.
        """
        _refuse(
            holders_wire.find_unchangeable(order),
            "this provider changes given name, family name, email, phone and birth date only, "
            "and clears none of them",
        )
        return ()

    async def create(self, send: Send) -> Executed:
        """A new card for a sign-up that was confirmed; carries the outbound id as key.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for a 200 that proves nothing.
        """
        call = VendorCall(
            operation=send.order.operation,
            method="POST",
            route=holders_wire.CREATE,
            request_text=f"POST {holders_wire.CREATE}, key {send.outbound_id}",
            headers=(*_JSON, (wire.KEY_HEADER, send.outbound_id)),
            body=holders_wire.encode_create(send.order),
            fault=send.fault,
        )
        return await self._book(
            call,
            "",
            "200 with the new card",
            lambda document: holders_wire.decode_created(
                document, send.outbound_id, self._currency, datetime.now(UTC)
            ),
            is_second=send.attempt_number == 2,
        )

    async def update(self, send: Send) -> Executed:
        """New master data for a card. It has no key: it sets a state, as often as it is sent.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for a 200 that proves nothing.
        """
        order = send.order
        call = VendorCall(
            operation=order.operation,
            method="POST",
            route=holders_wire.UPDATE,
            request_text=(
                f"POST {holders_wire.UPDATE}: {', '.join(order.update_mask)} of "
                f"{mask_account_id(order.account_id)}"
            ),
            headers=_JSON,
            body=holders_wire.encode_update(order),
            fault=send.fault,
        )
        return await self._book(
            call,
            order.account_id,
            "200 with the card as it is now",
            lambda document: holders_wire.decode_updated(
                document, order.account_id, self._currency, datetime.now(UTC)
            ),
        )

    async def send_code(self, wish: CodeWish) -> Issued:
        """A code by SMS, to link a card or to sign up. The vendor takes no key for it.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for an unreadable answer;
                REQUEST_INVALID for another purpose, FIELD_REQUIRED_BY_PROVIDER for a sign-up
                without a whole name.
        """
        route = holders_wire.SEND_CODE.get(wish.purpose)
        if route is None or not wish.destination.phone:
            raise refusal(
                status.INVALID,
                "this provider sends codes to phones only, to link a card or to sign up",
                "no such code",
            )
        person = wish.person if wish.purpose is ChallengePurpose.SIGN_UP else None
        if wish.purpose is ChallengePurpose.SIGN_UP and not (
            person and person.given_name and person.family_name
        ):
            raise refusal(
                status.FIELD_MISSING,
                "this provider signs nobody up without profile.given_name and profile.family_name",
                "a sign-up without a whole name",
            )
        call = VendorCall(
            operation=Operation.CREATE_CHALLENGE,
            method="POST",
            route=route,
            request_text=f"POST {route}",
            headers=_JSON,
            body=holders_wire.encode_wish(wish.destination.phone, person),
            fault=wish.fault,
        )
        return await self._channel.send(call, wish.destination.phone, holders_wire.decode_issued)

    async def check_code(self, check: CodeCheck) -> Confirmed:
        """The cards of the number, or the token to create one with; the code is used up.

        Raises:
            ProviderError: CODE_INVALID, CODE_EXPIRED; else by the TRANSPORT or STATUS table, or
                for an unreadable answer.
        """
        route = holders_wire.CHECK_CODE[check.purpose]
        is_link = check.purpose is ChallengePurpose.LINK_CARD
        call = VendorCall(
            operation=Operation.VERIFY_CHALLENGE,
            method="POST",
            route=route,
            request_text=f"POST {route}",
            headers=_JSON,
            body=holders_wire.encode_code(check.handle, check.code),
            fault=check.fault,
        )
        return await self._channel.send(
            call,
            check.destination.phone,
            holders_wire.decode_linked if is_link else holders_wire.decode_signed_up,
        )

    async def check_receipt(self, check: ReceiptCheck) -> Confirmed | None:
        """Whether a receipt belongs to a card; None where the vendor says no.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for an unreadable answer.
        """
        call = VendorCall(
            operation=Operation.VERIFY_CARD_OWNERSHIP,
            method="POST",
            route=holders_wire.VERIFY,
            request_text=f"POST {holders_wire.VERIFY}",
            headers=_JSON,
            body=holders_wire.encode_receipt(check),
            fault=check.fault,
        )
        try:
            return await self._channel.send(
                call,
                check.account_id,
                lambda document: holders_wire.decode_ownership(document, check.account_id),
            )
        except ProviderError as error:
            if error.status is not status.NOT_THEIR_RECEIPT:
                raise
            return None

    async def _book(
        self,
        call: VendorCall,
        account_id: str,
        rule: str,
        decode: Callable[[Document], Receipt],
        *,
        is_second: bool = False,
    ) -> Executed:
        return await self._channel.send(
            call,
            account_id,
            lambda document: Executed(
                decode(document),
                http_status=document.answer.status,
                rule=f"{DIALECT.provider}: {rule}",
                request_text=call.request_text,
                answer_text=DIALECT.show(document, account_id),
            ),
            is_second=is_second,
        )


def _refuse(names: tuple[str, ...], message: str) -> None:
    if names:
        raise refusal(
            status.INVALID,
            f"{message}: {', '.join(names)}",
            "fields that the provider has no place for",
        )
