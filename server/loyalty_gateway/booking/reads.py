"""Reads at a vendor, and lists of our own bookings; nothing here has an effect."""

import asyncio
import json
import re
import time
from dataclasses import asdict, replace

from loyalty_gateway.booking.answers import MESSAGES, adapters_words
from loyalty_gateway.booking.calls import (
    BookingFilter,
    Capability,
    ConnectionCheck,
    ConnectionFacts,
    ReadAnswer,
    ReadCall,
    SeenAccount,
    SortOrder,
)
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.gate import open_account, refuse_gaps, refuse_paused
from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.booking import Booking
from loyalty_gateway.domain.errors import LoyaltyError, Reason, Violation
from loyalty_gateway.domain.operations import (
    AccountKind,
    CardFacts,
    CardPage,
    Found,
    ItemPage,
    LinkedAccounts,
    Operation,
    TransactionPage,
)
from loyalty_gateway.journal.journal import Journal, ListQuery
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.providers.port import Lookup, Offer, ProviderError, Read, Search

RETRY_USEFUL = frozenset(
    {Reason.PROVIDER_UNREACHABLE, Reason.PROVIDER_INTERNAL, Reason.PROVIDER_ANSWER_UNREADABLE}
)
RETRY_S = 1.0
_PAGES = (TransactionPage, CardPage, ItemPage, LinkedAccounts)

_READ_MESSAGES: dict[Reason, str] = {
    Reason.ACCOUNT_NOT_FOUND: "The vendor does not know this account.",
    Reason.ACCOUNT_NOT_ACTIVE: "The account is blocked or not active.",
    Reason.PROVIDER_REJECTED_ARGUMENT: "The vendor refused the content of the request.",
    Reason.PROVIDER_UNREACHABLE: "The vendor could not be reached.",
    Reason.PROVIDER_INTERNAL: "The vendor failed, or did not answer in time.",
    Reason.PROVIDER_ANSWER_UNREADABLE: "The vendor's answer could not be understood.",
    Reason.NOT_FOUND: "The vendor does not know what was asked for.",
    Reason.PROVIDER_RATE_LIMITED: "The vendor's rate limit is spent.",
    Reason.CODE_INVALID: "The code is not the one that was sent.",
    Reason.CODE_EXPIRED: "The code has expired or is used up; have a new one sent.",
    Reason.REQUEST_INVALID: "This vendor cannot be asked that.",
}


