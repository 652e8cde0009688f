"""Serves every rpc of the contract: one wrapping around all, and the only door for failures.

It decides nothing about a booking, and no exception's text ever passes it.
"""

import asyncio
import itertools
import logging
import re
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
import protovalidate
from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message

from loyalty_gateway.domain.accounts import looks_like_card_number
from loyalty_gateway.domain.booking import Answer
from loyalty_gateway.domain.errors import LoyaltyError, Reason, Violation
from loyalty_gateway.domain.operations import Kind
from loyalty_gateway.rpc.catalog import Engine, Rpc, join_catalog
from loyalty_gateway.rpc.codec.types import Envelope
from loyalty_gateway.rpc.status import WireStatus, wire_status
from loyalty_gateway.telemetry import metrics
from loyalty_gateway.telemetry.spans import SpanHandle, current_request_id, server_span

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[bytes, bytes]
Metadata = Sequence[tuple[str, str | bytes]]
Trailers = list[tuple[str, str | bytes]]

ANSWER_MARGIN_S = 0.1
"""How long before the caller's deadline the answer leaves, so that it arrives with its details."""

LONG_DEADLINE_S = 9.0
"""From about ten seconds on deadlines travel in tenths of a second."""

_FAULT_LENGTH_MAX = 128
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

# The calls that reach the outside for more than an answer.
_EFFECTS = frozenset({Kind.BOOKING, Kind.CHALLENGE})

# What no caller can mend, and nothing but the log tells an operator of.
_OPERATORS = frozenset(
    {
        Reason.PROVIDER_CREDENTIALS_REJECTED,
        Reason.PROVIDER_ACCESS_DENIED,
        Reason.ADAPTER_ROUTE_INVALID,
        Reason.DATA_LOSS,
    }
)
_ALARM_AGAIN_S = 60.0

