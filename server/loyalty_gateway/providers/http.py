"""The only file that sends bytes to a vendor; it never retries and never judges a booking.

What it knows about a failed exchange is how far the request got, and TRANSPORT says what that
proves. "Not sent" needs a proof; everything else is UNKNOWN.
"""

import http.cookiejar
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final, Protocol

import httpx
from pyreqwest import exceptions as pyreqwest_errors
from pyreqwest.client import ClientBuilder
from pyreqwest.http import HeaderMap

from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.telemetry.redaction import redact

USER_AGENT: Final = "loyalty-gateway"
DETAIL_CHARACTERS_MAX: Final = 200
IDLE_CONNECTION_S: Final = 30.0


class Failure(StrEnum):
    """How an exchange failed: what is known about how far the request got."""

    NOT_BUILT = "NOT_BUILT"
    NO_SLOT = "NO_SLOT"
    NO_CONNECTION = "NO_CONNECTION"
    TIMED_OUT = "TIMED_OUT"
    ANSWER_LOST = "ANSWER_LOST"
    ANSWER_BROKEN = "ANSWER_BROKEN"
    ANSWER_TOO_LARGE = "ANSWER_TOO_LARGE"
    ENGINE_CLOSED = "ENGINE_CLOSED"
    ENGINE_FAULT = "ENGINE_FAULT"


TRANSPORT: Final[Mapping[Failure, StatusRow]] = {
    # Proven not sent: no byte of this request was ever on a connection.
    Failure.NOT_BUILT: StatusRow(Reason.ADAPTER_ROUTE_INVALID, Fate.NOT_EXECUTED),
    Failure.NO_SLOT: StatusRow(Reason.PROVIDER_UNREACHABLE, Fate.NOT_EXECUTED),
    Failure.NO_CONNECTION: StatusRow(Reason.PROVIDER_UNREACHABLE, Fate.NOT_EXECUTED),
    # All the rest proves nothing: the vendor may have booked before, during or after it. It is
    # never called unreachable, which tells callers that no request left.
    Failure.TIMED_OUT: StatusRow(Reason.PROVIDER_INTERNAL),
    Failure.ANSWER_LOST: StatusRow(Reason.PROVIDER_INTERNAL),
    Failure.ANSWER_BROKEN: StatusRow(Reason.PROVIDER_ANSWER_UNREADABLE),
    Failure.ANSWER_TOO_LARGE: StatusRow(Reason.PROVIDER_ANSWER_UNREADABLE),
    Failure.ENGINE_CLOSED: StatusRow(Reason.PROVIDER_INTERNAL),
    Failure.ENGINE_FAULT: StatusRow(Reason.INTERNAL),
}

SENTENCES: Final[Mapping[Failure, str]] = {
    Failure.NOT_BUILT: "the request could not be built, so nothing was sent",
    Failure.NO_SLOT: "no place was free among the calls to the provider, so nothing was sent",
    Failure.NO_CONNECTION: "no connection to the provider came about, so nothing was sent",
    Failure.TIMED_OUT: "the provider did not answer within the time limit",
    Failure.ANSWER_LOST: "the connection to the provider ended before an answer came",
    Failure.ANSWER_BROKEN: "the provider's answer broke off or is not HTTP",
    Failure.ANSWER_TOO_LARGE: "the provider's answer is larger than the limit",
    Failure.ENGINE_CLOSED: "the gateway stopped while the provider was being asked",
    Failure.ENGINE_FAULT: "the HTTP engine failed in a way that proves nothing",
}
"""The same for people, by failure."""