class Reads:
    """What callers may ask without moving anything."""

    def __init__(
        self,
        journal: Journal,
        keyring: Keyring,
        connections: Connections,
        attempt_total_s: float,
    ) -> None:
        self._journal = journal
        self._keyring = keyring
        self._connections = connections
        self._attempt_total_s = attempt_total_s

    async def read(self, call: ReadCall) -> ReadAnswer:
        """Asks a vendor once; a read is never repeated by us.

        A page token belongs to the exact question, but for the size of the page. A search that
        finds nobody is an empty page, however the vendor says it.

        Raises:
            LoyaltyError: the reasons of docs/errors.md for reads, without an outcome.
        """
        link = self._connections.get(call.account.connection)
        offer = self._connections.offer(link, call.operation)
        refuse_paused(link)
        refuse_gaps(link, offer, call.filled_fields)
        account_id = ""
        if call.search is None:
            account_id = open_account(self._keyring, call.tenant, call.account)
        cursor = ""
        if call.page_token:
            cursor = self._cursor(call.tenant, _query(call, account_id), call.page_token)
        found = await self._ask(link, offer, _lookup(call, account_id, cursor), call.deadline)
        next_page_token = ""
        if isinstance(found, _PAGES) and found.next_cursor:
            query = _query(call, account_id)
            next_page_token = self._keyring.page_token(call.tenant, query, found.next_cursor)
        names: dict[str, str] = {}
        if isinstance(found, TransactionPage):
            names = await self._journal.names_of(
                call.tenant,
                link.connection,
                [entry.outbound_id for entry in found.transactions if entry.outbound_id],
            )
            names |= await self._journal.names_behind(
                call.tenant,
                link.connection,
                [entry.booked_as for entry in found.transactions if entry.booked_as],
            )
        if call.search is not None:
            found, accounts = self._found_cards(call, link, found)
            return ReadAnswer(
                connection=link.connection,
                account_token="",
                masked_id="",
                found=found,
                next_page_token=next_page_token,
                accounts=accounts,
            )
        if isinstance(found, CardFacts):
            found = _without_number(found, account_id)
        return ReadAnswer(
            connection=link.connection,
            account_token=self._keyring.token(call.tenant, link.connection, account_id),
            masked_id=mask_account_id(account_id),
            found=found,
            next_page_token=next_page_token,
            booking_names=names,
        )

    async def _ask(self, link: Link, offer: Offer, lookup: Lookup, deadline: float) -> Found:
        read: Read = offer.call  # type: ignore[assignment]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + self._attempt_total_s)):
                found = await read(lookup)
        except ProviderError as error:
            link.saw(error.status.reason)
            is_search = lookup.operation is Operation.SEARCH_CARDS
            if is_search and error.status.reason is Reason.ACCOUNT_NOT_FOUND:
                return CardPage(())
            raise read_error(error, link) from error
        except TimeoutError as error:
            link.saw(Reason.PROVIDER_INTERNAL)
            raise failed(Reason.PROVIDER_INTERNAL, link, retry_after_s=RETRY_S) from error
        link.saw(None)
        return found

    def _found_cards(
        self, call: ReadCall, link: Link, found: Found
    ) -> tuple[CardPage, dict[str, SeenAccount]]:
        """What a search found, free of the number that was scanned, with the accounts to show."""
        assert isinstance(found, CardPage) and call.search is not None
        cards = tuple(
            _without_number(_without_number(card, card.account_id), call.search.scan_value)
            for card in found.cards
        )
        accounts = {
            card.account_id: seen_account(
                self._keyring, call.tenant, link.connection, card.account_id, card.kind
            )
            for card in cards
        }
        return CardPage(cards, found.next_cursor), accounts

    async def check(self, tenant: str, connection: str) -> ConnectionCheck:
        """Asks the vendor something harmless; what is wrong is in the answer.

        Raises:
            LoyaltyError: CONNECTION_NOT_FOUND.
        """
        link = self._connections.get(connection)
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(self._attempt_total_s):
                check = await link.adapter.check()
        except TimeoutError:
            link.saw(Reason.PROVIDER_INTERNAL)
            return ConnectionCheck(
                is_reachable=False,
                are_credentials_accepted=False,
                latency_s=time.monotonic() - started_s,
                error=failed(Reason.PROVIDER_INTERNAL, link, retry_after_s=RETRY_S),
            )
        link.saw(None if check.error is None else check.error.status.reason)
        return ConnectionCheck(
            is_reachable=check.is_reachable,
            are_credentials_accepted=check.are_credentials_accepted,
            latency_s=check.latency_s,
            clock_skew_s=check.clock_skew_s,
            error=None if check.error is None else read_error(check.error, link),
        )

    def _cursor(self, tenant: str, query: str, page_token: str) -> str:
        try:
            return self._keyring.open_page_token(tenant, query, page_token)
        except LookupError as error:
            raise LoyaltyError(
                Reason.REQUEST_INVALID,
                "page.page_token does not belong to this request; begin without one.",
                violations=(Violation("page.page_token", "is not a token of this very request"),),
            ) from error

    async def list(self, tenant: str, wanted: BookingFilter) -> tuple[tuple[Booking, ...], str]:
        """A page of the tenant's bookings and the token of the next one, empty at the end."""
        account_hash = b""
        if wanted.account is not None:
            account_id = open_account(self._keyring, tenant, wanted.account)
            account_hash = self._keyring.account_hash(tenant, wanted.account.connection, account_id)
        by_settle = wanted.order is SortOrder.SETTLE_ASC
        query = "/".join(
            [
                ",".join(sorted(wanted.states)),
                wanted.connection,
                wanted.incident,
                wanted.operation or "",
                account_hash.hex(),
                str(wanted.created_from),
                str(wanted.created_before),
                str(wanted.settled_from),
                str(wanted.settled_before),
                wanted.order,
            ]
        )
        after = None
        if wanted.page_token:
            time, _, last_id = self._cursor(tenant, query, wanted.page_token).partition(",")
            after = (int(time), last_id)
        page = await self._journal.list(
            ListQuery(
                tenant=tenant,
                states=wanted.states,
                connection=wanted.connection,
                incident=wanted.incident,
                operation=wanted.operation or "",
                account_hash=account_hash,
                created_from=wanted.created_from,
                created_before=wanted.created_before,
                settled_from=wanted.settled_from,
                settled_before=wanted.settled_before,
                by_settle_time=by_settle,
                after=after,
                limit=wanted.page_size,
            )
        )
        token = ""
        if page.next is not None:
            time_us, booking_id = page.next
            token = self._keyring.page_token(tenant, query, f"{time_us},{booking_id}")
        return tuple(page.bookings), token

    async def connections(self, tenant: str) -> tuple[ConnectionFacts, ...]:
        """The tenant's connections and how they fare."""
        counts: dict[str, int] = {}
        for row in await self._journal.unresolved(tenant):
            counts[row.connection] = counts.get(row.connection, 0) + row.count
        return tuple(
            ConnectionFacts(
                link.connection,
                link.adapter.provider,
                link.adapter.display_name,
                link.state,
                counts.get(link.connection, 0),
            )
            for link in self._connections
        )

    async def capabilities(self, tenant: str, connection: str) -> tuple[Capability, ...]:
        """What a connection can do, for every operation that reaches a vendor."""
        link = self._connections.get(connection)
        return tuple(link.capability(operation) for operation in Operation)


