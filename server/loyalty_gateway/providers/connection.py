"""Our way to one vendor: its settings, its limits, and what is shown and counted of each call.

It sends nothing itself (the engine does) and knows no vendor.
"""

import asyncio
import ipaddress
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from loyalty_gateway.domain.accounts import mask_account_id
from loyalty_gateway.domain.errors import Fate, Reason
from loyalty_gateway.domain.operations import (
    BOOKING_OPERATIONS,
    CHALLENGE_OPERATIONS,
    Operation,
)
from loyalty_gateway.providers.http import (
    ENGINES,
    SENTENCES,
    TRANSPORT,
    Engine,
    Failure,
    HttpAnswer,
    HttpRequest,
    Limits,
    TransportFailure,
)
from loyalty_gateway.providers.port import Check, ProviderError
from loyalty_gateway.telemetry import metrics
from loyalty_gateway.telemetry.redaction import redact
from loyalty_gateway.telemetry.spans import provider_span

Read = TypeVar("Read")
Model = TypeVar("Model", bound="ConnectionSettings")

FAULT_HEADER: Final = "X-Sandbox-Fault"
"""The wish for a fault, which only the played vendors know."""

FILE_BYTES_MAX: Final = 1_048_576
_CERTIFICATE: Final = re.compile(
    "-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\\s]+-----END CERTIFICATE-----", re.ASCII
)

_HARMLESS: Final = re.compile(
    # A word or a number with at most a short word before it, a UUID, a time.
    r"(?!sk_|rk_|lgw_)"
    r"([a-z_]{0,24}|[a-z]{0,8}[_-]?-?[0-9]{1,12}(\.[0-9]{1,4})?"
    r"|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9]{4}-[0-9:T-]{5,14}Z)",
    re.ASCII,
)


