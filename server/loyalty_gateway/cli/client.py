"""The way to a running server: one call, one answer or one refusal; it must never guess either."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from loyalty.v1 import bookings_pb2_grpc, providers_pb2_grpc
from loyalty_gateway.cli.failure import CommandFailed

REASON_DOMAIN = "loyalty-gateway"
ANSWER_BYTES_MAX = 4 * 1024 * 1024

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call failed, as the server said it; an empty field was not said.

    `outcome` is empty before the journal was asked, and is then to be read as UNKNOWN.
    """

    code: str
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    retry_after_s: float | None = None
    status: status_pb2.Status | None = None

    @property
    def outcome(self) -> str:
        return self.metadata.get("outcome", "")

    @property
    def final(self) -> str:
        return self.metadata.get("final", "")


class CallRefused(CommandFailed):
    """The server answered with an error."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.reason or refusal.code}: {refusal.message}")
        self.refusal = refusal

    def show(self, *, is_json: bool) -> None:
        if is_json:
            document = json_format.MessageToJson(self.refusal.status or status_pb2.Status())
            print(f'{{"error": {document}}}', file=sys.stderr)
            return
        from loyalty_gateway.cli import screen

        screen.show_refusal(screen.Screen(sys.stderr), self.refusal)


class NoAnswer(CommandFailed):
    """What stands at the address gave no answer of a gateway's; `code` is the library's word."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class Server:
    """The services of a running server, over one channel."""

    def __init__(self, address: str, channel: grpc.Channel, timeout_s: float) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.bookings = bookings_pb2_grpc.BookingsStub(channel)
        self.providers = providers_pb2_grpc.ProvidersStub(channel)

    def call(
        self, method: "grpc.UnaryUnaryMultiCallable[Request, Answer]", request: Request
    ) -> Answer:
        """The answer to one call.

        Raises: CallRefused with the server's reason; NoAnswer where no server answered.
        """
        try:
            return method(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            refusal = read_refusal(error)
            if not refusal.reason:
                raise NoAnswer(self._describe_silence(refusal), refusal.code) from error
            raise CallRefused(refusal) from error

    def _describe_silence(self, refusal: Refusal) -> str:
        """Words for an error that is not the gateway's own: it says nothing about any booking."""
        if refusal.code == "UNAVAILABLE":
            return (
                f"no server answers at {self.address}. Start one with `loyalty sandbox` or "
                "`loyalty serve`, or name another with --server or LOYALTY_SERVER."
            )
        if refusal.code == "DEADLINE_EXCEEDED":
            return (
                f"the server at {self.address} gave no answer within {self.timeout_s:g} s. "
                "Asking again is safe; --timeout allows more time."
            )
        if refusal.code == "UNIMPLEMENTED":
            return f"what answers at {self.address} is not a Loyalty Gateway of this version."
        return f"the call to {self.address} failed with {refusal.code}: {refusal.message}"


@contextmanager
def connect(address: str, timeout_s: float) -> Iterator[Server]:
    """A channel to the server at HOST:PORT, in plaintext; nothing is sent before the first call."""
    options = [
        ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
        # A proxy from the environment must not see what stands in the journal.
        ("grpc.enable_http_proxy", 0),
    ]
    with grpc.insecure_channel(address, options=options) as channel:
        yield Server(address, channel, timeout_s)


def read_refusal(error: grpc.RpcError) -> Refusal:
    """What an error of the client library says, with the details where the gateway sent them."""
    assert isinstance(error, grpc.Call), "every error of a finished call is a call"
    code, message = error.code().name, error.details() or ""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        # Details that contradict the code are nobody's to interpret.
        status = None
    return Refusal(code, message) if status is None else read_status(status, code, message)


def read_status(status: status_pb2.Status, code: str, message: str = "") -> Refusal:
    """What a google.rpc.Status of the gateway's says; `message` stands in for an empty one."""
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after_s: float | None = None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad_request.DESCRIPTOR):
            detail.Unpack(bad_request)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return Refusal(
        code=code,
        message=status.message or message,
        reason=info.reason if info.domain == REASON_DOMAIN else "",
        metadata=dict(info.metadata),
        violations=tuple((each.field, each.description) for each in bad_request.field_violations),
        retry_after_s=retry_after_s,
        status=status,
    )


def to_json(message: Message) -> str:
    """One document of the protobuf JSON mapping, with the fields that are at their defaults."""
    return json_format.MessageToJson(
        message, always_print_fields_with_no_presence=True, ensure_ascii=False
    )
