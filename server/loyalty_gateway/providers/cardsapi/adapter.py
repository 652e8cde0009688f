"""CardAPI's verbs as the port wants them; it never retries, stores or decides on a booking."""

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pydantic import Field, SecretStr, model_validator

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS, Money
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import (
    CardFacts,
    CardPage,
    EntryMode,
    Operation,
    Order,
    RecoveryMode,
    Sale,
    Support,
)
from loyalty_gateway.providers.answers import Dialect, read_document
from loyalty_gateway.providers.cardsapi import status, wire
from loyalty_gateway.providers.cardsapi.wire import Pass, Scope
from loyalty_gateway.providers.connection import (
    AdapterSettingsError,
    Connection,
    ConnectionSettings,
    VendorCall,
    check_base_url,
    check_connection,
    clean,
    open_connection,
    read_secret,
    read_settings,
)
from loyalty_gateway.providers.http import HttpAnswer
from loyalty_gateway.providers.port import (
    Check,
    Executed,
    Lookup,
    NotShown,
    Offer,
    PromiseFacts,
    ProviderError,
    Search,
    Send,
    StatusRow,
    Way,
)
from loyalty_gateway.providers.status import describe_row
from loyalty_gateway.providers.tokens import Token, TokenCache

Answered = TypeVar("Answered")

TICKET_ID_DEDUPES: Final = "ticket_id_dedupes"
PROOF_MINOR: Final = 1
CHECKED_CARD: Final = "0"
"""A number that no card has; looking for it shows whether the credentials are accepted."""

ENTRY_MODE_NOTE: Final = (
    "an account is the number that the till scanned or that was keyed, so it needs the entry "
    "mode that it was read with; without one it is taken for keyed"
)

DIALECT: Final = Dialect(
    provider="cardsapi",
    status=status.STATUS,
    default=status.DEFAULT,
    unreadable=status.UNREADABLE,
    documented=status.DOCUMENTED,
    find_code=wire.decode_error_code,
    describe=wire.describe,
)


class Settings(ConnectionSettings):
    """What an operator sets for a connection to CardAPI.

    Cards are looked for either in a group (`group_id`) or among what a point of sale of a store
    takes (`store_id` with `point_of_sale_id`); one of the two has to be set.
    """

    auth_url: str = Field(min_length=1, max_length=500)
    """The base url of AuthAPI, which gives the tokens."""
    client_id: SecretStr | None = Field(default=None, repr=False)
    """The client's id at AuthAPI; this or its file is needed."""
    client_id_file: Path | None = None
    """A file with the client's id, instead of it."""
    access_token: SecretStr | None = Field(default=None, repr=False)
    """The long-lived token that AuthAPI gives tokens for; this or its file is needed."""
    access_token_file: Path | None = None
    """A file with that token, instead of it."""
    token_scopes: tuple[str, ...] = Field(default=("card",), min_length=1, max_length=16)
    """What a token is asked for; the name of the scope is assumed."""
    currency: str = "EUR"
    """The currency of every card; the vendor's answers name none."""
    group_id: int | None = Field(default=None, ge=0)
    """The group in which cards are looked for."""
    store_id: int | None = Field(default=None, ge=0)
    """The store whose cards are looked for, with point_of_sale_id and instead of a group."""
    point_of_sale_id: int | None = Field(default=None, ge=0)
    """The point of sale whose cards are looked for, with store_id."""
    proof_card: str = Field(default="", max_length=64, repr=False)
    """A cashback card that promises may be proven on; each proof leaves it 0.01 poorer."""
    proof_entry_mode: EntryMode = wire.DEFAULT_ENTRY_MODE
    """How the number of proof_card is read, which says what kind of number it is."""
    proof_point_of_sale_id: int | None = Field(default=None, ge=0)
    """The point of sale that a proof books at; a proof needs it."""
    proof_device_id: str = Field(default="promise-proof", min_length=1, max_length=64)
    """The device that a proof names."""

    @model_validator(mode="after")
    def _scoped(self) -> Self:
        is_store = self.store_id is not None and self.point_of_sale_id is not None
        is_half = not is_store and (self.store_id, self.point_of_sale_id) != (None, None)
        if is_half or is_store == (self.group_id is not None):
            raise ValueError("set either group_id, or both store_id and point_of_sale_id")
        if self.proof_entry_mode not in wire.SEARCH_MODES:
            raise ValueError("proof_entry_mode: the provider looks for no such number")
        return self

    @property
    def scope(self) -> Scope:
        """Where cards are looked for, unless a search says otherwise."""
        return Scope(self.group_id, self.store_id, self.point_of_sale_id)