class AdapterSettingsError(ValueError):
    """The settings of a connection cannot be used.

    Each problem begins with the setting's name inside the connection and holds no value.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class ConnectionSettings(BaseModel):
    """What every vendor's settings have in common; an adapter adds its own."""

    # Hidden input keeps a mistyped secret out of every message that pydantic makes.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str = Field(min_length=1, max_length=500)
    """Where the vendor's API is: https, without a query; the sandbox alone takes http."""
    connect_s: float = Field(default=2.0, gt=0, le=60, allow_inf_nan=False)
    """How long a connection may take to come about; must be less than attempt_total_s."""
    attempt_total_s: float = Field(default=15.0, gt=0, le=120, allow_inf_nan=False)
    """How long one call to the vendor may take in all."""
    answer_bytes_max: int = Field(default=262_144, ge=1_024, le=16_777_216)
    """The longest answer that is read; a longer one proves nothing."""
    max_in_flight: int = Field(default=64, ge=1, le=1_024)
    """How many calls may be at the vendor at a time; further ones wait, or are not sent."""
    http_engine: Literal["pyreqwest", "httpx"] = "pyreqwest"
    """What speaks HTTP: pyreqwest is much cheaper, httpx runs where it has no wheel."""
    ca_file: Path | None = None
    """PEM certificates that are trusted beside the system's, for a vendor behind a private CA."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.connect_s >= self.attempt_total_s:
            raise ValueError("connect_s must be less than attempt_total_s")
        return self


def read_settings(model: type[Model], raw: Mapping[str, Any], *, profile: str) -> Model:
    """The raw mapping as the adapter's model, its base url checked for the profile.

    Raises:
        AdapterSettingsError: naming each setting that cannot be used, without its value.
    """
    try:
        settings = model.model_validate(dict(raw))
    except ValidationError as error:
        raise AdapterSettingsError(tuple(_problems(error))) from None
    try:
        base_url = check_base_url(settings.base_url, is_sandbox=profile == "sandbox")
    except ValueError as error:
        raise AdapterSettingsError((f"base_url: {error}",)) from None
    return settings.model_copy(update={"base_url": base_url})


def read_secret(name: str, value: SecretStr | None, file: Path | None) -> str:
    """A secret given by value or by `{name}_file`, fit to be sent as a header.

    Raises:
        AdapterSettingsError: it is missing, given twice, unreadable, or no header value.
    """
    if (value is None) == (file is None):
        raise AdapterSettingsError((f"{name}: give either {name} or {name}_file",))
    if file is not None:
        text = _read_text(f"{name}_file", file).rstrip("\r\n")
    else:
        assert value is not None
        text = value.get_secret_value()
    if not text or not all("!" <= letter <= "~" for letter in text):
        raise AdapterSettingsError((f"{name}: must be printable ASCII without blanks",))
    return text


@dataclass(frozen=True, slots=True)
class VendorCall:
    """One exchange as an adapter wants it.

    `route` is the path below the base url and is shown everywhere, so it never holds an id;
    ids go into `query` or `body`. `request_text` is what people are shown of the request.
    `is_side_call` marks what is asked beside the operation itself (a token, a preparation, a
    question about a lost answer): it has no effect, whatever the operation's kind, and is not
    shared with others all the same. `fault` is
    sent to a played vendor only.
    """

    operation: Operation
    method: str
    route: str
    request_text: str
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    is_side_call: bool = False
    fault: str = ""


class Connection:
    """Our way to one vendor: base url, limits, and a bound on the calls in flight."""

    def __init__(
        self,
        name: str,
        base_url: str,
        limits: Limits,
        engine: Engine,
        *,
        is_sandbox: bool = False,
    ) -> None:
        parts = urlsplit(base_url)
        self.name = name
        self._is_sandbox = is_sandbox
        self.clock_skew_s: float | None = None
        """The vendor's clock less ours, by the Date of its last answer; whole seconds at best."""
        self._last_date = ""
        self.base_url = base_url
        self._limits = limits
        self._engine = engine
        self._slots = asyncio.Semaphore(limits.in_flight_max)
        self._address = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)

    async def exchange(self, call: VendorCall, read: Callable[[HttpAnswer], Read]) -> Read:
        """Sends one request once and returns what `read` makes of the answer.

        `read` is pure and raises ProviderError for an answer that is no success. A booking or a
        challenge, and all that is asked beside it, goes over a connection of its own; a read may
        share one.

        Raises:
            ProviderError: by the TRANSPORT table, or as `read` raised it.
        """
        is_booking = call.operation in BOOKING_OPERATIONS and not call.is_side_call
        # What is asked beside a booking decides what it does: a pass that was read from an answer
        # to somebody else's question would be debited in place of the right one.
        is_exclusive = call.operation in BOOKING_OPERATIONS | CHALLENGE_OPERATIONS
        started_s = time.monotonic()
        result = Fate.UNKNOWN.value if is_booking else Reason.INTERNAL.value
        with provider_span(
            method=call.method,
            route=call.route,
            address=self._address,
            port=self._port,
            attributes={
                "loyalty.connection": self.name,
                "loyalty.operation": call.operation.value,
            },
        ) as span:
            try:
                answer = await self._send(call, is_exclusive=is_exclusive)
                self._compare_clocks(answer)
                span.set({"http.response.status_code": answer.status})
                value = read(answer)
                result = Fate.EXECUTED.value if is_booking else "OK"
                return value
            except ProviderError as error:
                result = (error.status.fate if is_booking else error.status.reason).value
                span.fail(error.status.reason.value, error.message)
                span.set({"loyalty.rule": error.rule, "loyalty.fate": error.status.fate.value})
                raise
            finally:
                metrics.provider_called(
                    self.name, call.operation.value, result, time.monotonic() - started_s
                )

    async def close(self) -> None:
        """Ends every connection to the vendor."""
        await self._engine.close()

    def _compare_clocks(self, answer: HttpAnswer) -> None:
        text = answer.headers.get("date", "")
        if text == self._last_date:
            return
        self._last_date = text
        try:
            theirs = parsedate_to_datetime(text)
        except (ValueError, TypeError, OverflowError):
            return
        if theirs.tzinfo is not None:
            self.clock_skew_s = (theirs - datetime.now(UTC)).total_seconds()

    async def _send(self, call: VendorCall, *, is_exclusive: bool) -> HttpAnswer:
        url = f"{self.base_url}{call.route}"
        if call.query:
            url = f"{url}?{urlencode(call.query)}"
        headers = (("accept", "application/json"), ("accept-encoding", "identity"), *call.headers)
        if call.fault and self._is_sandbox:
            headers += ((FAULT_HEADER, call.fault),)
        # Until the engine is called nothing can have left; from then on only the engine knows.
        total_s = self._limits.total_s
        end_s = time.monotonic() + total_s
        failure = TransportFailure(Failure.NO_SLOT)
        try:
            async with asyncio.timeout(total_s), self._slots:
                left_s = end_s - time.monotonic()
                if left_s > 0:
                    failure = TransportFailure(Failure.TIMED_OUT, f"after {total_s:g} s")
                    return await self._engine.send(
                        HttpRequest(call.method, url, headers, call.body, is_exclusive, left_s)
                    )
        except TimeoutError:
            pass
        except TransportFailure as error:
            failure = error
        raise ProviderError(
            TRANSPORT[failure.failure],
            SENTENCES[failure.failure],
            rule=f"TRANSPORT {failure.failure}",
            request_text=call.request_text,
            answer_text=failure.detail,
        ) from failure


