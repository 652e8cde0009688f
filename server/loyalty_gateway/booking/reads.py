"""Reads at a vendor, and lists of our own bookings; nothing here has an effect."""

import asyncio

from loyalty_gateway.booking.answers import MESSAGES
from loyalty_gateway.booking.calls import (
    AccountKey,
    BookingFilter,
    Capability,
    ConnectionFacts,
    ReadAnswer,
    ReadCall,
    SortOrder,
)
from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.booking import Booking
from loyalty_gateway.domain.errors import LoyaltyError, Reason, Violation
from loyalty_gateway.domain.operations import Operation, TransactionPage
from loyalty_gateway.journal.journal import Journal, ListQuery
from loyalty_gateway.journal.rows import to_us
from loyalty_gateway.journal.sealing import Keyring
from loyalty_gateway.providers.port import Lookup, ProviderError, Read

_RETRY_USEFUL = frozenset(
    {Reason.PROVIDER_UNREACHABLE, Reason.PROVIDER_INTERNAL, Reason.PROVIDER_ANSWER_UNREADABLE}
)
_RETRY_S = 1.0

_READ_MESSAGES: dict[Reason, str] = {
    Reason.ACCOUNT_NOT_FOUND: "The vendor does not know this account.",
    Reason.ACCOUNT_NOT_ACTIVE: "The account is blocked or not active.",
    Reason.PROVIDER_REJECTED_ARGUMENT: "The vendor refused the content of the request.",
    Reason.PROVIDER_UNREACHABLE: "The vendor could not be reached.",
    Reason.PROVIDER_INTERNAL: "The vendor failed, or did not answer in time.",
    Reason.PROVIDER_ANSWER_UNREADABLE: "The vendor's answer could not be understood.",
    Reason.PROVIDER_RATE_LIMITED: "The vendor's rate limit is spent.",
    Reason.REQUEST_INVALID: "The interval holds more than this vendor can be asked for at once;"
    " ask for a shorter one.",
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

        Raises:
            LoyaltyError: the reasons of docs/errors.md for reads, without an outcome.
        """
        link = self._connections.get(call.account.connection)
        offer = self._connections.offer(link, call.operation)
        if link.is_paused:
            raise LoyaltyError(
                Reason.CONNECTION_PAUSED,
                "An operator has paused this connection.",
                connection=link.connection,
                provider=link.adapter.provider,
            )
        account_id = self._account_id(call.tenant, call.account, "account.token")
        query = f"{call.operation}/{link.connection}/{account_id}/{call.start}/{call.end}"
        cursor = ""
        if call.page_token:
            cursor = self._cursor(call.tenant, query, call.page_token)
        lookup = Lookup(
            call.operation,
            account_id,
            start=call.start,
            end=call.end,
            page_size=call.page_size,
            cursor=cursor,
            fault=call.fault,
        )
        read: Read = offer.call  # type: ignore[assignment]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(call.deadline, loop.time() + self._attempt_total_s)):
                found = await read(lookup)
        except ProviderError as error:
            link.saw(error.status.reason)
            raise _read_error(error, link) from error
        except TimeoutError as error:
            link.saw(Reason.PROVIDER_INTERNAL)
            raise _failed(Reason.PROVIDER_INTERNAL, link, "", _RETRY_S) from error
        link.saw(None)
        next_page_token = ""
        names: dict[str, str] = {}
        if isinstance(found, TransactionPage):
            if found.next_cursor:
                next_page_token = self._keyring.page_token(call.tenant, query, found.next_cursor)
            names = await self._journal.names_of(
                call.tenant,
                link.connection,
                [entry.outbound_id for entry in found.transactions if entry.outbound_id],
            )
        return ReadAnswer(
            connection=link.connection,
            account_token=self._keyring.token(call.tenant, link.connection, account_id),
            masked_id=mask_account_id(account_id),
            found=found,
            next_page_token=next_page_token,
            booking_names=names,
        )

    def _account_id(self, tenant: str, account: AccountKey, field: str) -> str:
        if account.plain_id:
            return account.plain_id
        try:
            return self._keyring.open_token(tenant, account.connection, account.token)
        except LookupError as error:
            raise LoyaltyError(
                Reason.REQUEST_INVALID,
                f"{field} is not a token of this connection.",
                violations=(Violation(field, "is not a token of this connection"),),
            ) from error

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
            account_id = self._account_id(tenant, wanted.account, "account.token")
            account_hash = self._keyring.account_hash(tenant, wanted.account.connection, account_id)
        by_settle = wanted.order is SortOrder.SETTLE_ASC
        query = "/".join(
            [
                ",".join(sorted(wanted.states)),
                wanted.connection,
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
            time_us, _, booking_id = self._cursor(tenant, query, wanted.page_token).partition(",")
            after = (int(time_us), booking_id)
        found = await self._journal.list(
            ListQuery(
                tenant=tenant,
                states=wanted.states,
                connection=wanted.connection,
                operation=wanted.operation or "",
                account_hash=account_hash,
                created_from=wanted.created_from,
                created_before=wanted.created_before,
                settled_from=wanted.settled_from,
                settled_before=wanted.settled_before,
                by_settle_time=by_settle,
                after=after,
                limit=wanted.page_size + 1,
            )
        )
        page = tuple(found[: wanted.page_size])
        if len(found) <= wanted.page_size:
            return page, ""
        last = page[-1]
        time_us_last = to_us(last.settle_time if by_settle else last.create_time)
        return page, self._keyring.page_token(tenant, query, f"{time_us_last},{last.booking_id}")

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


def _read_error(error: ProviderError, link: Link) -> LoyaltyError:
    reason = error.status.reason
    retry_after_s = error.retry_after_s
    if retry_after_s is None and reason in _RETRY_USEFUL:
        retry_after_s = _RETRY_S
    return _failed(reason, link, error.provider_code, retry_after_s)


def _failed(
    reason: Reason, link: Link, provider_code: str, retry_after_s: float | None
) -> LoyaltyError:
    message = _READ_MESSAGES.get(reason) or MESSAGES.get(reason) or "The vendor did not answer."
    return LoyaltyError(
        reason,
        message.replace("; nothing was booked", ""),
        connection=link.connection,
        provider=link.adapter.provider,
        provider_code=provider_code,
        retry_after_s=retry_after_s,
    )
