"""What a booking keeps sealed, and the order as it is sent: opened for one attempt, never kept."""

from dataclasses import replace

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.booking import Booking, CreatedAccount
from loyalty_gateway.domain.errors import LoyaltyError, Reason
from loyalty_gateway.domain.operations import Order, Original
from loyalty_gateway.journal.journal import Journal
from loyalty_gateway.journal.orders import decode_private, encode_private
from loyalty_gateway.journal.sealing import Keyring


class Sealed:
    """Seals what is personal of a booking, and opens it again."""

    def __init__(self, journal: Journal, keyring: Keyring) -> None:
        self._journal = journal
        self._keyring = keyring

    def seal_account(self, tenant: str, booking_id: str, account_id: str) -> bytes | None:
        """The account id for its row; None where the vendor is to choose it."""
        return self._keyring.seal(account_id, f"{tenant}/{booking_id}") if account_id else None

    def seal_private(self, tenant: str, booking_id: str, order: Order) -> bytes | None:
        """The private part of an order for its row; None where it has none."""
        private = encode_private(order)
        return self._keyring.seal(private, f"{tenant}/{booking_id}/private") if private else None

    def account_of(self, booking: Booking) -> str:
        """The plain account id. Raises LookupError where the key is gone, or the id destroyed."""
        if booking.account_sealed is None:
            if booking.account_hash:
                raise LookupError("the account id was destroyed")
            return ""
        return self._keyring.unseal(
            booking.account_sealed, f"{booking.tenant}/{booking.booking_id}"
        )

    def original_of(self, booking: Booking) -> Original:
        """A booking as the one that undoes it or adds to it needs it.

        What the vendor told of it is named only where it was believed, and so is this booking's
        alone: the references of a doubt are evidence for a person, and may be another's.
        """
        assert booking.order is not None, "a tombstone is nobody's original"
        order = replace(booking.order, account_id=self.account_of(booking))
        if booking.answer_bytes is None:
            return Original(order, booking.outbound_id)
        return Original(order, booking.outbound_id, booking.references, booking.applied)

    async def order_of(self, booking: Booking) -> Order:
        """The order as every attempt sends it.

        Raises LookupError where a part of it cannot be opened any more.
        """
        assert booking.order is not None, "a tombstone is never sent"
        order = replace(booking.order, account_id=self.account_of(booking))
        if booking.private_sealed is not None:
            context = f"{booking.tenant}/{booking.booking_id}/private"
            private = self._keyring.unseal(booking.private_sealed, context)
            order = replace(order, **decode_private(private))
        if booking.original_booking:
            original = await self.find_original(booking)
            if original is None:
                raise LookupError("the original is not in the journal")
            order = replace(order, original=self.original_of(original))
        return order

    async def find_original(self, booking: Booking) -> Booking | None:
        """The booking that this one undoes or adds to."""
        booking_id = booking.original_booking.removeprefix("bookings/")
        return await self._journal.find(booking.tenant, booking_id=booking_id)

    def created(self, booking: Booking, account_id: str) -> CreatedAccount:
        """The account that a booking made, as its caller may see it."""
        where = booking.tenant, booking.connection, account_id
        return CreatedAccount(
            self._keyring.token(*where),
            mask_account_id(account_id),
            self._keyring.account_hash(*where),
        )

    def seal_answer(self, booking: Booking, private: bytes) -> bytes | None:
        """The personal part of an answer for its row; None where it has none."""
        return self._keyring.seal_bytes(private, _answer_context(booking)) if private else None

    def answer_of(self, booking: Booking) -> bytes:
        """The whole answer, to the letter as it was told first.

        Raises LoyaltyError DATA_LOSS where its personal part cannot be opened any more.
        """
        assert booking.answer_bytes is not None, "it is answered"
        if booking.answer_sealed is None:
            return booking.answer_bytes
        try:
            private = self._keyring.unseal_bytes(booking.answer_sealed, _answer_context(booking))
        except LookupError as error:
            raise LoyaltyError(
                Reason.DATA_LOSS,
                "The personal part of this booking's answer cannot be opened with the keys of"
                " this deployment; GetBooking tells the rest.",
                booking=booking.name,
                request_id=booking.request_id,
            ) from error
        return booking.answer_bytes + private


def _answer_context(booking: Booking) -> str:
    return f"{booking.tenant}/{booking.booking_id}/answer"