# The codes that speak of trouble on the server's side; all others are the caller's affair.
_SERVER_TROUBLE = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `key_id` names the credential for the journal, never the credential itself."""

    tenant: str
    scopes: frozenset[str]
    key_id: str = ""


Authenticator = Callable[[Metadata], Awaitable[Caller]]
"""Tells who calls. Raises LoyaltyError (UNAUTHENTICATED)."""


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """How long a call may take: at most, and where the caller does not say."""

    deadline_max_s: float = 60.0
    deadline_default_s: float = 30.0


def all_scopes() -> frozenset[str]:
    """Every scope that an rpc of the contract asks for."""
    return frozenset(rpc.scope for rpc in join_catalog())


def anonymous(tenant: str) -> Authenticator:
    """Everybody is the same caller and may do everything; for a server on loopback."""
    caller = Caller(tenant, all_scopes(), "anonymous")

    async def authenticate(metadata: Metadata) -> Caller:
        return caller

    return authenticate


class Dispatcher:
    """The servicer of every service of the contract.

    Args:
        reads_faults: whether the wish for a fault in `x-sandbox-fault` is heard; only the
            sandbox does.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        authenticate: Authenticator,
        limits: DoorLimits | None = None,
        reads_faults: bool = False,
    ) -> None:
        self._engine = engine
        self._authenticate = authenticate
        self._limits = limits or DoorLimits()
        self._reads_faults = reads_faults
        self._validator: Final = protovalidate.Validator()
        # Unique without the price of a UUID per call: a random beginning and a count.
        self._request_id_prefix = secrets.token_hex(8)
        self._request_ids = itertools.count(1)
        self._alarmed_s: dict[tuple[Reason, str], float] = {}

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """One generic handler per service; each method's handler is built here, once.

        Raises:
            CatalogError: the catalog does not cover the contract.
        """
        by_service: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for rpc in join_catalog():
            service = rpc.descriptor.containing_service.full_name
            by_service.setdefault(service, {})[rpc.descriptor.name] = self._handler(rpc)
        return tuple(
            grpc.method_handlers_generic_handler(service, methods)
            for service, methods in by_service.items()
        )

    def _handler(self, rpc: Rpc) -> "grpc.RpcMethodHandler[Any, Any]":
        request_class = message_factory.GetMessageClass(rpc.descriptor.input_type)
        # Rules are compiled at their first use; a broken one must stop the start, not a call.
        self._validator.collect_violations(request_class())

        async def handle(body: bytes, context: Context) -> bytes:
            return await self._serve(rpc, request_class, body, context)

        # Without serializers bytes come in and go out: parsing happens inside the guard, and a
        # stored answer leaves exactly as it was stored.
        return grpc.unary_unary_rpc_method_handler(handle)

    async def _serve(
        self, rpc: Rpc, request_class: type[Message], body: bytes, context: Context
    ) -> bytes:
        """Answers one call: bytes, or an abort with a status of ours."""
        started = time.perf_counter()
        metadata = cast(Metadata, context.invocation_metadata() or ())
        request_id = trace_parent = fault = ""
        for name, value in metadata:
            if name == "x-request-id" and isinstance(value, str):
                # It is logged and given back, so it must be neither long, strange nor a secret.
                if _REQUEST_ID.fullmatch(value) and not looks_like_card_number(value):
                    request_id = value
            elif name == "traceparent" and isinstance(value, str):
                trace_parent = value
            elif name == "x-sandbox-fault" and self._reads_faults and isinstance(value, str):
                fault = value[:_FAULT_LENGTH_MAX]
        if not request_id:
            request_id = f"{self._request_id_prefix}-{next(self._request_ids):x}"
        current_request_id.set(request_id)
        trailers: Trailers = [("x-request-id", request_id)]
        code = grpc.StatusCode.CANCELLED
        with server_span(rpc.name, trace_parent) as span:
            try:
                answer = await self._answer(
                    rpc, request_class, body, context, metadata, fault, trailers
                )
            except LoyaltyError as error:
                failure = wire_status(error)
                code = failure.code
                _describe(span, error)
                _add_trailers(trailers, rpc, error)
                if error.reason in _OPERATORS:
                    self._alarm(rpc, error)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # The caller has gone or its deadline has passed: nobody hears an answer.
                    remaining_s = cast(float | None, context.time_remaining())
                    if remaining_s is not None and remaining_s <= 0:
                        code = grpc.StatusCode.DEADLINE_EXCEEDED
                    raise
                # A stray one, from something that was cancelled inside. Let through, it would
                # leave the caller waiting until its deadline.
                failure = _unexpected(rpc, error, span)
                code = failure.code
            except Exception as error:  # the door: a bug must not show its text
                failure = _unexpected(rpc, error, span)
                code = failure.code
            else:
                code = grpc.StatusCode.OK
                context.set_trailing_metadata(tuple(trailers))
                return answer
            finally:
                metrics.rpc_finished(rpc.name, code.name, time.perf_counter() - started)
                if span.is_recording:
                    span.set({"rpc.response.status_code": code.name})
                    if code in _SERVER_TROUBLE:
                        span.fail(code.name)
        trailers.append(("grpc-status-details-bin", failure.status_bytes))
        await context.abort(failure.code, failure.message, tuple(trailers))
        raise AssertionError("abort does not return")

    def _alarm(self, rpc: Rpc, error: LoyaltyError) -> None:
        """Tells the log of what an operator alone can mend; not of every call that meets it."""
        what, now_s = (error.reason, error.connection), time.monotonic()
        if now_s - self._alarmed_s.get(what, -_ALARM_AGAIN_S) >= _ALARM_AGAIN_S:
            self._alarmed_s[what] = now_s
            _log.error(
                "an operator is needed: %s was told %s of %s: %s",
                rpc.name,
                error.reason.value,
                error.connection or error.booking or "the journal",
                error.message,
            )

    async def _answer(
        self,
        rpc: Rpc,
        request_class: type[Message],
        body: bytes,
        context: Context,
        metadata: Metadata,
        fault: str,
        trailers: Trailers,
    ) -> bytes:
        """The answer's bytes. Raises LoyaltyError for every expected failure."""
        deadline, backstop = self._deadline(context.time_remaining())
        caller = await self._authenticate(metadata)
        if rpc.scope not in caller.scopes:
            raise LoyaltyError(
                Reason.SCOPE_MISSING,
                f"This call needs the scope {rpc.scope}; ask for a key with it.",
            )
        envelope = Envelope(caller.tenant, caller.key_id, deadline, fault)
        call = self._decode(rpc, request_class, body, envelope)
        if rpc.kind is Kind.BOOKING:
            # No time limit here: the engine answers by the deadline itself, because only it
            # can say what is known of the booking at that moment.
            booked: Answer = await rpc.row.run(self._engine, envelope, call)
            if booked.booking_name:
                trailers.append(("loyalty-booking", booked.booking_name))
            if booked.is_replayed:
                trailers.append(("loyalty-replayed", "true"))
            return booked.body
        # A challenge has no limit here either: whoever breaks it off cannot say that no code
        # was sent.
        limit_at = None if rpc.kind is Kind.CHALLENGE else backstop
        try:
            async with asyncio.timeout_at(limit_at) as limit:
                found = await rpc.row.run(self._engine, envelope, call)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise LoyaltyError(
                rpc.row.late, "There was no answer within the deadline; repeat the call."
            ) from error
        assert rpc.row.encode is not None, "only a booking has no encoder"
        return rpc.row.encode(found).SerializeToString()

    def _deadline(self, remaining_s: float | None) -> tuple[float, float]:
        """When the engine must answer, and when the door stops waiting for it."""
        limits = self._limits
        if remaining_s is None:
            remaining_s = limits.deadline_default_s
        budget_s = min(remaining_s, limits.deadline_max_s)
        margin_s = min(ANSWER_MARGIN_S, budget_s / 10)
        if budget_s > LONG_DEADLINE_S:
            # The library rounds long deadlines up by as much, so the caller's ends sooner.
            margin_s += ANSWER_MARGIN_S
        end = asyncio.get_running_loop().time() + budget_s
        return end - margin_s, end - margin_s / 2

    def _decode(
        self, rpc: Rpc, request_class: type[Message], body: bytes, envelope: Envelope
    ) -> object:
        """The call in a request's bytes, after every rule; all violations are told at once."""
        try:
            message = request_class.FromString(body)
        except DecodeError as error:
            raise LoyaltyError(
                Reason.REQUEST_INVALID,
                f"The request is not a well-formed {rpc.descriptor.input_type.full_name}.",
            ) from error
        problems: list[Violation] = []
        if rpc.kind in _EFFECTS and _has_unknown_fields(message):
            # A field that we do not know may change what the caller means.
            problems.append(
                Violation("", "must not hold fields that this version of the contract lacks")
            )
        try:
            violations = self._validator.collect_violations(message)
        except protovalidate.EvaluationError:
            violations = []
            problems.append(Violation("", "must not hold values that its rules cannot compute"))
        further: list[Violation] = []
        call = rpc.row.decode(message, envelope, further)
        if not (problems or violations or further):
            return call
        problems += (Violation(_path(it.proto), it.proto.message) for it in violations)
        # Where a rule of the contract speaks of a field, the decoder's word adds nothing.
        told = {problem.field for problem in problems}
        problems += (problem for problem in further if problem.field not in told)
        fields = ", ".join(dict.fromkeys(problem.field or "request" for problem in problems))
        raise LoyaltyError(
            Reason.REQUEST_INVALID,
            f"The request breaks rules of the contract: {fields}.",
            field=problems[0].field,
            violations=tuple(problems),
        )


