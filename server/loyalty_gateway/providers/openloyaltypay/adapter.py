"""openLoyaltyPay's verbs as the port wants them; it never retries, stores or decides."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import Field, SecretStr

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import (
    AMOUNT_ECHO_UNIT,
    CardFacts,
    CardPage,
    Operation,
    Order,
    Receipt,
    RecoveryMode,
    Support,
)
from loyalty_gateway.providers.answers import Document, UnreadableAnswer, read_document
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
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.providers.openloyaltypay import customers, layers, status, wire
from loyalty_gateway.providers.openloyaltypay.promises import (
    ORDER_NUMBER_REPLAYS,
    ORDER_QUERY_ANSWERS,
    PROMISES,
    VOID_TAKES_ORDER_NUMBER,
)
from loyalty_gateway.providers.openloyaltypay.proofs import PROOFS
from loyalty_gateway.providers.openloyaltypay.signing import sign
from loyalty_gateway.providers.port import (
    Candidate,
    Check,
    Executed,
    Finding,
    Lookup,
    NotShown,
    Offer,
    PromiseFacts,
    ProviderError,
    Question,
    Send,
    Way,
)

CHECKED_CARD: Final = "0"
"""A card that nobody has; asking for it shows whether token and signature are accepted."""

_RESEND: Final = Way(RecoveryMode.SAFE_RESEND, ORDER_NUMBER_REPLAYS)
_QUERY: Final = Way(RecoveryMode.STATUS_QUERY, ORDER_QUERY_ANSWERS)
_REVERSE: Final = Way(RecoveryMode.REVERSE, VOID_TAKES_ORDER_NUMBER)


class Settings(ConnectionSettings):
    """What an operator sets for a connection to openLoyaltyPay."""

    client_id: str = Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")
    """The developer's id, as the vendor gave it."""
    client_secret: SecretStr | None = Field(default=None, repr=False)
    """The developer's secret, which signs every call; this or its file is needed."""
    client_secret_file: Path | None = None
    """A file with the secret, instead of it."""
    jwt_token: SecretStr | None = Field(default=None, repr=False)
    """The merchant's long-lived token of type eCommerce, as handed out at onboarding; this or its
    file is needed."""
    jwt_token_file: Path | None = None
    """A file with that token, instead of it."""
    loyalty_channel: str = Field(default="FACTOR4", min_length=1, max_length=64)
    """The channel behind the platform; FACTOR4 is the only one in any of the vendor's samples."""
    currency: str = "USD"
    """The currency of every booking of money; the vendor names none in its answers to them."""
    proof_card: str = Field(default="", max_length=64, repr=False)
    """A card that promises may be proven on; each proof moves a few cents on it."""


