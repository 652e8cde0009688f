"""A booking room that answers what a test tells it to, and a way to read errors off the wire."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from loyalty.v1 import balance_pb2, points_pb2, types_pb2
from loyalty_gateway.booking.calls import (
    BookingCall,
    BookingFilter,
    BookingKey,
    Capability,
    ChallengeCall,
    ChallengeIssued,
    CodeCall,
    ConnectionCheck,
    ConnectionFacts,
    CredentialsCall,
    Decision,
    OwnershipCall,
    Promise,
    ReadAnswer,
    ReadCall,
    Verified,
)
from loyalty_gateway.domain.amounts import Money, Points
from loyalty_gateway.domain.booking import Answer, Booking, State, Story, WhoseFault
from loyalty_gateway.domain.operations import (
    Balance,
    CardFacts,
    CredentialsFacts,
    Operation,
    Order,
    Person,
    ReceiptLine,
    RecoveryMode,
    Reference,
    Sale,
)

NOON = datetime(2026, 11, 21, 12, 0, 0, 123_000, tzinfo=UTC)
BOOKING_ID = "0192f5a0-0000-7000-8000-000000000001"
CARD = "10472"

Plan = Callable[[], Awaitable[Any]]


def redemption(**changes: Any) -> Booking:
    """A redemption of 100 points that has succeeded."""
    facts: dict[str, Any] = {
        "tenant": "default",
        "booking_id": BOOKING_ID,
        "request_id": "till-7-000123",
        "state": State.SUCCEEDED,
        "create_time": NOON,
        "operation": Operation.REDEEM_POINTS,
        "connection": "cashassist",
        "provider": "cashassist",
        "account_token": "k1.abcdef",
        "masked_id": "***72",
        "order": Order(Operation.REDEEM_POINTS, "", Points(100), sale=Sale(order_id="A-1")),
        "recovery_mode": RecoveryMode.SAFE_RESEND,
        "trace_parent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "applied": Points(100),
        "balances_after": (Balance(Points(1180), NOON), Balance(Money("CHF", 4250), NOON)),
        "references": (Reference("transaction_id", "T-1"),),
        "receipt_lines": (ReceiptLine("balance after", amount=Money("CHF", 4250)),),
        "attempt_count": 1,
        "first_sent_time": NOON,
        "settle_time": NOON,
    }
    return Booking(**(facts | changes))


def card_found() -> ReadAnswer:
    """The card of the sandbox: 42.50 francs and 1280 points."""
    facts = CardFacts(
        CARD,
        type="CASHBACK",
        status="ACTIVE",
        holder=Person(display_name="Max Muster"),
        balances=(Balance(Money("CHF", 4250), NOON), Balance(Points(1280), NOON)),
    )
    return answer_with(facts)


def answer_with(found: Any, **changes: Any) -> ReadAnswer:
    """What a read found, on the card of the sandbox."""
    return ReadAnswer(
        connection="cashassist",
        account_token="k1.abcdef",
        masked_id="***72",
        found=found,
        **changes,
    )


@dataclass
class FakeEngine:
    """Records the calls and answers by `plan`, or with something plain.

    `plan` is awaited in place of every method: it may return, raise or wait. `came` is set by
    the first call.
    """

    plan: Plan | None = None
    calls: list[Any] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def _next(self, call: Any, plain: Any) -> Any:
        self.calls.append(call)
        self.came.set()
        return plain if self.plan is None else await self.plan()

    async def book(self, call: BookingCall) -> Answer:
        answer = points_pb2.RedeemPointsResponse(booking=types_pb2.Booking(final=True))
        plain = Answer(answer.SerializeToString(), f"bookings/{BOOKING_ID}", False)
        return await self._next(call, plain)  # type: ignore[no-any-return]

    async def read(self, call: ReadCall) -> ReadAnswer:
        return await self._next(call, card_found())  # type: ignore[no-any-return]

    async def get(self, tenant: str, key: BookingKey) -> Booking:
        return await self._next((tenant, key), redemption())  # type: ignore[no-any-return]

    async def list(self, tenant: str, filter: BookingFilter) -> tuple[tuple[Booking, ...], str]:
        plain = ((redemption(),), "more")
        return await self._next((tenant, filter), plain)  # type: ignore[no-any-return]

    async def cancel(self, tenant: str, key: BookingKey, deadline: float) -> Booking:
        plain = redemption(state=State.NOT_EXECUTED, operation=None, order=None)
        return await self._next((tenant, key, deadline), plain)  # type: ignore[no-any-return]

    async def resolve(
        self, tenant: str, booking_id: str, decision: Decision | None, actor: str, deadline: float
    ) -> Booking:
        call = (tenant, booking_id, decision, actor)
        return await self._next(call, redemption())  # type: ignore[no-any-return]

    async def explain(self, tenant: str, key: BookingKey) -> Story:
        plain = Story(redemption(), (), WhoseFault.NOBODY, "Nothing happens next.", None)
        return await self._next((tenant, key), plain)  # type: ignore[no-any-return]

    async def connections(self, tenant: str) -> tuple[ConnectionFacts, ...]:
        return await self._next(tenant, ())  # type: ignore[no-any-return]

    async def capabilities(self, tenant: str, connection: str) -> tuple[Capability, ...]:
        return await self._next((tenant, connection), ())  # type: ignore[no-any-return]

    async def create_challenge(self, call: ChallengeCall) -> ChallengeIssued:
        plain = ChallengeIssued("ch.1", NOON, "•••••••00")
        return await self._next(call, plain)  # type: ignore[no-any-return]

    async def verify_challenge(self, call: CodeCall) -> Verified:
        return await self._next(call, Verified(True))  # type: ignore[no-any-return]

    async def verify_ownership(self, call: OwnershipCall) -> Verified:
        return await self._next(call, Verified(True))  # type: ignore[no-any-return]

    async def verify_credentials(self, call: CredentialsCall) -> CredentialsFacts:
        return await self._next(call, CredentialsFacts(False))  # type: ignore[no-any-return]

    async def check(self, tenant: str, connection: str) -> ConnectionCheck:
        plain = ConnectionCheck(True, True, 0.02)
        return await self._next((tenant, connection), plain)  # type: ignore[no-any-return]

    async def prove(self, tenant: str, connection: str) -> tuple[Promise, ...]:
        return await self._next((tenant, connection), ())  # type: ignore[no-any-return]

    def answers(self, answer: Any) -> None:
        """From now on every call is answered with this."""

        async def plan() -> Any:
            return answer

        self.plan = plan

    def fails(self, error: BaseException) -> None:
        """From now on every call fails with this."""

        async def plan() -> Any:
            raise error

        self.plan = plan

    def hangs(self) -> None:
        """From now on no call is answered; `gone` is set when one is given up."""

        async def plan() -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                self.gone.set()

        self.plan = plan


def redeem(**changes: Any) -> points_pb2.RedeemPointsRequest:
    """A request that every rule of the contract accepts."""
    fields: dict[str, Any] = {
        "account": types_pb2.AccountRef(connection="cashassist", id=CARD),
        "points": types_pb2.PointsAmount(value=100),
        "request_id": "till-7-000123",
    }
    return points_pb2.RedeemPointsRequest(**(fields | changes))


def top_up(**changes: Any) -> balance_pb2.TopUpBalanceRequest:
    """A request that every rule of the contract accepts."""
    fields: dict[str, Any] = {
        "account": types_pb2.AccountRef(connection="cashassist", id=CARD),
        "amount": {"currency_code": "CHF", "units": 20},
        "request_id": "till-7-000124",
    }
    return balance_pb2.TopUpBalanceRequest(**(fields | changes))


@dataclass(frozen=True)
class Reply:
    """One call as its caller saw it."""

    code: grpc.StatusCode
    text: str
    body: bytes
    trailers: dict[str, str | bytes]
    status: status_pb2.Status | None

    def detail(self, kind: type[Message]) -> Any:
        """The detail of one type, None when there is none."""
        for packed in self.status.details if self.status else ():
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                return message
        return None

    @property
    def info(self) -> Any:
        """The ErrorInfo."""
        return self.detail(error_details_pb2.ErrorInfo)

    @property
    def violations(self) -> dict[str, str]:
        """The violations by field."""
        bad = self.detail(error_details_pb2.BadRequest)
        return {it.field: it.description for it in bad.field_violations} if bad else {}


@dataclass(frozen=True)
class Wire:
    """Calls rpcs with raw bytes, so that anything can be sent and answers are seen as they are."""

    channel: grpc.aio.Channel

    def begin(
        self,
        method: str,
        body: bytes,
        *,
        timeout: float | None = 10.0,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> "grpc.aio.UnaryUnaryCall[bytes, bytes]":
        """A call under way, for tests that do more than wait for it."""
        method_call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            f"/loyalty.v1.{method}"
        )
        return method_call(body, timeout=timeout, metadata=grpc.aio.Metadata(*metadata))

    async def call(
        self,
        method: str,
        request: Message | bytes,
        *,
        timeout: float | None = 10.0,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Reply:
        body = request if isinstance(request, bytes) else request.SerializeToString()
        call = self.begin(method, body, timeout=timeout, metadata=metadata)
        answer = b""
        status = None
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            status = rpc_status.from_call(error)  # type: ignore[arg-type]
        trailers = dict(await call.trailing_metadata() or ())
        return Reply(await call.code(), await call.details() or "", answer, trailers, status)