class CardsapiAdapter:
    """One connection to CardAPI."""

    provider = DIALECT.provider
    display_name = "CISS CardAPI"
    # Nothing is published about how long a ticket's id is known: recovery resends for six hours
    # in all, where it may resend at all, and that is half of this.
    key_lifetime_s = 43_200.0
    settle_s = 0.0
    points_unit = ""
    promises: Mapping[str, PromiseFacts] = {
        TICKET_ID_DEDUPES: PromiseFacts(
            "a debit that is sent twice with one ticket_id is booked once and answered twice"
        ),
    }
    unsupported_notes: Mapping[Operation, str] = {
        Operation.TOP_UP_BALANCE: (
            "the provider's overview speaks of credits, but it publishes no call for one"
        ),
        Operation.LIST_TRANSACTIONS: "the provider publishes no history",
    }

    def __init__(
        self,
        connection: Connection,
        auth: Connection,
        settings: Settings,
        client_id: str,
        access_token: str,
    ) -> None:
        self.currency = settings.currency
        credential = hashlib.sha256(b"cardsapi client: " + client_id.encode()).hexdigest()[:16]
        self.target = f"{settings.base_url}|{credential}"
        self.operations: Mapping[Operation, Offer] = {
            Operation.SEARCH_CARDS: Offer(
                self.search_cards,
                needed_fields=("scan",),
                note="the provider looks for a scanned barcode, an NFC number or a keyed number",
            ),
            Operation.GET_CARD: Offer(self.get_card, Support.EMULATED, note=ENTRY_MODE_NOTE),
            Operation.GET_BALANCE: Offer(self.get_card, Support.EMULATED, note=ENTRY_MODE_NOTE),
            Operation.DEBIT_BALANCE: Offer(
                self.debit,
                ways=(Way(RecoveryMode.SAFE_RESEND, TICKET_ID_DEDUPES),),
                prepare=self.prepare,
                is_held_in_doubt=True,
                needed_fields=("sale.point_of_sale_id", "sale.device_id"),
                note=(
                    "sale.point_of_sale_id is a whole number; only passes of type CASHBACK can "
                    f"be debited; {ENTRY_MODE_NOTE}"
                ),
            ),
        }
        self._connection = connection
        self._auth = auth
        self._settings = settings
        self._credentials = wire.encode_credentials(client_id, access_token)
        self._tokens = TokenCache(self._fetch_token)

    async def search_cards(self, lookup: Lookup) -> CardPage:
        """The pass that belongs to a number that was read off a card, or an empty page.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, for an unreadable answer, or
                REQUEST_INVALID for a search that the vendor has no words for.
        """
        search = lookup.search
        assert search is not None, "a search says what it looks for"
        if not search.scan_value:
            raise _invalid("the provider finds cards by a scanned or keyed number only")
        scope = self._scope(search)
        try:
            found = await self._find_pass(
                lookup.operation, search.scan_entry_mode, search.scan_value, scope, lookup.fault
            )
        except ProviderError as error:
            if error.status.reason is not Reason.ACCOUNT_NOT_FOUND:
                raise
            return CardPage(())
        return CardPage((wire.describe_card(found, search.scan_value, datetime.now(UTC)),))

    async def get_card(self, lookup: Lookup) -> CardFacts:
        """The pass that an account's number stands for, with its balance.

        Raises:
            ProviderError: as for a search; ACCOUNT_NOT_FOUND where there is no such pass.
        """
        found = await self._find_pass(
            lookup.operation,
            lookup.entry_mode,
            lookup.account_id,
            self._settings.scope,
            lookup.fault,
        )
        return wire.describe_card(found, lookup.account_id, datetime.now(UTC))

    async def prepare(self, order: Order) -> tuple[tuple[str, str], ...]:
        """Reads the pass that a debit is for: its numbers, and what it holds.

        Raises:
            ProviderError: as for a search; ACCOUNT_NOT_ACTIVE for a pass of another type than
                CASHBACK, CURRENCY_NOT_ACCEPTED for one in another currency, REQUEST_INVALID for
                a point of sale that is no whole number.
        """
        if wire.read_integer(order.sale.point_of_sale_id) is None:
            raise _invalid("sale.point_of_sale_id has to be a whole number for this provider")
        found = await self._find_pass(
            order.operation, order.entry_mode, order.account_id, self._settings.scope
        )
        if found.type != wire.CASHBACK:
            raise _not_debited(
                status.NOT_CASHBACK,
                "the card is of a type that the provider does not debit",
                "only a pass of type CASHBACK is debited",
            )
        if found.balance.currency != self.currency:
            raise _not_debited(
                status.OTHER_CURRENCY,
                f"the card does not hold {self.currency}",
                "the pass is in another currency than the connection",
            )
        if found.service_id is None or found.payment_method_id is None:
            raise _not_debited(
                status.UNREADABLE,
                "the provider's answer about the card lacks what a debit needs",
                "a pass without service or payment method",
            )
        return (
            (wire.PASS_ID, found.pass_id),
            (wire.SERVICE_ID, str(found.service_id)),
            (wire.PAYMENT_METHOD_ID, str(found.payment_method_id)),
            (wire.BALANCE_MINOR, str(found.balance.minor)),
        )

    async def debit(self, send: Send) -> Executed:
        """A debit of the prepared pass, by a request that carries the outbound id as ticket.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for a 200 that proves nothing.
        """
        order = send.order
        asked = order.asked
        assert isinstance(asked, Money), "the contract asks for money"
        pass_id = order.find_prepared(wire.PASS_ID)
        is_too_little = int(order.find_prepared(wire.BALANCE_MINOR)) < asked.minor
        sale_text = clean(order.sale.ticket_number, order.account_id) or "-"
        call = VendorCall(
            operation=order.operation,
            method="POST",
            route=wire.DEBIT,
            request_text=(
                f"POST {wire.DEBIT}: {asked} on {mask_account_id(order.account_id)}, "
                f"ticket number {sale_text}, ticket {send.outbound_id}"
            ),
            headers=(("content-type", "application/json"),),
            body=wire.encode_debit(order, send.outbound_id),
            fault=send.fault,
        )

        def read(answer: HttpAnswer) -> Executed:
            document = read_document(answer)
            try:
                receipt = DIALECT.read(
                    call,
                    order.account_id,
                    document,
                    lambda: wire.decode_debit(
                        document,
                        send.outbound_id,
                        order.account_id,
                        pass_id,
                        self.currency,
                        datetime.now(UTC),
                    ),
                )
            except ProviderError as error:
                if error.status is not status.REJECTED or not is_too_little:
                    raise
                raise DIALECT.refuse(
                    status.TOO_LITTLE,
                    describe_row(status.TOO_LITTLE, order.operation),
                    f"{error.provider_code}, and the pass was seen to hold less",
                    call,
                    order.account_id,
                    document,
                    error.provider_code,
                ) from error
            return Executed(
                receipt,
                http_status=answer.status,
                rule=f"{self.provider}: 200 that carries our ticket",
                request_text=call.request_text,
                answer_text=DIALECT.show(document, order.account_id),
            )

        return await self._exchange(call, read)

    async def prove(self, promise: str) -> str:
        """Debits 0.01 of the proof card twice with one ticket and looks for one effect.

        Raises:
            ProviderError: the vendor could not be asked.
            NotShown: there is no proof card, or it holds too little.
            LookupError: the promise does not hold.
        """
        if promise != TICKET_ID_DEDUPES:
            raise NotShown(f"{self.provider} makes no promise called {promise}")
        settings = self._settings
        point_of_sale_id = settings.proof_point_of_sale_id
        if point_of_sale_id is None:
            point_of_sale_id = settings.point_of_sale_id
        if not settings.proof_card or point_of_sale_id is None:
            raise NotShown(
                "the settings proof_card and proof_point_of_sale_id name no card and no point of "
                "sale to prove this with"
            )
        order = Order(
            Operation.DEBIT_BALANCE,
            settings.proof_card,
            Money(self.currency, PROOF_MINOR),
            sale=Sale(
                ticket_number="promise-proof",
                point_of_sale_id=str(point_of_sale_id),
                device_id=settings.proof_device_id,
            ),
            entry_mode=settings.proof_entry_mode,
        )
        prepared = await self.prepare(order)
        order = replace(order, prepared=prepared)
        before_minor = int(order.find_prepared(wire.BALANCE_MINOR))
        if before_minor < 2 * PROOF_MINOR:
            raise NotShown("the proof card holds too little to be debited twice")
        ticket = str(uuid.uuid4())
        first = await self.debit(Send(order, ticket, 1))
        try:
            second = await self.debit(Send(order, ticket, 2))
        except ProviderError as error:
            if not error.status.is_refusal:
                raise
            # The code of the refusal is that of any invalid request: it could never show that
            # an earlier attempt was executed, so recovery could not go by it.
            raise LookupError(
                f"the same debit sent twice with one ticket was refused the second time with "
                f"{error.provider_code}, which does not tell a repeat from an invalid request"
            ) from error
        after_minor = int(dict(await self.prepare(order))[wire.BALANCE_MINOR])
        taken = Money(self.currency, before_minor - after_minor)
        if taken.minor != PROOF_MINOR or first.receipt.references != second.receipt.references:
            raise LookupError(
                f"a debit of {order.asked} sent twice with one ticket took {taken} off the card, "
                f"and the two answers name "
                f"{'the same' if first.receipt.references == second.receipt.references else 'two'}"
                " numbers"
            )
        return (
            f"a debit of {order.asked} on {mask_account_id(settings.proof_card)} was sent twice "
            f"with ticket {ticket}: both were answered alike, and the card holds {taken} less"
        )

    async def check(self) -> Check:
        """Looks for the proof card, or for a number that no card has: an answer about it shows
        that the credentials are right.

        Never raises ProviderError: it is what the check tells.
        """
        return await check_connection(
            lambda: self._find_pass(
                Operation.SEARCH_CARDS,
                self._settings.proof_entry_mode,
                self._settings.proof_card or CHECKED_CARD,
                self._settings.scope,
            ),
            self._connection,
            proving=(Reason.ACCOUNT_NOT_FOUND,),
        )

    async def close(self) -> None:
        """Ends every connection to the vendor."""
        await self._connection.close()
        await self._auth.close()

    def _scope(self, search: Search) -> Scope:
        """The scope of a search, or the connection's own where it has none."""
        if search.group_id:
            return Scope(group_id=_whole("group_id", search.group_id))
        if search.store_id or search.point_of_sale_id:
            return Scope(
                store_id=_whole("store.store_id", search.store_id),
                point_of_sale_id=_whole("store.point_of_sale_id", search.point_of_sale_id),
            )
        return self._settings.scope

    async def _find_pass(
        self,
        operation: Operation,
        entry_mode: EntryMode | None,
        value: str,
        scope: Scope,
        fault: str = "",
    ) -> Pass:
        mode = entry_mode or wire.DEFAULT_ENTRY_MODE
        if mode not in wire.SEARCH_MODES:
            raise _invalid(
                "the provider looks for a scanned barcode, an NFC number or a keyed number, and "
                "not for a magnetic stripe"
            )
        call = VendorCall(
            operation=operation,
            method="GET",
            route=wire.CARDS,
            request_text=f"GET {wire.CARDS}, {wire.SEARCH_MODES[mode]}",
            query=wire.encode_search(mode, value, scope),
            is_side_call=True,
            fault=fault,
        )

        def read(answer: HttpAnswer) -> Pass:
            document = read_document(answer)
            return DIALECT.read(call, value, document, lambda: wire.decode_pass(document))

        return await self._exchange(call, read)

    async def _exchange(self, call: VendorCall, read: Callable[[HttpAnswer], Answered]) -> Answered:
        """One exchange with a token; with a new one once more where the token was refused."""
        faults = iter((call.fault,))

        def send(token: str) -> Awaitable[Answered]:
            headers = (*call.headers, ("authorization", wire.encode_bearer(token)))
            # A fault is wished for once: the second try shows how the gateway gets over it.
            return self._connection.exchange(
                replace(call, headers=headers, fault=next(faults, "")), read
            )

        return await self._tokens.send(send)

    async def _fetch_token(self) -> Token:
        call = VendorCall(
            operation=Operation.SEARCH_CARDS,
            method="POST",
            route=wire.TOKEN,
            request_text=f"POST {wire.TOKEN}",
            headers=(
                ("authorization", self._credentials),
                ("content-type", "application/json"),
            ),
            body=wire.encode_token_request(self._settings.token_scopes),
            is_side_call=True,
        )

        def read(answer: HttpAnswer) -> Token:
            document = read_document(answer)
            # The token ends by the vendor's clock, so that is the one to count by.
            now = datetime.now(UTC) + timedelta(seconds=self._auth.clock_skew_s or 0)
            token, life = DIALECT.read(call, "", document, lambda: wire.decode_token(document, now))
            return Token(token, life.total_seconds())

        return await self._auth.exchange(call, read)


