"""CashAssist's verbs as the port wants them; it never retries, stores or decides on a booking."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import Field, SecretStr

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import (
    AMOUNT_ECHO_UNIT,
    Operation,
    RecoveryMode,
    Support,
)
from loyalty_gateway.providers.answers import Document
from loyalty_gateway.providers.cashassist import wire
from loyalty_gateway.providers.cashassist.channel import DIALECT, Channel
from loyalty_gateway.providers.cashassist.holders import Holders
from loyalty_gateway.providers.cashassist.proofs import Proofs
from loyalty_gateway.providers.cashassist.reads import Reads
from loyalty_gateway.providers.connection import (
    AdapterSettingsError,
    Connection,
    ConnectionSettings,
    VendorCall,
    check_connection,
    clean,
    open_connection,
    read_secret,
    read_settings,
)
from loyalty_gateway.providers.port import (
    Check,
    Executed,
    Lookup,
    NotShown,
    Offer,
    PromiseFacts,
    Send,
    Way,
)

RESEND_IS_SAFE: Final = "resend_is_safe"
CHECKED_CARD: Final = "0"
"""A card that nobody has; asking for it shows whether the key is accepted."""


class Settings(ConnectionSettings):
    """What an operator sets for a connection to CashAssist."""

    api_key: SecretStr | None = Field(default=None, repr=False)
    """The key that the vendor gave; this or its file is needed."""
    api_key_file: Path | None = None
    """A file with the key, instead of the key."""
    currency: str = "CHF"
    """The currency of every account behind this key; the vendor's answers may not name it."""
    proof_card: str = Field(default="", max_length=64, repr=False)
    """A card that promises may be proven on; each proof moves a few cents on it and takes a point,
    which it must hold."""