PYREQWEST_FAILURES: Final[Mapping[type[Exception], Failure]] = {
    # The names of these classes are not to be trusted: a connection that was reset *after* the
    # vendor booked is a ConnectError too, and a total time-out a ConnectTimeoutError. So no row
    # here is a proof. The one proof is _NEVER_CONNECTED in the chain of causes.
    pyreqwest_errors.PyreqwestError: Failure.ENGINE_FAULT,
    pyreqwest_errors.DetailedPyreqwestError: Failure.ENGINE_FAULT,
    pyreqwest_errors.RequestError: Failure.ENGINE_FAULT,
    pyreqwest_errors.StatusError: Failure.ENGINE_FAULT,
    pyreqwest_errors.RedirectError: Failure.ENGINE_FAULT,
    pyreqwest_errors.DecodeError: Failure.ANSWER_BROKEN,
    pyreqwest_errors.BodyDecodeError: Failure.ANSWER_BROKEN,
    pyreqwest_errors.JSONDecodeError: Failure.ANSWER_BROKEN,
    pyreqwest_errors.TransportError: Failure.ANSWER_LOST,
    pyreqwest_errors.RequestTimeoutError: Failure.TIMED_OUT,
    pyreqwest_errors.ConnectTimeoutError: Failure.TIMED_OUT,
    pyreqwest_errors.ReadTimeoutError: Failure.TIMED_OUT,
    pyreqwest_errors.WriteTimeoutError: Failure.TIMED_OUT,
    pyreqwest_errors.PoolTimeoutError: Failure.TIMED_OUT,
    pyreqwest_errors.NetworkError: Failure.ANSWER_LOST,
    pyreqwest_errors.ConnectError: Failure.ANSWER_LOST,
    pyreqwest_errors.ReadError: Failure.ANSWER_LOST,
    pyreqwest_errors.WriteError: Failure.ANSWER_LOST,
    pyreqwest_errors.ClientClosedError: Failure.ENGINE_CLOSED,
    pyreqwest_errors.BuilderError: Failure.ENGINE_FAULT,
    pyreqwest_errors.RequestPanicError: Failure.ENGINE_FAULT,
}

_NEVER_CONNECTED: Final = "client error (Connect)"
"""The cause that the Rust client gives when the connection itself did not come about: refused,
no such name, TLS handshake failed, connect time limit passed."""

HTTPX_FAILURES: Final[Mapping[type[Exception], Failure]] = {
    # httpx tells the connect phase apart by class, and was seen to be right about it.
    httpx.ConnectError: Failure.NO_CONNECTION,
    httpx.ConnectTimeout: Failure.NO_CONNECTION,
    httpx.PoolTimeout: Failure.NO_SLOT,
    httpx.ReadTimeout: Failure.TIMED_OUT,
    httpx.WriteTimeout: Failure.TIMED_OUT,
    httpx.TimeoutException: Failure.TIMED_OUT,
    httpx.ReadError: Failure.ANSWER_LOST,
    httpx.WriteError: Failure.ANSWER_LOST,
    httpx.CloseError: Failure.ANSWER_LOST,
    httpx.NetworkError: Failure.ANSWER_LOST,
    httpx.RemoteProtocolError: Failure.ANSWER_LOST,
    httpx.TransportError: Failure.ANSWER_LOST,
    httpx.DecodingError: Failure.ANSWER_BROKEN,
    # Raised where we misuse the library; some of them after a part of the request has left.
    httpx.LocalProtocolError: Failure.ENGINE_FAULT,
    httpx.ProtocolError: Failure.ENGINE_FAULT,
    httpx.ProxyError: Failure.ENGINE_FAULT,
    httpx.UnsupportedProtocol: Failure.ENGINE_FAULT,
    httpx.TooManyRedirects: Failure.ENGINE_FAULT,
    httpx.RequestError: Failure.ENGINE_FAULT,
    httpx.HTTPStatusError: Failure.ENGINE_FAULT,
    httpx.HTTPError: Failure.ENGINE_FAULT,
    httpx.InvalidURL: Failure.ENGINE_FAULT,
    httpx.CookieConflict: Failure.ENGINE_FAULT,
    httpx.StreamError: Failure.ENGINE_FAULT,
    httpx.StreamConsumed: Failure.ENGINE_FAULT,
    httpx.StreamClosed: Failure.ENGINE_FAULT,
    httpx.ResponseNotRead: Failure.ENGINE_FAULT,
    httpx.RequestNotRead: Failure.ENGINE_FAULT,
}


