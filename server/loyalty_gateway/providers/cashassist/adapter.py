"""CashAssist's verbs as the port wants them; it never retries, stores or decides on a booking."""

import hashlib
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import Field, SecretStr

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.amounts import CURRENCY_EXPONENTS, Money
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import (
    CardFacts,
    Operation,
    Order,
    PointsStatement,
    RecoveryMode,
    Sale,
    Support,
    Transaction,
    TransactionKind,
    TransactionPage,
)
from loyalty_gateway.providers.answers import Dialect, Document, read_document
from loyalty_gateway.providers.cashassist import status, wire
from loyalty_gateway.providers.cashassist.wire import HistoryPage
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
from loyalty_gateway.providers.port import (
    Check,
    Executed,
    Lookup,
    NotShown,
    Offer,
    PromiseFacts,
    ProviderError,
    Send,
    Way,
)

Found = TypeVar("Found")

RESEND_IS_SAFE: Final = "resend_is_safe"
STATEMENT_PAGES_MAX: Final = 20
PROOF_MINOR: Final = 1
CHECKED_CARD: Final = "0"
"""A card that nobody has; asking for it shows whether the key is accepted."""

DIALECT: Final = Dialect(
    provider="cashassist",
    status=status.STATUS,
    default=status.DEFAULT,
    unreadable=status.UNREADABLE,
    documented=status.DOCUMENTED,
    find_code=wire.decode_error_code,
    describe=wire.describe,
)


