"""What is asked of a vendor's adapter, one call at a time; every end of it is an answer."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from loyalty_gateway.booking.connections import Connections, Link
from loyalty_gateway.booking.judge import Verdict
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import Order
from loyalty_gateway.providers.port import (
    Book,
    Finding,
    Offer,
    ProviderError,
    Question,
    Send,
    StatusRow,
)
from loyalty_gateway.telemetry.redaction import redact
from loyalty_gateway.telemetry.spans import SpanHandle

log = logging.getLogger(__name__)

_Told = TypeVar("_Told")

Prepared = tuple[tuple[str, str], ...]


class Attempts:
    """Calls of adapters under one total time limit."""

    def __init__(self, connections: Connections, attempt_total_s: float) -> None:
        self._connections = connections
        self._attempt_total_s = attempt_total_s

    async def attempt(self, link: Link, send: Send, span: SpanHandle) -> Verdict:
        """One try at the vendor. Never raises but for a stop."""
        offer = self._connections.offer(link, send.order.operation)
        book: Book = offer.call  # type: ignore[assignment]
        span.event("booking.sending", {"loyalty.attempt": send.attempt_number})
        executed = await self._told(link, book(send))
        if isinstance(executed, Verdict):
            return executed
        return Verdict(
            StatusRow(Reason.INTERNAL, Fate.EXECUTED),
            executed.rule,
            receipt=executed.receipt,
            http_status=executed.http_status,
            request_text=redact(executed.request_text),
            answer_text=redact(executed.answer_text),
        )

    async def ask(self, link: Link, offer: Offer, question: Question) -> Finding | Verdict:
        """Asks whether a booking happened; a Verdict says why there is no answer."""
        assert offer.ask is not None, "only a way that can be asked is taken"
        return await self._told(link, offer.ask(question))

    async def prepare(self, link: Link, offer: Offer, order: Order) -> Prepared | Verdict:
        """Reads what a booking needs before it is journalled; a Verdict says why it could not."""
        assert offer.prepare is not None, "there is something to prepare"
        return await self._told(link, offer.prepare(order))

    async def _told(self, link: Link, call: Awaitable[_Told]) -> _Told | Verdict:
        try:
            async with asyncio.timeout(self._attempt_total_s):
                told = await call
        except ProviderError as error:
            verdict = Verdict(
                error.status,
                error.rule,
                receipt=error.receipt if error.status.shows_earlier else None,
                http_status=error.http_status,
                provider_code=error.provider_code,
                retry_after_s=error.retry_after_s,
                request_text=redact(error.request_text),
                answer_text=redact(error.answer_text),
                message=error.message,
            )
        except TimeoutError:
            verdict = Verdict(StatusRow(Reason.PROVIDER_INTERNAL), "attempt total time limit")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled this call: it came from inside, and proves nothing.
            log.exception("The adapter of %s cancelled itself", link.adapter.provider)
            verdict = Verdict(StatusRow(Reason.INTERNAL), "the adapter cancelled itself")
        except Exception:
            # A bug of an adapter after the intent was journalled: it proves nothing.
            log.exception("The adapter of %s failed", link.adapter.provider)
            verdict = Verdict(StatusRow(Reason.INTERNAL), "the adapter failed")
        else:
            link.saw(None)
            return told
        link.saw(verdict.status.reason)
        return verdict