class TransportFailure(Exception):
    """An exchange without a whole answer. `detail` is for people and holds no URL."""

    def __init__(self, failure: Failure, detail: str = "") -> None:
        super().__init__(f"{failure}: {detail}" if detail else str(failure))
        self.failure = failure
        self.detail = redact(detail)[:DETAIL_CHARACTERS_MAX]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one exchange may take. `total_s` counts from the wish to send, waiting included."""

    connect_s: float = 2.0
    total_s: float = 15.0
    answer_bytes_max: int = 262_144
    in_flight_max: int = 64


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request, ready to send.

    With `is_exclusive` it goes over a connection of its own that no other request uses before
    or after it. Bookings do: on a kept connection a stray second answer to one booking is
    taken for the answer to the next, whichever client is used. `time_limit_s` is for the whole
    exchange, connecting included; after it nothing more is sent.
    """

    method: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    is_exclusive: bool = True
    time_limit_s: float = 15.0


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One whole answer. Names of headers are in lower case; one that is not text is left out."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Engine(Protocol):
    """What sends one request and gives its answer. Redirects, proxies and cookies are off."""

    async def send(self, request: HttpRequest) -> HttpAnswer:
        """The whole answer to one request that is sent once.

        Cancelling gives up waiting; the request itself may go on until its time limit, and
        then its connection is closed.

        Raises:
            TransportFailure: there is no whole answer within the limits.
        """
        ...

    async def close(self) -> None:
        """Ends every connection; what is in flight fails with ENGINE_CLOSED or ANSWER_LOST."""
        ...


class PyreqwestEngine:
    """The default: a Rust client whose work runs outside the interpreter's lock.

    Two clients, because the size of the idle pool is a client's: one keeps connections for
    reads, one keeps none.
    """

    def __init__(self, limits: Limits, *, is_https: bool, authorities: bytes = b"") -> None:
        self._limits = limits
        self._is_https = is_https
        self._keeping = (
            self._builder(is_https, authorities)
            .pool_max_idle_per_host(limits.in_flight_max)
            .pool_idle_timeout(timedelta(seconds=IDLE_CONNECTION_S))
            .build()
        )
        self._exclusive = self._builder(is_https, authorities).pool_max_idle_per_host(0).build()

    async def send(self, request: HttpRequest) -> HttpAnswer:
        _check_scheme(request, self._is_https)
        client = self._exclusive if request.is_exclusive else self._keeping
        try:
            # The limit is the Rust side's as well, because it goes on with a request whose
            # Python side was cancelled: without it a request given up here could be sent later.
            builder = client.request(request.method, request.url).timeout(
                timedelta(seconds=request.time_limit_s)
            )
            for name, value in request.headers:
                builder = builder.header(name, value)
            if request.is_exclusive:
                # The vendor closes first, so that its side keeps the port in TIME_WAIT and
                # many bookings cannot use up ours.
                builder = builder.header("connection", "close")
            if request.body:
                builder = builder.body_bytes(request.body)
            ready = builder.build_streamed()
        except (pyreqwest_errors.PyreqwestError, ValueError) as error:
            raise TransportFailure(Failure.NOT_BUILT, type(error).__name__) from error
        bytes_max = self._limits.answer_bytes_max
        try:
            async with ready as response:
                body = await response.body_reader.read(bytes_max + 1) or b""
                if len(body) > bytes_max:
                    # Leaving the block drops the rest together with its connection.
                    raise TransportFailure(Failure.ANSWER_TOO_LARGE, f"over {bytes_max} bytes")
                return HttpAnswer(response.status, _text_headers(response.headers), bytes(body))
        except pyreqwest_errors.PyreqwestError as error:
            raise _pyreqwest_failure(error) from error

    async def close(self) -> None:
        await self._keeping.close()
        await self._exclusive.close()

    def _builder(self, is_https: bool, authorities: bytes) -> ClientBuilder:
        builder = (
            ClientBuilder()
            .https_only(is_https)
            .no_proxy()
            .follow_redirects(False)
            .referer(False)
            # The body is taken as it comes: a small answer cannot grow by being unpacked.
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .user_agent(USER_AGENT)
            .connect_timeout(timedelta(seconds=self._limits.connect_s))
        )
        return builder.add_root_certificate_pem(authorities) if authorities else builder