class CashassistAdapter:
    """One connection to CashAssist."""

    provider = DIALECT.provider
    display_name = "HS-Soft CashAssist"
    # Assumed: the vendor's text promises keys and does not say how long they are kept.
    key_lifetime_s = 86_400.0
    settle_s = 0.0
    points_unit = ""
    promises: Mapping[str, PromiseFacts] = {
        RESEND_IS_SAFE: PromiseFacts("a booking that is sent twice with one key is booked once"),
        AMOUNT_ECHO_UNIT: PromiseFacts(
            "the amount in the answer to a booking is in the unit that it was asked in"
        ),
    }
    unsupported_notes: Mapping[Operation, str] = {
        Operation.LINK_ACCOUNT: "linking is what VerifyChallenge with LINK_CARD does",
        Operation.EARN_POINTS: "points come from sales at the provider's own tills",
        Operation.REVERSE_POINTS: "the provider undoes nothing; book the opposite",
    }

    def __init__(self, connection: Connection, settings: Settings, api_key: str) -> None:
        self.currency = settings.currency
        credential = hashlib.sha256(b"cashassist api key: " + api_key.encode()).hexdigest()[:16]
        self.target = f"{settings.base_url}|{credential}"
        self._channel = Channel(connection, api_key)
        self.reads = Reads(self._channel, settings.currency)
        self.holders = Holders(self._channel, settings.currency)
        self._proof_card = settings.proof_card
        self.operations: Mapping[Operation, Offer] = {
            **self._reading(),
            **self._booking(),
            **self._proving_persons(),
        }

    async def book(self, send: Send) -> Executed:
        """A top-up, a debit or a redemption, by one request that carries the outbound id as key.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for a 200 that proves nothing.
        """
        order = send.order
        asked = order.asked
        assert asked is not None, "the contract asks for an amount"
        body = wire.encode_booking(order.operation, order.account_id, asked, order.sale)
        call = VendorCall(
            operation=order.operation,
            method="POST",
            route=wire.ROUTES[order.operation],
            request_text=(
                f"POST {wire.ROUTES[order.operation]}: {asked} on "
                f"{mask_account_id(order.account_id)}, reference "
                f"{clean(wire.find_reference(order.sale), order.account_id) or '-'}, "
                f"key {send.outbound_id}"
            ),
            headers=(
                ("content-type", "application/json"),
                (wire.KEY_HEADER, send.outbound_id),
            ),
            body=body,
            fault=send.fault,
        )

        def decode(document: Document) -> Executed:
            receipt = wire.decode_booking(
                document,
                order.operation,
                order.account_id,
                asked,
                send.outbound_id,
                self.currency,
            )
            return Executed(
                receipt,
                http_status=document.answer.status,
                rule="cashassist: 200, complete, and the echo fits",
                request_text=call.request_text,
                answer_text=DIALECT.show(document, order.account_id),
            )

        return await self._channel.send(call, order.account_id, decode)

    async def prove(self, promise: str) -> str:
        """Books a few cents and a point on the proof card and looks at what came of it.

        Raises:
            ProviderError: the vendor could not be asked.
            NotShown: there is no proof card, or it refuses a kind of booking.
            LookupError: the promise does not hold.
        """
        proofs = Proofs(
            self._proof_card,
            self.currency,
            self.book,
            lambda key: self.reads.get_history(
                Lookup(Operation.LIST_TRANSACTIONS, self._proof_card), ((wire.KEY_ECHO, key),)
            ),
        )
        ways: Mapping[str, Callable[[], Awaitable[str]]] = {
            RESEND_IS_SAFE: proofs.show_resend_is_safe,
            AMOUNT_ECHO_UNIT: proofs.show_amount_echo_unit,
        }
        if promise not in ways:
            raise NotShown(f"{self.provider} makes no promise called {promise}")
        if not self._proof_card:
            raise NotShown("the setting proof_card names no card to prove this on")
        return await ways[promise]()

    async def check(self) -> Check:
        """Reads the proof card, or one that cannot exist: an answer about it shows the key right.

        Never raises ProviderError: it is what the check tells.
        """
        card = self._proof_card or CHECKED_CARD
        return await check_connection(
            lambda: self.reads.get_card(Lookup(Operation.GET_CARD, card)),
            self._channel.connection,
            proving=(Reason.ACCOUNT_NOT_FOUND, Reason.ACCOUNT_NOT_ACTIVE),
        )

    async def close(self) -> None:
        """Ends every connection to the vendor."""
        await self._channel.connection.close()

    def _reading(self) -> Mapping[Operation, Offer]:
        reads = self.reads
        return {
            Operation.SEARCH_CARDS: Offer(
                reads.search_cards,
                Support.EMULATED,
                needed_fields=("scan",),
                note="the number that was read is taken for the card's id, and asked for",
            ),
            Operation.GET_CARD: Offer(reads.get_card),
            Operation.GET_WALLET: Offer(reads.get_card),
            Operation.GET_BALANCE: Offer(reads.get_card),
            Operation.LIST_TRANSACTIONS: Offer(reads.list_transactions),
            Operation.LIST_TRANSACTION_ITEMS: Offer(
                reads.list_items,
                note="the provider does not compare the transaction with the account",
            ),
            Operation.GET_POINTS_STATEMENT: Offer(
                reads.get_points_statement,
                Support.EMULATED,
                note="added up from the provider's history",
            ),
        }

    def _booking(self) -> Mapping[Operation, Offer]:
        by_key = (Way(RecoveryMode.SAFE_RESEND, RESEND_IS_SAFE),)
        new = Offer(
            self.holders.create,
            ways=by_key,
            prepare=self.holders.check_new,
            needed_fields=("proof_token",),
            note="takes the proof_token of a SIGN_UP, and only a name beside it",
        )
        change = Offer(
            self.holders.update,
            # No key is documented for an update. It sets a state, so it may be sent again; but
            # a later one must not be overtaken by it.
            ways=(Way(RecoveryMode.SAFE_RESEND),),
            is_held_in_doubt=True,
            prepare=self.holders.check_change,
            note=(
                "changes given_name, family_name, email, phone and birth_date; a display_name "
                "cannot be changed, and nothing can be cleared"
            ),
        )
        return {
            **{operation: Offer(self.book, ways=by_key) for operation in wire.ROUTES},
            Operation.CREATE_CARD: new,
            Operation.CREATE_WALLET: new,
            Operation.UPDATE_CARD: change,
            Operation.UPDATE_WALLET: change,
        }

    def _proving_persons(self) -> Mapping[Operation, Offer]:
        return {
            Operation.VERIFY_CARD_OWNERSHIP: Offer(self.holders.check_receipt),
            Operation.CREATE_CHALLENGE: Offer(
                self.holders.send_code,
                needed_fields=("phone",),
                note=(
                    "LINK_CARD and SIGN_UP; a sign-up needs profile.given_name and "
                    "profile.family_name"
                ),
            ),
            Operation.VERIFY_CHALLENGE: Offer(self.holders.check_code),
        }


def open_adapter(connection: str, settings: Mapping[str, Any], profile: str) -> CashassistAdapter:
    """The adapter for one section of the configuration.

    Raises:
        AdapterSettingsError: naming each setting that cannot be used.
    """
    checked = read_settings(Settings, settings, profile=profile)
    if CURRENCY_EXPONENTS.get(checked.currency) != wire.MINOR_DIGITS:
        raise AdapterSettingsError(("currency: must be an ISO 4217 code with two decimals",))
    api_key = read_secret("api_key", checked.api_key, checked.api_key_file)
    return CashassistAdapter(
        open_connection(connection, checked, is_sandbox=profile == "sandbox"), checked, api_key
    )
