"""A vendor played in memory for the engine's tests: scripted answers and a ledger of effects."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from loyalty_gateway.domain.amounts import Amount, Money
from loyalty_gateway.domain.errors import Fate, Proves, Reason
from loyalty_gateway.domain.operations import (
    Balance,
    CardFacts,
    Found,
    Operation,
    Receipt,
    RecoveryMode,
    Reference,
)
from loyalty_gateway.providers.port import (
    Check,
    Executed,
    Lookup,
    Offer,
    PromiseFacts,
    ProviderError,
    Send,
    StatusRow,
    Way,
)

RESEND_IS_SAFE = "resend_is_safe"


@dataclass(frozen=True, slots=True)
class Effect:
    """One booking that really happened at the vendor."""

    outbound_id: str
    account_id: str
    asked: Amount | None


class FakeVendor:
    """Fills the adapter's port. Each attempt takes the script's next act, then `otherwise`."""

    provider = "fakevendor"
    points_unit = ""
    settle_s = 0.0
    promises: Mapping[str, PromiseFacts] = {
        RESEND_IS_SAFE: PromiseFacts("a booking that is sent twice is booked once")
    }
    unsupported_notes: Mapping[Operation, str] = {}

    def __init__(
        self,
        *acts: "Act",
        otherwise: "Act | None" = None,
        currency: str = "CHF",
        key_lifetime_s: float = 86_400.0,
        target: str = "https://vendor.test|credential-1",
        is_idempotent: bool = True,
        offers: Mapping[Operation, Offer] | None = None,
        further: Mapping[Operation, Offer] | None = None,
        applied: Amount | None = None,
    ) -> None:
        self.display_name = "A vendor played in memory"
        self.currency = currency
        self.key_lifetime_s = key_lifetime_s
        self.target = target
        self.script = deque(acts)
        self.otherwise: Act = otherwise or books
        self.is_idempotent = is_idempotent
        self.applied = applied
        self.sends: list[Send] = []
        self.effects: list[Effect] = []
        self.running = 0
        self.running_max = 0
        self._receipts: dict[str, Receipt] = {}
        sends_again = Offer(self._book, ways=(Way(RecoveryMode.SAFE_RESEND, RESEND_IS_SAFE),))
        self.operations: Mapping[Operation, Offer] = {
            Operation.GET_CARD: Offer(self._read),
            Operation.TOP_UP_BALANCE: sends_again,
            Operation.DEBIT_BALANCE: sends_again,
            **{
                operation: replace(offer, call=self._book)
                for operation, offer in (offers or {}).items()
            },
            # Reads and challenges, with the calls that a test brings.
            **(further or {}),
        }

    def execute(self, send: Send) -> Receipt:
        """The effect; an idempotent vendor makes it once for one outbound id."""
        known = self._receipts.get(send.outbound_id)
        if known is not None and self.is_idempotent:
            return replace(known, is_replay=True)
        order = send.order
        self.effects.append(Effect(send.outbound_id, order.account_id, order.asked))
        receipt = Receipt(
            references=(Reference("receipt", f"R-{len(self.effects)}"),),
            echoed=self.applied,
            balances_after=(Balance(Money(self.currency, 4250)),),
        )
        self._receipts[send.outbound_id] = receipt
        return receipt

    async def _book(self, send: Send) -> Executed:
        self.sends.append(send)
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            act = self.script.popleft() if self.script else self.otherwise
            return await act(self, send)
        finally:
            self.running -= 1

    async def _read(self, lookup: Lookup) -> Found:
        return CardFacts(lookup.account_id)

    async def prove(self, promise: str) -> str:
        return f"{promise} was seen to hold"

    async def check(self) -> Check:
        return Check(is_reachable=True, are_credentials_accepted=True, latency_s=0.0)

    async def close(self) -> None:
        return None


Act = Callable[[FakeVendor, Send], Awaitable[Executed]]


async def books(vendor: FakeVendor, send: Send) -> Executed:
    """The effect, and an answer that tells of it."""
    return Executed(vendor.execute(send), 200, "200, complete", "POST /book", "200 booked")


async def loses_the_answer(vendor: FakeVendor, send: Send) -> Executed:
    """The effect, and no answer."""
    vendor.execute(send)
    raise _no_answer()


async def loses_the_request(vendor: FakeVendor, send: Send) -> Executed:
    """No effect, and no answer either; from outside it looks the same."""
    raise _no_answer()


async def is_not_reached(vendor: FakeVendor, send: Send) -> Executed:
    """The connection was refused: provably nothing left."""
    raise ProviderError(
        StatusRow(Reason.PROVIDER_UNREACHABLE, Fate.NOT_EXECUTED),
        "the connection was refused",
        rule="connect refused",
    )


async def contradicts(vendor: FakeVendor, send: Send) -> Executed:
    """The vendor says that our key came with another body."""
    raise ProviderError(
        StatusRow(Reason.PROVIDER_KEY_CONFLICT, Fate.UNKNOWN, contradicts=True),
        "key conflict",
        rule="key reused",
        http_status=409,
        provider_code="key_reused",
    )


async def breaks(vendor: FakeVendor, send: Send) -> Executed:
    """A bug of the adapter, after the effect."""
    vendor.execute(send)
    raise RuntimeError("secret inner text 4111111111111111")


async def cancels_itself(vendor: FakeVendor, send: Send) -> Executed:
    """A CancelledError that nobody asked for, as http libraries let slip now and then."""
    vendor.execute(send)
    raise asyncio.CancelledError


def refuses(
    reason: Reason = Reason.INSUFFICIENT_BALANCE, proves: Proves = Proves.THIS_ATTEMPT
) -> Act:
    """A documented refusal."""

    async def act(vendor: FakeVendor, send: Send) -> Executed:
        raise ProviderError(
            StatusRow(reason, Fate.NOT_EXECUTED, proves, is_refusal=True),
            "refused",
            rule="refusal",
            http_status=422,
            provider_code="insufficient_balance",
        )

    return act


def limits_the_rate(retry_after_s: float) -> Act:
    """A 429 that came before anything was booked."""

    async def act(vendor: FakeVendor, send: Send) -> Executed:
        raise ProviderError(
            StatusRow(Reason.PROVIDER_RATE_LIMITED, Fate.NOT_EXECUTED),
            "too often",
            rule="429",
            http_status=429,
            provider_code="rate_limited",
            retry_after_s=retry_after_s,
        )

    return act


class Gate:
    """An act that waits: `arrived` tells that the vendor has the request, `go` lets it answer."""

    def __init__(self, then: Act = books) -> None:
        self.arrived = asyncio.Event()
        self.go = asyncio.Event()
        self._then = then

    async def __call__(self, vendor: FakeVendor, send: Send) -> Executed:
        self.arrived.set()
        await self.go.wait()
        return await self._then(vendor, send)


def _no_answer() -> ProviderError:
    return ProviderError(
        StatusRow(Reason.PROVIDER_INTERNAL), "no answer came", rule="read time-out"
    )