def open_adapter(connection: str, settings: Mapping[str, Any], profile: str) -> CardsapiAdapter:
    """The adapter for one section of the configuration.

    Raises:
        AdapterSettingsError: naming each setting that cannot be used.
    """
    is_sandbox = profile == "sandbox"
    checked = read_settings(Settings, settings, profile=profile)
    try:
        auth_url = check_base_url(checked.auth_url, is_sandbox=is_sandbox)
    except ValueError as error:
        raise AdapterSettingsError((f"auth_url: {error}",)) from None
    if CURRENCY_EXPONENTS.get(checked.currency) != wire.MINOR_DIGITS:
        raise AdapterSettingsError(("currency: must be an ISO 4217 code with two decimals",))
    client_id = read_secret("client_id", checked.client_id, checked.client_id_file)
    if ":" in client_id:
        # Basic authentication ends the name at the first colon.
        raise AdapterSettingsError(("client_id: must not hold a colon",))
    access_token = read_secret("access_token", checked.access_token, checked.access_token_file)
    return CardsapiAdapter(
        open_connection(connection, checked, is_sandbox=is_sandbox),
        open_connection(connection, checked, is_sandbox=is_sandbox, base_url=auth_url),
        checked,
        client_id,
        access_token,
    )


def _whole(name: str, text: str) -> int:
    number = wire.read_integer(text)
    if number is None:
        raise _invalid(f"{name} has to be a whole number for this provider")
    return number


def _invalid(message: str) -> ProviderError:
    return _not_debited(status.INVALID, message, "the provider has no words for the request")


def _not_debited(row: StatusRow, message: str, rule: str) -> ProviderError:
    """A refusal of ours, made before anything with an effect was sent."""
    return ProviderError(row, message, rule=f"{DIALECT.provider}: {rule}")
