"""The port that every vendor's adapter fills: what it offers, and how it answers.

An adapter translates; it never decides about a booking, never retries and never stores.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import (
    Found,
    Operation,
    Order,
    Receipt,
    RecoveryMode,
    Support,
)


@dataclass(frozen=True, slots=True)
class StatusRow:
    """What one answer of a vendor means.

    `fate` and `proves` speak of a booking; a read only uses `reason`. `is_refusal` tells a
    documented business refusal (the booking is DECLINED) from an answer after which the same
    request may be sent again (the booking is RESERVED). `contradicts` marks an answer that
    only a person can judge (the booking goes to NEEDS_REVIEW).
    """

    reason: Reason
    fate: Fate = Fate.UNKNOWN
    proves: Proves = Proves.THIS_ATTEMPT
    is_refusal: bool = False
    contradicts: bool = False


class ProviderError(Exception):
    """A vendor call that did not succeed, already translated by the TRANSPORT or STATUS table.

    `rule` names the table row that was applied (for ExplainBooking), `request_text` and
    `answer_text` are redacted and short. The message is ours and free of vendor text.
    """

    def __init__(
        self,
        status: StatusRow,
        message: str,
        *,
        rule: str,
        http_status: int | None = None,
        provider_code: str = "",
        retry_after_s: float | None = None,
        request_text: str = "",
        answer_text: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.rule = rule
        self.http_status = http_status
        self.provider_code = provider_code
        self.retry_after_s = retry_after_s
        self.request_text = request_text
        self.answer_text = answer_text


@dataclass(frozen=True, slots=True)
class Executed:
    """A booking that the vendor says it executed, with what ExplainBooking shows of the call."""

    receipt: Receipt
    http_status: int
    rule: str
    request_text: str = ""
    answer_text: str = ""


@dataclass(frozen=True, slots=True)
class Send:
    """One attempt of a booking.

    `outbound_id` is the same for every attempt of a booking. `fault` is the sandbox's wish for
    a fault and is empty outside it and on every attempt but the caller's first.
    """

    order: Order
    outbound_id: str
    attempt_number: int
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Lookup:
    """One read at a vendor; the fields beyond the account serve the histories."""

    operation: Operation
    account_id: str = field(repr=False)
    start: datetime | None = None
    end: datetime | None = None
    page_size: int = 50
    cursor: str = field(default="", repr=False)
    fault: str = ""


Book = Callable[[Send], Awaitable[Executed]]
Read = Callable[[Lookup], Awaitable[Found]]


@dataclass(frozen=True, slots=True)
class Offer:
    """One operation that an adapter offers.

    `recovery_mode` is the mode where `promise` holds for the connection (an empty promise
    needs no proof); where it does not hold the mode is MANUAL. `needed_fields` are proto field
    paths that this vendor cannot do without. `has_undo` tells that an undo exists.
    """

    call: Book | Read
    support: Support = Support.NATIVE
    recovery_mode: RecoveryMode = RecoveryMode.MANUAL
    promise: str = ""
    partial_amounts: bool = False
    needed_fields: tuple[str, ...] = ()
    has_undo: bool = False


class Adapter(Protocol):
    """A vendor's translation bound to one connection."""

    provider: str
    display_name: str
    operations: Mapping[Operation, Offer]
    currency: str
    key_lifetime_s: float
    """How long the vendor remembers an outbound id; resending stops at half of it."""
    target: str
    """What the outbound ids belong to: base url, merchant and credential id, never a secret."""

    async def prove(self, promise: str) -> str:
        """Shows on a test account that the promise holds and returns the evidence in words.

        Raises:
            ProviderError: the vendor could not be asked.
            LookupError: the promise does not hold, or cannot be shown for this connection.
        """
        ...

    async def close(self) -> None:
        """Ends every connection to the vendor."""
        ...


class Factory(Protocol):
    """How app builds an adapter from its section of the configuration."""

    def __call__(self, connection: str, settings: Mapping[str, Any], profile: str) -> Adapter: ...
