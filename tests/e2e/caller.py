"""A caller of the gateway as a shop would write it: the generated stubs and nothing of ours."""

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from google.type.money_pb2 import Money
from grpc_status import rpc_status

from loyalty.v1 import (
    balance_pb2,
    balance_pb2_grpc,
    bookings_pb2,
    bookings_pb2_grpc,
    cards_pb2,
    cards_pb2_grpc,
    gift_pb2,
    gift_pb2_grpc,
    points_pb2,
    points_pb2_grpc,
    providers_pb2,
    providers_pb2_grpc,
    types_pb2,
    wallets_pb2,
    wallets_pb2_grpc,
)
from tests.e2e.wanted import BookingRequest

CHANNEL_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    # Channels of other tests must not lend this one a connection that waits before it redials.
    ("grpc.use_local_subchannel_pool", 1),
)
DETAILS: Final = "grpc-status-details-bin"
REPEAT_EVERY_S: Final = 0.05

_STUBS: Final = (
    (balance_pb2, balance_pb2_grpc.BalanceStub),
    (bookings_pb2, bookings_pb2_grpc.BookingsStub),
    (cards_pb2, cards_pb2_grpc.CardsStub),
    (gift_pb2, gift_pb2_grpc.GiftStub),
    (points_pb2, points_pb2_grpc.PointsStub),
    (providers_pb2, providers_pb2_grpc.ProvidersStub),
    (wallets_pb2, wallets_pb2_grpc.WalletsStub),
)
METHODS: Final = {
    method.input_type.full_name: method
    for module, _ in _STUBS
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every rpc of the contract by the full name of its request."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call ended with. `body` is the answer's bytes as they came."""

    code: grpc.StatusCode
    body: bytes = b""
    response: Any = None
    message: str = ""
    status_bytes: bytes = b""
    trailers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        return self.code is grpc.StatusCode.OK

    @property
    def booking(self) -> types_pb2.Booking:
        assert self.is_ok, f"no answer but {self}"
        booking: types_pb2.Booking = self.response.booking
        return booking

    @property
    def info(self) -> error_details_pb2.ErrorInfo:
        """Our ErrorInfo; an empty one where the library or the network made the error."""
        return self._detail(error_details_pb2.ErrorInfo) or error_details_pb2.ErrorInfo()

    @property
    def reason(self) -> str:
        return str(self.info.reason)

    @property
    def outcome(self) -> str:
        """What is said of an effect; without our word it is unknown."""
        return str(self.info.metadata.get("outcome", ""))

    @property
    def is_final(self) -> bool:
        return self.is_ok or self.info.metadata.get("final") == "true"

    @property
    def retry_delay_s(self) -> float | None:
        retry = self._detail(error_details_pb2.RetryInfo)
        return None if retry is None else retry.retry_delay.ToTimedelta().total_seconds()

    @property
    def is_replayed(self) -> bool:
        return self.trailers.get("loyalty-replayed") == "true"

    def _detail(self, kind: type[Message]) -> Any:
        for packed in status_pb2.Status.FromString(self.status_bytes).details:
            if packed.Is(kind.DESCRIPTOR):
                detail = kind()
                packed.Unpack(detail)
                return detail
        return None

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason} {self.outcome} {self.message!r}"


class Caller:
    """Calls one server; every call has a deadline."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
        self._calls: dict[str, Any] = {}
        for module, stub_class in _STUBS:
            stub = stub_class(self._channel)
            for service in module.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    self._calls[method.input_type.full_name] = getattr(stub, method.name)

    async def call(
        self,
        request: Message,
        *,
        timeout_s: float = 20.0,
        fault: str = "",
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Reply:
        """One call through the generated stub. Cancelling it cancels the rpc."""
        sent = [*metadata, ("x-sandbox-fault", fault)] if fault else list(metadata)
        call = self._calls[request.DESCRIPTOR.full_name](request, timeout=timeout_s, metadata=sent)
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            return _failed(error)
        body = response.SerializeToString(deterministic=True)
        trailers = _texts(await call.trailing_metadata())
        return Reply(grpc.StatusCode.OK, body, response, trailers=trailers)

    async def call_for_bytes(self, request: Message, *, timeout_s: float = 20.0) -> Reply:
        """One call whose answer is left as the bytes on the wire."""
        method = METHODS[request.DESCRIPTOR.full_name]
        path = f"/{method.containing_service.full_name}/{method.name}"
        bytes_in_and_out: Any = self._channel.unary_unary(path)
        call = bytes_in_and_out(request.SerializeToString(), timeout=timeout_s)
        try:
            body = await call
        except grpc.aio.AioRpcError as error:
            return _failed(error)
        return Reply(grpc.StatusCode.OK, body, trailers=_texts(await call.trailing_metadata()))

    async def get(self, request_id: str) -> types_pb2.Booking | None:
        """The journal's booking, or None where it knows of none."""
        reply = await self.call(bookings_pb2.GetBookingRequest(request_id=request_id))
        if reply.reason == "NOT_FOUND":
            return None
        return reply.booking

    async def explain(self, request_id: str) -> bookings_pb2.ExplainBookingResponse:
        reply = await self.call(bookings_pb2.ExplainBookingRequest(request_id=request_id))
        assert reply.is_ok, str(reply)
        story: bookings_pb2.ExplainBookingResponse = reply.response
        return story

    async def cancel(self, request_id: str) -> Reply:
        return await self.call(bookings_pb2.CancelBookingRequest(request_id=request_id))

    async def open_bookings(self) -> list[types_pb2.Booking]:
        """Every booking whose end is not known, or that may still be repeated."""
        reply = await self.call(bookings_pb2.ListBookingsRequest(states=OPEN_STATES))
        assert reply.is_ok, str(reply)
        return list(reply.response.bookings)

    async def close(self) -> None:
        await self._channel.close()


