"""A server that speaks the contract and answers what a test tells it to; no engine behind it."""

from concurrent import futures
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from loyalty.v1 import bookings_pb2 as bookings
from loyalty.v1 import bookings_pb2_grpc, providers_pb2_grpc, types_pb2
from loyalty.v1 import providers_pb2 as providers


def refusal(
    reason: str,
    message: str,
    *,
    code: int = code_pb2.FAILED_PRECONDITION,
    violations: tuple[tuple[str, str], ...] = (),
    retry_after_s: int | None = None,
    **metadata: str,
) -> status_pb2.Status:
    """A google.rpc.Status as the gateway makes it."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=reason, domain="loyalty-gateway", metadata=metadata)
    ]
    if violations:
        bad_request = error_details_pb2.BadRequest()
        for name, description in violations:
            bad_request.field_violations.add(field=name, description=description)
        details.append(bad_request)
    if retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(retry_after_s)
        details.append(retry)
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def a_booking(request_id: str = "till-7-000123", **changes: Any) -> types_pb2.Booking:
    """A settled redemption; `changes` are fields of the message."""
    booking = types_pb2.Booking(
        name="bookings/01a20074-3b79-76b1-b274-9fb5d90f3bfd",
        request_id=request_id,
        service="Points",
        method="RedeemPoints",
        account=types_pb2.Account(connection="cashassist", token="t", masked_id="•••72"),
        state=types_pb2.BOOKING_STATE_SUCCEEDED,
        outcome=types_pb2.OUTCOME_EXECUTED,
        final=True,
        asked=types_pb2.Amount(points=types_pb2.PointsAmount(value=200)),
        applied=types_pb2.Amount(points=types_pb2.PointsAmount(value=200)),
        recovery_mode=types_pb2.RECOVERY_MODE_SAFE_RESEND,
        attempt_count=1,
        connection="cashassist",
    )
    booking.create_time.FromJsonString("2026-11-21T03:00:00Z")
    booking.provider_references.add(kind="transaction_id", value="tx_90070")
    booking.MergeFrom(types_pb2.Booking(**changes))
    return booking


@dataclass
class FakeGateway:
    """Answers by method name; `asked` holds every request in the order of arrival."""

    answers: dict[str, Message | list[Message]] = field(default_factory=dict)
    asked: list[Message] = field(default_factory=list)
    address: str = ""

    def __enter__(self) -> Self:
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
        bookings_pb2_grpc.add_BookingsServicer_to_server(_Bookings(self), self._server)
        providers_pb2_grpc.add_ProvidersServicer_to_server(_Providers(self), self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(None).wait()

    def answer(self, method: str, request: Message, context: grpc.ServicerContext) -> Any:
        kept = type(request)()
        kept.CopyFrom(request)
        self.asked.append(kept)
        answer = self.answers[method]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, status_pb2.Status):
            context.abort_with_status(rpc_status.to_status(answer))
        return answer


class _Bookings(bookings_pb2_grpc.BookingsServicer):
    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway

    def GetBooking(
        self, request: bookings.GetBookingRequest, context: grpc.ServicerContext
    ) -> bookings.GetBookingResponse:
        found: bookings.GetBookingResponse = self._gateway.answer("GetBooking", request, context)
        return found

    def ListBookings(
        self, request: bookings.ListBookingsRequest, context: grpc.ServicerContext
    ) -> bookings.ListBookingsResponse:
        page: bookings.ListBookingsResponse = self._gateway.answer("ListBookings", request, context)
        return page

    def CancelBooking(
        self, request: bookings.CancelBookingRequest, context: grpc.ServicerContext
    ) -> bookings.CancelBookingResponse:
        cancelled: bookings.CancelBookingResponse = self._gateway.answer(
            "CancelBooking", request, context
        )
        return cancelled

    def ResolveBooking(
        self, request: bookings.ResolveBookingRequest, context: grpc.ServicerContext
    ) -> bookings.ResolveBookingResponse:
        resolved: bookings.ResolveBookingResponse = self._gateway.answer(
            "ResolveBooking", request, context
        )
        return resolved

    def ExplainBooking(
        self, request: bookings.ExplainBookingRequest, context: grpc.ServicerContext
    ) -> bookings.ExplainBookingResponse:
        story: bookings.ExplainBookingResponse = self._gateway.answer(
            "ExplainBooking", request, context
        )
        return story


class _Providers(providers_pb2_grpc.ProvidersServicer):
    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway

    def ListConnections(
        self, request: providers.ListConnectionsRequest, context: grpc.ServicerContext
    ) -> providers.ListConnectionsResponse:
        page: providers.ListConnectionsResponse = self._gateway.answer(
            "ListConnections", request, context
        )
        return page

    def GetCapabilities(
        self, request: providers.GetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> providers.GetCapabilitiesResponse:
        answer: providers.GetCapabilitiesResponse = self._gateway.answer(
            "GetCapabilities", request, context
        )
        return answer

    def CheckConnection(
        self, request: providers.CheckConnectionRequest, context: grpc.ServicerContext
    ) -> providers.CheckConnectionResponse:
        answer: providers.CheckConnectionResponse = self._gateway.answer(
            "CheckConnection", request, context
        )
        return answer

    def ProveConnection(
        self, request: providers.ProveConnectionRequest, context: grpc.ServicerContext
    ) -> providers.ProveConnectionResponse:
        answer: providers.ProveConnectionResponse = self._gateway.answer(
            "ProveConnection", request, context
        )
        return answer