def open_connection(
    name: str, settings: ConnectionSettings, *, is_sandbox: bool = False, base_url: str = ""
) -> Connection:
    """The way to a vendor by its settings; nothing is connected before the first call.

    `base_url` names another host of the same vendor, for example the one that gives tokens.

    Raises:
        AdapterSettingsError: the file of certificates cannot be used.
    """
    authorities = _read_authorities(settings.ca_file) if settings.ca_file is not None else b""
    limits = Limits(
        connect_s=settings.connect_s,
        total_s=settings.attempt_total_s,
        answer_bytes_max=settings.answer_bytes_max,
        in_flight_max=settings.max_in_flight,
    )
    url = base_url or settings.base_url
    engine = ENGINES[settings.http_engine](
        limits, is_https=url.startswith("https://"), authorities=authorities
    )
    return Connection(name, url, limits, engine, is_sandbox=is_sandbox)


async def check_connection(
    ask: Callable[[], Awaitable[object]], connection: Connection, *, proving: tuple[Reason, ...]
) -> Check:
    """How a vendor answers a harmless question that needs the credentials.

    An answer with one of the `proving` reasons (the account is not there, say) shows as much as
    a success does.
    """
    started_s = time.monotonic()
    error: ProviderError | None = None
    try:
        await ask()
    except ProviderError as failed:
        if failed.status.reason not in proving:
            error = failed
    is_heard = error is None or error.http_status is not None
    refused = (Reason.PROVIDER_CREDENTIALS_REJECTED, Reason.PROVIDER_ACCESS_DENIED)
    return Check(
        is_reachable=is_heard,
        are_credentials_accepted=is_heard and (error is None or error.status.reason not in refused),
        latency_s=time.monotonic() - started_s,
        clock_skew_s=connection.clock_skew_s if is_heard else None,
        error=error,
    )


def clean(text: str, account_id: str) -> str:
    """A text from outside, with the account masked wherever it stands, and without secrets."""
    if account_id and account_id in text:
        text = text.replace(account_id, mask_account_id(account_id))
    # Looking for secrets costs more than all else here, so what cannot hide one is let through.
    return text if _HARMLESS.fullmatch(text) else redact(text)


def check_base_url(text: str, *, is_sandbox: bool) -> str:
    """The base url of a vendor without a slash at its end.

    Plain http is for the sandbox and for this machine only. A login in the url would end up
    in logs, so there is none; query and fragment make no sense in a base.

    Raises:
        ValueError: what is wrong, without the url.
    """
    if not text.isascii() or any(letter.isspace() for letter in text):
        raise ValueError("must be ASCII without blanks")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError("is not a URL") from error
    if parts.scheme not in ("https", "http"):
        raise ValueError("must begin with https://")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password")
    if not host:
        raise ValueError("names no host")
    if "?" in text or "#" in text:
        raise ValueError("must not hold a query or a fragment")
    if parts.scheme == "http" and not (is_sandbox or _is_loopback(host)):
        raise ValueError("must begin with https://; http is for loopback and the sandbox")
    return text.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _problems(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for mistake in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(str(step) for step in mistake["loc"])
        text = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            text = "is not a known setting"
        elif mistake["type"] == "missing":
            text = "is missing"
        lines.append(f"{place}: {text}" if place else text)
    return lines


def _read_authorities(path: Path) -> bytes:
    # Bundles have comments in any language; only the certificates themselves are handed on.
    text = "\n".join(_CERTIFICATE.findall(_read_text("ca_file", path)))
    try:
        # Tried out here, because one of the engines takes a file without any for a good one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise AdapterSettingsError(("ca_file: holds no certificates to be used",)) from error
    return text.encode("ascii")


def _read_text(setting: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise AdapterSettingsError((f"{setting}: cannot be read: {error.strerror}",)) from None
    if len(content) > FILE_BYTES_MAX:
        raise AdapterSettingsError((f"{setting}: is larger than {FILE_BYTES_MAX} bytes",))
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise AdapterSettingsError((f"{setting}: does not hold text",)) from None