class Settings(ConnectionSettings):
    """What an operator sets for a connection to CashAssist."""

    api_key: SecretStr | None = Field(default=None, repr=False)
    api_key_file: Path | None = None
    currency: str = "CHF"
    """The currency of every account behind this key; the vendor's answers may not name it."""
    proof_card: str = Field(default="", max_length=64, repr=False)
    """A card that promises may be proven on; each proof leaves a top-up of 0.01 on it."""


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
    }
    unsupported_notes: Mapping[Operation, str] = {}

    def __init__(self, connection: Connection, settings: Settings, api_key: str) -> None:
        self.currency = settings.currency
        credential = hashlib.sha256(b"cashassist api key: " + api_key.encode()).hexdigest()[:16]
        self.target = f"{settings.base_url}|{credential}"
        self.operations: Mapping[Operation, Offer] = {
            Operation.GET_CARD: Offer(self.get_card),
            Operation.GET_BALANCE: Offer(self.get_card),
            Operation.LIST_TRANSACTIONS: Offer(self.list_transactions),
            Operation.GET_POINTS_STATEMENT: Offer(self.get_points_statement, Support.EMULATED),
            **{
                operation: Offer(self.book, ways=(Way(RecoveryMode.SAFE_RESEND, RESEND_IS_SAFE),))
                for operation in wire.ROUTES
            },
        }
        self._connection = connection
        self._headers = ((wire.API_KEY_HEADER, api_key),)
        self._proof_card = settings.proof_card

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
                *self._headers,
                ("content-type", "application/json"),
                (wire.KEY_HEADER, send.outbound_id),
            ),
            body=body,
            fault=send.fault,
        )

        def read(answer: HttpAnswer) -> Executed:
            document = read_document(answer)
            receipt = DIALECT.read(
                call,
                order.account_id,
                document,
                lambda: wire.decode_booking(
                    document,
                    order.operation,
                    order.account_id,
                    asked,
                    send.outbound_id,
                    self.currency,
                ),
            )
            return Executed(
                receipt,
                http_status=answer.status,
                rule="cashassist: 200, complete, and the echo fits",
                request_text=call.request_text,
                answer_text=DIALECT.show(document, order.account_id),
            )

        return await self._connection.exchange(call, read)

    async def get_card(self, lookup: Lookup) -> CardFacts:
        """The card with both its balances.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for an unreadable answer.
        """
        return await self._get(
            lookup,
            wire.INFO,
            (),
            lambda document: wire.decode_card(
                document, lookup.account_id, self.currency, datetime.now(UTC)
            ),
        )

    async def list_transactions(self, lookup: Lookup) -> TransactionPage:
        """One page of history; the cursor is the vendor's own.

        Raises:
            ProviderError: by the TRANSPORT or STATUS table, or for an unreadable answer.
        """
        return (await self._get_history(lookup)).page

    async def get_points_statement(self, lookup: Lookup) -> PointsStatement:
        """Sums over [start, end), added up from at most 20 of the vendor's pages.

        Raises:
            ProviderError: as for a page of history; REQUEST_INVALID for a longer interval.
        """
        transactions: list[Transaction] = []
        points_after: list[int] = []
        cursor = ""
        for _ in range(STATEMENT_PAGES_MAX):
            history = await self._get_history(
                Lookup(
                    lookup.operation,
                    lookup.account_id,
                    start=lookup.start,
                    end=lookup.end,
                    page_size=wire.PAGE_MAX,
                    cursor=cursor,
                    fault=lookup.fault if not cursor else "",
                )
            )
            transactions.extend(history.page.transactions)
            points_after.extend(history.points_after)
            cursor = history.page.next_cursor
            if not cursor:
                return _statement(transactions, points_after)
        raise ProviderError(
            status.TOO_LONG,
            f"the interval spans more than {STATEMENT_PAGES_MAX} pages of the provider's history; "
            "ask for a shorter one",
            rule=f"a statement is made of at most {STATEMENT_PAGES_MAX} pages",
        )

    async def prove(self, promise: str) -> str:
        """Books 0.01 on the proof card twice with one key and looks for one effect.

        Raises:
            ProviderError: the vendor could not be asked.
            NotShown: there is no proof card.
            LookupError: the promise does not hold.
        """
        if promise != RESEND_IS_SAFE:
            raise NotShown(f"{self.provider} makes no promise called {promise}")
        if not self._proof_card:
            raise NotShown("the setting proof_card names no card to prove this on")
        order = Order(
            Operation.TOP_UP_BALANCE,
            self._proof_card,
            Money(self.currency, PROOF_MINOR),
            sale=Sale(ticket_number="promise-proof"),
        )
        key = str(uuid.uuid4())
        first = (await self.book(Send(order, key, 1))).receipt
        second = (await self.book(Send(order, key, 2))).receipt
        history = await self._get_history(
            Lookup(Operation.LIST_TRANSACTIONS, self._proof_card), (("idempotencyKey", key),)
        )
        effects = [line.reference for line in history.page.transactions]
        number = first.references[0].value
        if not second.is_replay or second.references != first.references or effects != [number]:
            raise LookupError(
                f"the same top-up sent twice with one key was answered with {number} and "
                f"{second.references[0].value}, the second "
                f"{'marked' if second.is_replay else 'not marked'} as a replay; "
                f"the history holds {len(effects)} bookings of that key"
            )
        return (
            f"a top-up of {order.asked} on {mask_account_id(self._proof_card)} was sent twice "
            f"with key {key}: both answers name {number}, the second as a replay, and the "
            "history holds it once"
        )

    async def check(self) -> Check:
        """Reads the proof card, or one that cannot exist: an answer about it shows the key right.

        Never raises ProviderError: it is what the check tells.
        """
        return await check_connection(
            lambda: self.get_card(Lookup(Operation.GET_CARD, self._proof_card or CHECKED_CARD)),
            self._connection,
            proving=(Reason.ACCOUNT_NOT_FOUND, Reason.ACCOUNT_NOT_ACTIVE),
        )

    async def close(self) -> None:
        """Ends every connection to the vendor."""
        await self._connection.close()

    async def _get_history(
        self, lookup: Lookup, more: tuple[tuple[str, str], ...] = ()
    ) -> HistoryPage:
        query: list[tuple[str, str]] = [("limit", str(min(lookup.page_size, wire.PAGE_MAX)))]
        if lookup.start is not None:
            query.append(("from", wire.encode_time(lookup.start)))
        if lookup.end is not None:
            query.append(("to", wire.encode_time(lookup.end)))
        if lookup.cursor:
            query.append(("cursor", lookup.cursor))
        return await self._get(
            lookup,
            wire.TRANSACTIONS,
            (*query, *more),
            lambda document: wire.decode_transactions(
                document, lookup.account_id, self.currency
            ).within(lookup.start, lookup.end),
        )

    async def _get(
        self,
        lookup: Lookup,
        route: str,
        query: tuple[tuple[str, str], ...],
        decode: Callable[[Document], Found],
    ) -> Found:
        call = VendorCall(
            operation=lookup.operation,
            method="GET",
            route=route,
            request_text=f"GET {route}",
            query=(("id", lookup.account_id), *query),
            headers=self._headers,
            fault=lookup.fault,
        )

        def read(answer: HttpAnswer) -> Found:
            document = read_document(answer)
            return DIALECT.read(call, lookup.account_id, document, lambda: decode(document))

        return await self._connection.exchange(call, read)


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


def _statement(transactions: list[Transaction], points_after: list[int]) -> PointsStatement:
    """The sums of a whole interval, newest line first.

    What the vendor leaves out stays unknown: where one line does not tell its points no sum is
    known, and the opening is told only where it explains the closing.
    """
    if not transactions:
        return PointsStatement(earned=0, redeemed=0, other=0)
    closing = _non_negative(points_after[0])
    earned = redeemed = other = 0
    moved = 0
    for line in transactions:
        if line.points is None:
            return PointsStatement(closing=closing)
        moved += line.points
        if line.kind is TransactionKind.CORRECTION or line.kind is TransactionKind.OTHER:
            other += abs(line.points)
        elif line.points >= 0:
            earned += line.points
        else:
            redeemed -= line.points
    oldest = transactions[-1].points
    assert oldest is not None, "every line told its points"
    opening = points_after[-1] - oldest
    return PointsStatement(
        opening=_non_negative(opening) if opening + moved == points_after[0] else None,
        earned=earned,
        redeemed=redeemed,
        other=other,
        closing=closing,
    )


def _non_negative(points: int) -> int | None:
    return points if points >= 0 else None