def _text_headers(headers: HeaderMap) -> dict[str, str]:
    try:
        return {name.lower(): value for name, value in headers.items()}
    except ValueError:
        # One header with bytes that are not text must not cost the answer to a booking.
        readable: dict[str, str] = {}
        for name in headers.keys():  # noqa: SIM118 - iterating decodes the values as well
            try:
                readable[name.lower()] = headers[name]
            except ValueError:
                continue
        return readable


def _pyreqwest_failure(error: pyreqwest_errors.PyreqwestError) -> TransportFailure:
    details = getattr(error, "details", None) or {}
    causes = [cause["message"] for cause in details.get("causes") or ()]
    # The first cause names the URL, which may hold an account id: it is never shown. The
    # second says how far the request got.
    detail = f"{type(error).__name__}: {', '.join(causes[1:]) or 'no cause given'}"
    if len(causes) > 1 and causes[1] == _NEVER_CONNECTED:
        return TransportFailure(Failure.NO_CONNECTION, detail)
    return TransportFailure(PYREQWEST_FAILURES.get(type(error), Failure.ENGINE_FAULT), detail)


class HttpxEngine:
    """The portable one, pure Python: slower, and without kept connections at all."""

    def __init__(self, limits: Limits, *, is_https: bool, authorities: bytes = b"") -> None:
        self._bytes_max = limits.answer_bytes_max
        self._is_https = is_https
        trust = httpx.create_ssl_context(trust_env=False)
        if authorities:
            trust.load_verify_locations(cadata=authorities.decode("ascii"))
        self._client = httpx.AsyncClient(
            verify=trust,
            trust_env=False,
            follow_redirects=False,
            # The jar refuses every cookie: one booking must not carry what another was given.
            cookies=http.cookiejar.CookieJar(
                http.cookiejar.DefaultCookiePolicy(allowed_domains=[])
            ),
            headers={"user-agent": USER_AGENT},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=httpx.Timeout(None, connect=limits.connect_s),
        )

    async def send(self, request: HttpRequest) -> HttpAnswer:
        _check_scheme(request, self._is_https)
        try:
            ready = self._client.build_request(
                request.method,
                request.url,
                headers=[*request.headers, ("connection", "close")],
                content=request.body or None,
            )
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise TransportFailure(Failure.NOT_BUILT, type(error).__name__) from error
        try:
            response = await self._client.send(ready, stream=True)
        except _HTTPX_ERRORS as error:
            raise _httpx_failure(error) from error
        try:
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > self._bytes_max:
                    raise TransportFailure(
                        Failure.ANSWER_TOO_LARGE, f"over {self._bytes_max} bytes"
                    )
            return HttpAnswer(response.status_code, dict(response.headers), bytes(body))
        except _HTTPX_ERRORS as error:
            # The head has come: whatever went wrong now is a fault of the answer.
            raise TransportFailure(Failure.ANSWER_BROKEN, _words(error)) from error
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self._client.aclose()


_HTTPX_ERRORS: Final = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict)


def _httpx_failure(error: Exception) -> TransportFailure:
    failure = HTTPX_FAILURES.get(type(error), Failure.ENGINE_FAULT)
    return TransportFailure(failure, _words(error))


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _check_scheme(request: HttpRequest, is_https: bool) -> None:
    """The last look before anything is sent; TLS, once set, is never left out by mistake."""
    if not request.url.startswith("https://" if is_https else ("https://", "http://")):
        raise TransportFailure(Failure.NOT_BUILT, "the URL has another scheme than was set")


ENGINES: Final[Mapping[str, Callable[..., Engine]]] = {
    "pyreqwest": PyreqwestEngine,
    "httpx": HttpxEngine,
}