OPEN_STATES: Final = (
    types_pb2.BOOKING_STATE_RESERVED,
    types_pb2.BOOKING_STATE_SENDING,
    types_pb2.BOOKING_STATE_IN_DOUBT,
    types_pb2.BOOKING_STATE_REVERSING,
    types_pb2.BOOKING_STATE_NEEDS_REVIEW,
)


async def learn(caller: Caller, request: BookingRequest, limit_s: float = 30.0) -> Reply:
    """Follows the one rule for callers: while `final` is not true, repeat the same call."""
    give_up = time.monotonic() + limit_s
    while True:
        reply = await caller.call(request, timeout_s=10.0)
        if reply.is_final:
            return reply
        if time.monotonic() > give_up:
            story = await caller.explain(request.request_id)
            steps = "\n".join(step.text for step in story.steps)
            raise AssertionError(f"no end within {limit_s:g} s: {reply}\n{steps}")
        await asyncio.sleep(REPEAT_EVERY_S)


def new_request_id() -> str:
    return str(uuid.uuid4())


def money(minor: int, currency: str) -> Money:
    """An amount in minor units of two decimals as the contract's money."""
    return Money(currency_code=currency, units=minor // 100, nanos=minor % 100 * 10_000_000)


def chf(minor: int) -> Money:
    """An amount in Rappen as the contract's money."""
    return money(minor, "CHF")


def top_up(
    minor: int, card: str = "10480", *, request_id: str = "", connection: str = "cashassist"
) -> balance_pb2.TopUpBalanceRequest:
    """A top-up whose ticket number, which reaches the vendor's ledger, is its request_id."""
    request_id = request_id or new_request_id()
    return balance_pb2.TopUpBalanceRequest(
        account=types_pb2.AccountRef(connection=connection, id=card),
        amount=chf(minor),
        sale=types_pb2.Sale(ticket_number=request_id),
        request_id=request_id,
    )


def debit(
    minor: int, card: str = "10480", *, request_id: str = "", connection: str = "cashassist"
) -> balance_pb2.DebitBalanceRequest:
    """A debit whose ticket number, which reaches the vendor's ledger, is its request_id."""
    request_id = request_id or new_request_id()
    return balance_pb2.DebitBalanceRequest(
        account=types_pb2.AccountRef(connection=connection, id=card),
        amount=chf(minor),
        sale=types_pb2.Sale(ticket_number=request_id),
        request_id=request_id,
    )


def redeem(
    points: int, card: str = "10480", *, request_id: str = "", connection: str = "cashassist"
) -> points_pb2.RedeemPointsRequest:
    """A redemption whose ticket number, which reaches the vendor's ledger, is its request_id."""
    request_id = request_id or new_request_id()
    return points_pb2.RedeemPointsRequest(
        account=types_pb2.AccountRef(connection=connection, id=card),
        points=types_pb2.PointsAmount(value=points),
        sale=types_pb2.Sale(ticket_number=request_id),
        request_id=request_id,
    )


class Maker(Protocol):
    """Makes a booking of one kind over so many Rappen or points."""

    def __call__(
        self, size: int, card: str = ..., /, *, request_id: str = ..., connection: str = ...
    ) -> BookingRequest: ...


BOOKINGS: Final[dict[str, Maker]] = {
    "TopUpBalance": top_up,
    "DebitBalance": debit,
    "RedeemPoints": redeem,
}
"""What makes a booking of each kind, by its rpc."""


def _failed(error: grpc.aio.AioRpcError) -> Reply:
    trailing = error.trailing_metadata()
    # Raises where the details do not fit the code and the message that came with them.
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    binary = [value for name, value in trailing or () if name == DETAILS]
    status_bytes = bytes(binary[0]) if binary else b""  # type: ignore[arg-type]
    assert (status is None) == (not status_bytes)
    return Reply(
        error.code(),
        message=error.details() or "",
        status_bytes=status_bytes,
        trailers=_texts(trailing),
    )


def _texts(metadata: Any) -> dict[str, str]:
    return {name: value for name, value in metadata or () if isinstance(value, str)}