class OpenLoyaltyPayAdapter:
    """One connection to openLoyaltyPay."""

    provider = "openloyaltypay"
    display_name = "PayWizard openLoyaltyPay"
    # How long an order number is remembered is not documented: resending ends after six hours.
    key_lifetime_s = 43_200.0
    settle_s = 0.0
    points_unit = ""
    promises: Mapping[str, PromiseFacts] = PROMISES
    unsupported_notes: Mapping[Operation, str] = {
        Operation.TOP_UP_BALANCE: "money goes on a card by Gift.TopUpGiftCard",
        Operation.DEBIT_BALANCE: "money is taken from a card by Gift.PayWithGiftCard",
        Operation.REVERSE_POINTS: "the vendor documents no way to undo points",
        Operation.LIST_TRANSACTIONS: "the vendor shows balances and no history",
        Operation.GET_POINTS_STATEMENT: "the vendor shows balances and no history",
    }

    def __init__(
        self, connection: Connection, settings: Settings, client_secret: str, jwt_token: str
    ) -> None:
        self.currency = settings.currency
        self.proof_card = settings.proof_card
        # The token stands for the merchant, to whom the order numbers belong.
        merchant = hashlib.sha256(b"openloyaltypay token: " + jwt_token.encode()).hexdigest()[:16]
        self.target = "|".join(
            (settings.base_url, settings.client_id, settings.loyalty_channel, merchant)
        )
        self.operations: Mapping[Operation, Offer] = {
            Operation.SEARCH_CARDS: Offer(
                self.search_cards,
                Support.EMULATED,
                needed_fields=("scan",),
                note="one card by its own number; group and store are not looked at",
            ),
            Operation.GET_CARD: Offer(self.get_card),
            Operation.GET_BALANCE: Offer(self.get_card),
            Operation.GET_GIFT_CARD: Offer(self.get_card),
            Operation.ACTIVATE_GIFT_CARD: Offer(
                self.book,
                # It sets a state and carries no order number, so it may be sent again; but a
                # later one must not be overtaken by it.
                ways=(Way(RecoveryMode.SAFE_RESEND),),
                is_held_in_doubt=True,
                note="the vendor gives an activation no number of its own",
            ),
            Operation.TOP_UP_GIFT_CARD: Offer(
                self.book,
                ways=(_RESEND, _QUERY, _REVERSE),
                ask=self.ask,
                undo=Operation.VOID_GIFT_TRANSACTION,
                note="the amount of a top-up is assumed: the vendor's documents leave it out",
            ),
            Operation.PAY_WITH_GIFT_CARD: Offer(
                self.book,
                ways=(_RESEND, _QUERY, _REVERSE),
                ask=self.ask,
                undo=Operation.VOID_GIFT_TRANSACTION,
                partial_amounts=True,
                partial_promise=AMOUNT_ECHO_UNIT,
            ),
            Operation.VOID_GIFT_TRANSACTION: Offer(
                self.book,
                ways=(_RESEND, _QUERY),
                ask=self.ask,
                note="before settlement only",
            ),
            Operation.ADD_GIFT_TIP: Offer(
                self.book, ways=(_RESEND, _QUERY), ask=self.ask, needed_fields=("account",)
            ),
            Operation.EARN_POINTS: Offer(
                self.book,
                ways=(_RESEND, _QUERY),
                ask=self.ask,
                needed_fields=("points",),
                note="a number of points; the vendor has no rules that make points of a purchase",
            ),
            Operation.REDEEM_POINTS: Offer(self.book, ways=(_RESEND, _QUERY), ask=self.ask),
        }
        self._connection = connection
        self._client = wire.Client(settings.client_id, settings.loyalty_channel)
        self._client_secret = client_secret
        self._jwt_token = jwt_token
        self._proving = asyncio.Lock()

    async def book(self, send: Send) -> Executed:
        """Any booking, by one request that carries the outbound id as its order number.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, for a result that is no success, or
                for a 200 that proves nothing; before anything was sent, for an order that this
                vendor cannot take.
        """
        order = send.order
        _refuse_unsendable(order)
        route = wire.ROUTES[order.operation]
        call = self._call(
            order.operation,
            route,
            wire.encode_booking(order, send.outbound_id, self._client),
            f"{_words_of(order)}, order number {send.outbound_id}",
            fault=send.fault,
        )

        def read(answer: HttpAnswer) -> Executed:
            document = read_document(answer)
            receipt = layers.read(
                call,
                order.account_id,
                document,
                lambda: self._decode_booking(call, order, document),
                is_first=send.attempt_number == 1,
            )
            return Executed(
                receipt,
                http_status=answer.status,
                rule="openloyaltypay: 200, code 200, and done",
                request_text=call.request_text,
                answer_text=layers.show(document, order.account_id),
            )

        return await self._connection.exchange(call, read)

    async def ask(self, question: Question) -> Finding:
        """What became of an order, by our own number of it.

        "Not found" is the vendor's word for an order that it never got, and for one that this
        query does not cover: only order_query_answers makes the difference.

        Raises:
            ProviderError: the vendor could not be asked; with `contradicts` where the order was
                executed and has been undone since by nobody known here.
        """
        order = question.order
        call = self._call(
            order.operation,
            wire.QUERY_ORDER,
            wire.encode_order_query(question.outbound_id, self._client),
            f"order number {question.outbound_id}",
            is_side_call=True,
        )

        def read(answer: HttpAnswer) -> Finding:
            document = read_document(answer)
            found = layers.read(
                call,
                order.account_id,
                document,
                lambda: self._find(call, question, document),
            )
            return replace(
                found,
                http_status=answer.status,
                request_text=call.request_text,
                answer_text=layers.show(document, order.account_id),
            )

        return await self._connection.exchange(call, read)

    async def get_card(self, lookup: Lookup) -> CardFacts:
        """The card with its balances and, where the vendor tells, its holder.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for an unreadable answer.
        """
        call = self._call(
            lookup.operation,
            wire.INQUIRY,
            wire.encode_inquiry(lookup.account_id, lookup.entry_mode, self._client),
            mask_account_id(lookup.account_id),
            fault=lookup.fault,
        )

        def read(answer: HttpAnswer) -> CardFacts:
            document = read_document(answer)
            return layers.read(
                call,
                lookup.account_id,
                document,
                lambda: wire.decode_card(document, lookup.account_id),
            )

        return await self._connection.exchange(call, read)

    async def search_cards(self, lookup: Lookup) -> CardPage:
        """The one card of a scanned number, or none.

        Raises:
            ProviderError: as for a card; FIELD_REQUIRED_BY_PROVIDER for any other kind of search.
        """
        search = lookup.search
        if search is None or not search.scan_value:
            raise ProviderError(
                status.NEEDS_SCAN,
                "this provider finds a card by its own number only; search with scan",
                rule="openloyaltypay: no search but by the card's number",
            )
        try:
            card = await self.get_card(
                replace(lookup, account_id=search.scan_value, entry_mode=search.scan_entry_mode)
            )
        except ProviderError as error:
            if error.status.reason is Reason.ACCOUNT_NOT_FOUND:
                return CardPage(())
            raise
        return CardPage((card,))

    async def prove(self, promise: str) -> str:
        """Books a few cents on the proof card and looks what came of it.

        Raises:
            ProviderError: the vendor could not be asked.
            NotShown: there is no proof card, or it tells no balance.
            LookupError: the promise does not hold.
        """
        proof = PROOFS.get(promise)
        if proof is None:
            raise NotShown(f"{self.provider} makes no promise called {promise}")
        if not self.proof_card:
            raise NotShown("the setting proof_card names no card to prove this on")
        # Proofs compare balances, so no two may be at it at once.
        async with self._proving:
            return await proof(self)

    async def check(self) -> Check:
        """Asks for a card that cannot exist: an answer about it shows token and signature right.

        Never raises ProviderError: it is what the check tells.
        """
        return await check_connection(
            lambda: self.get_card(Lookup(Operation.GET_CARD, CHECKED_CARD)),
            self._connection,
            proving=(Reason.ACCOUNT_NOT_FOUND, Reason.ACCOUNT_NOT_ACTIVE),
        )

    async def close(self) -> None:
        """Ends every connection to the vendor."""
        await self._connection.close()

    def _call(
        self,
        operation: Operation,
        route: str,
        body: bytes,
        words: str,
        *,
        is_side_call: bool = False,
        fault: str = "",
    ) -> VendorCall:
        return VendorCall(
            operation=operation,
            method="POST",
            route=route,
            request_text=f"POST {route}: {words}",
            headers=(
                ("content-type", "application/json"),
                (wire.TOKEN_HEADER, self._jwt_token),
                (wire.SIGN_HEADER, sign(body, self._client.client_id, self._client_secret)),
            ),
            body=body,
            is_side_call=is_side_call,
            fault=fault,
        )

    def _decode_booking(self, call: VendorCall, order: Order, document: Document) -> Receipt:
        """The third layer: what the result says, and the receipt where it says done."""
        if order.operation is Operation.ACTIVATE_GIFT_CARD:
            if not wire.names_data(document):
                # The vendor's first page prints an answer without data, where the code is all.
                return Receipt()
            # An activation has no result; that it answers with this very card is its success.
            card = wire.decode_card(document, order.account_id)
            return Receipt(balances_after=card.balances, card=card)
        result = wire.read_result(document)
        row = status.RESULTS.get(result)
        if row is None:
            return wire.decode_booking(document, order)
        raise layers.refused(row, f"result {result}", call, order.account_id, document)

    def _find(self, call: VendorCall, question: Question, document: Document) -> Finding:
        order, number = question.order, question.outbound_id
        state = wire.decode_order_state(document, order, number)
        if state is None:
            return Finding(rule="openloyaltypay: no such order")
        if state.is_pending:
            return Finding(is_pending=True, rule="openloyaltypay: the order is open")
        if state.receipt is not None:
            candidate = Candidate(state.receipt, state.time, is_certain=state.is_named)
            return Finding((candidate,), rule="openloyaltypay: the order is done")
        if not state.is_named:
            # Only an answer that names our order may say that ours was refused or undone.
            raise UnreadableAnswer("the answer does not name the order that was asked for")
        if state.is_closed:
            return Finding(is_refused=True, rule="openloyaltypay: the order is closed")
        raise layers.refused(
            status.UNDONE_ELSEWHERE,
            "an order that was done and then undone",
            call,
            order.account_id,
            document,
        )