def seen_account(
    keyring: Keyring, tenant: str, connection: str, account_id: str, kind: AccountKind | None
) -> SeenAccount:
    """An account that a vendor named, as its caller may see it."""
    return SeenAccount(
        connection,
        keyring.token(tenant, connection, account_id),
        mask_account_id(account_id),
        kind,
    )


def read_error(error: ProviderError, link: Link) -> LoyaltyError:
    """What a caller is told of a question that a vendor did not answer."""
    reason = error.status.reason
    retry_after_s = error.retry_after_s
    if retry_after_s is None and reason in RETRY_USEFUL:
        retry_after_s = RETRY_S
    told = failed(reason, link, provider_code=error.provider_code, retry_after_s=retry_after_s)
    told.message = adapters_words(reason, error.message) or told.message
    return told


def failed(
    reason: Reason, link: Link, *, provider_code: str = "", retry_after_s: float | None = None
) -> LoyaltyError:
    """The error of a question with our words for the reason; nothing of a booking is in it."""
    message = _READ_MESSAGES.get(reason) or MESSAGES.get(reason) or "The vendor did not answer."
    return LoyaltyError(
        reason,
        message.replace("; nothing was booked", ""),
        connection=link.connection,
        provider=link.adapter.provider,
        provider_code=provider_code,
        retry_after_s=retry_after_s,
    )


def _query(call: ReadCall, account_id: str) -> str:
    """Everything that makes two pages answers to the same question."""
    search = () if call.search is None else asdict(call.search).values()
    parts = [
        *(call.operation, call.account.connection, account_id, call.start, call.end),
        *(call.transaction_reference, call.year, *search),
    ]
    return json.dumps([None if part is None else str(part) for part in parts])


def _lookup(call: ReadCall, account_id: str, cursor: str) -> Lookup:
    return Lookup(
        call.operation,
        account_id,
        start=call.start,
        end=call.end,
        page_size=call.page_size,
        cursor=cursor,
        entry_mode=call.account.entry_mode,
        search=None if call.search is None else Search(**asdict(call.search)),
        transaction_reference=call.transaction_reference,
        year=call.year,
        fault=call.fault,
    )


def _without_number(card: CardFacts, number: str) -> CardFacts:
    """The card with a number masked in its further facts: a number that was sent is not echoed.

    Only a whole word is masked, since a short number may stand in any other by chance.
    """
    if not number or not any(number in value for _, value in card.attributes):
        return card
    shown = mask_account_id(number)
    word = re.compile(rf"(?<!\w){re.escape(number)}(?!\w)")
    return replace(
        card,
        attributes=tuple((name, word.sub(shown, value)) for name, value in card.attributes),
    )