def _has_unknown_fields(message: Message) -> bool:
    """Whether any part of the message holds what its definition lacks; drops it."""
    size_bytes = message.ByteSize()
    message.DiscardUnknownFields()
    return message.ByteSize() != size_bytes


def _path(violation: Any) -> str:
    """The field of a violation as a proto path, for example `sale.order_id` or `states[2]`."""
    path = ""
    for element in violation.field.elements if violation.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None and isinstance(element.subscript.value, int):
            path += f"[{element.subscript.value}]"
    return path + _RULE_FIELDS.get(violation.rule_id, "")


# A rule over a whole message names the one field that it is about.
_RULE_FIELDS = {
    "points.positive": ".value",
    "money.currency_code": ".currency_code",
}


def _add_trailers(trailers: Trailers, rpc: Rpc, error: LoyaltyError) -> None:
    if error.booking:
        trailers.append(("loyalty-booking", error.booking))
    if error.is_replayed:
        trailers.append(("loyalty-replayed", "true"))
    # gRPC's own retries read this trailer only, the details are for people and programs.
    if error.is_retry_forbidden:
        trailers.append(("grpc-retry-pushback-ms", "-1"))
    elif error.retry_after_s is not None and rpc.kind is Kind.BOOKING:
        trailers.append(("grpc-retry-pushback-ms", str(max(0, round(error.retry_after_s * 1000)))))


def _describe(span: SpanHandle, error: LoyaltyError) -> None:
    if span.is_recording:
        attributes: dict[str, str | int | bool] = {"loyalty.reason": error.reason.value}
        if error.booking:
            attributes["loyalty.booking"] = error.booking
        if error.fate is not None:
            attributes["loyalty.outcome"] = error.fate.value
        span.set(attributes)


def _unexpected(rpc: Rpc, error: BaseException, span: SpanHandle) -> WireStatus:
    """The answer to a bug: a fixed text, and an id by which the log line is found."""
    error_id = uuid.uuid4().hex
    _log.error(
        "unexpected %s while serving %s",
        type(error).__qualname__,
        rpc.name,
        exc_info=error,
        extra={"error_id": error_id, "rpc": rpc.name},
    )
    failure = LoyaltyError(
        Reason.INTERNAL, f"Something in the gateway went wrong; its log has error id {error_id}."
    )
    _describe(span, failure)
    return wire_status(failure, error_id=error_id)