def open_adapter(
    connection: str, settings: Mapping[str, Any], profile: str
) -> OpenLoyaltyPayAdapter:
    """The adapter for one section of the configuration.

    Raises:
        AdapterSettingsError: naming each setting that cannot be used.
    """
    checked = read_settings(Settings, settings, profile=profile)
    if CURRENCY_EXPONENTS.get(checked.currency, 9) > wire.MINOR_DIGITS_MAX:
        raise AdapterSettingsError(
            ("currency: must be an ISO 4217 code with at most two decimals",)
        )
    client_secret = read_secret("client_secret", checked.client_secret, checked.client_secret_file)
    jwt_token = read_secret("jwt_token", checked.jwt_token, checked.jwt_token_file)
    return OpenLoyaltyPayAdapter(
        open_connection(connection, checked, is_sandbox=profile == "sandbox"),
        checked,
        client_secret,
        jwt_token,
    )


def _refuse_unsendable(order: Order) -> None:
    """Stops what this vendor cannot take before a byte leaves.

    Raises:
        ProviderError: NOT_EXECUTED, with the reason.
    """
    if order.operation is Operation.EARN_POINTS and order.asked is None:
        raise ProviderError(
            status.NEEDS_POINTS,
            "this provider credits a number of points and makes none of a purchase; give points",
            rule="openloyaltypay: points are credited by their number",
        )
    if order.person is not None and customers.find_unknown_attributes(order.person):
        raise ProviderError(
            status.UNKNOWN_ATTRIBUTE,
            "the holder has attributes that this provider has no place for; "
            f"it has {', '.join(customers.ATTRIBUTES)}",
            rule="openloyaltypay: an attribute of the holder that the provider does not have",
        )
    if order.operation is Operation.ADD_GIFT_TIP:
        original = order.original
        if original is None or not original.find_reference(wire.CHECKOUT_ID):
            raise ProviderError(
                status.ORIGINAL_NOT_KNOWN,
                "the provider's number of the payment is not known, so no tip can be added to it",
                rule="openloyaltypay: a tip needs the number of its payment",
            )


def _words_of(order: Order) -> str:
    """What is asked for, for people; cards are masked."""
    if order.operation is Operation.VOID_GIFT_TRANSACTION:
        return f"the whole of {clean(wire.encode_original(order.original), order.account_id)}"
    asked = str(order.asked) if order.asked is not None else "active"
    if order.operation is Operation.ACTIVATE_GIFT_CARD and order.activate is False:
        asked = "not active"
    part = ", or a part" if order.may_take_part else ""
    entry = wire.ENTRY_TYPES[order.entry_mode] if order.entry_mode is not None else "K"
    return f"{asked}{part} on {mask_account_id(order.account_id)}, entry {entry}"
