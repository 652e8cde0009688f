"""A vendor's access token: fetched once for all who wait, renewed before it ends, never shown.

It knows no vendor and decides nothing: what it sends again is only what a vendor has refused
for its token, before it looked at anything else.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.providers.port import ProviderError, StatusRow

Answered = TypeVar("Answered")

RENEW_AT: Final = 0.8
"""The share of its life after which a token is renewed before use."""

REJECTED_AGAIN_S: Final = 1.0
"""A token younger than this that is refused is not renewed: another one would fare no better."""

_OWN_REASONS: Final = frozenset(
    {
        Reason.PROVIDER_CREDENTIALS_REJECTED,
        Reason.PROVIDER_ACCESS_DENIED,
        Reason.PROVIDER_RATE_LIMITED,
        Reason.ADAPTER_ROUTE_INVALID,
    }
)


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and how long it holds from now on."""

    value: str = field(repr=False)
    lifetime_s: float


class TokenCache:
    """The token of one credential; lives in memory only."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Token]],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._now = now
        self._token: Token | None = None
        self._fetched_s = 0.0
        self._fetching: asyncio.Task[Token] | None = None

    async def get(self) -> str:
        """A token that should hold; everybody who waits for a new one waits for the same.

        Raises:
            ProviderError: the token could not be had, so nothing else was sent (NOT_EXECUTED).
        """
        token = self._token
        if token is not None and self._now() < self._fetched_s + RENEW_AT * token.lifetime_s:
            return token.value
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._renew())
            self._fetching.add_done_callback(self._fetched)
        # The fetch belongs to all who wait: one of them leaving must not end it.
        return (await asyncio.shield(self._fetching)).value

    def reject(self, value: str) -> None:
        """The vendor refused this token; one that was renewed meanwhile stays."""
        is_young = self._now() - self._fetched_s < REJECTED_AGAIN_S
        if self._token is not None and self._token.value == value and not is_young:
            self._token = None

    async def send(self, send: Callable[[str], Awaitable[Answered]]) -> Answered:
        """What `send` returns with a token; sent once more where the vendor refused the token.

        Only a refusal that proves that nothing was executed counts as one, so this is never a
        second booking.

        Raises:
            ProviderError: as `send` raised it, or because no token could be had.
        """
        value = await self.get()
        try:
            return await send(value)
        except ProviderError as error:
            status = error.status
            is_refused = status.reason is Reason.PROVIDER_CREDENTIALS_REJECTED
            if not is_refused or status.fate is not Fate.NOT_EXECUTED:
                raise
            self.reject(value)
            renewed = await self.get()
            if renewed == value:
                raise
        return await send(renewed)

    async def _renew(self) -> Token:
        try:
            token = await self._fetch()
        except ProviderError as error:
            reason = error.status.reason
            raise ProviderError(
                StatusRow(
                    reason if reason in _OWN_REASONS else Reason.PROVIDER_UNREACHABLE,
                    Fate.NOT_EXECUTED,
                ),
                f"no access token could be had, so nothing was sent: {error.message}",
                rule=f"token: {error.rule}",
                http_status=error.http_status,
                provider_code=error.provider_code,
                retry_after_s=error.retry_after_s,
                request_text=error.request_text,
                answer_text=error.answer_text,
            ) from error
        self._token, self._fetched_s = token, self._now()
        return token

    def _fetched(self, task: "asyncio.Task[Token]") -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # Every waiter has it already; nobody may be left to ask.
