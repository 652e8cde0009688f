"""The settings as frozen models, with every default and limit; never shows a secret.

docs/configuration.md is generated from these models, so the description of a setting is what
an operator reads.
"""

import base64
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

Profile = Literal["production", "sandbox"]

SECRET_FILE_BYTES_MAX: Final = 65_536
SEALING_KEY_BYTES: Final = 32
OUTBOUND_SALT_BYTES_MIN: Final = 16
MASK: Final = "**********"

_SECRET_NAME = re.compile(r"key|secret|token|password|passphrase|credential", re.IGNORECASE)
_NO_SECRET_NAME = re.compile(r"_(file|id|s|max|min)$", re.IGNORECASE)
_OTLP_ENDPOINT = re.compile(r"https?://[^/@?#\s]+/?")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def masked_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values for printing: whatever is named like a secret, or holds a login, is masked."""
    shown: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            shown[name] = masked_mapping(value)
        elif _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name):
            shown[name] = MASK
        elif isinstance(value, str):
            shown[name] = _USER_INFO.sub(MASK, value)
        elif isinstance(value, (int, float, bool, list)) or value is None:
            shown[name] = value
        else:
            shown[name] = str(value)
    return shown


class AdapterSettings(Mapping[str, Any]):
    """A vendor's own settings, handed to its adapter unread; printing them shows no secret."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"AdapterSettings({masked_mapping(self._values)!r})"


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:50051`, `localhost:50051` or `[::1]:50051`.

    Raises:
        ValueError: the text is no such address; the message says what is wrong.
    """
    host, separator, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets, for example [::1]:50051")
    if not separator or not host:
        raise ValueError("must be host:port, for example 127.0.0.1:50051")
    if not (port_text.isascii() and port_text.isdigit()) or int(port_text) > 65_535:
        raise ValueError("the port must be a number from 0 to 65535 (0 chooses a free one)")
    return host, int(port_text)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address; a name other than localhost is not."""
    host, _ = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(text: str) -> str:
    split_address(text)
    return text


def _otlp_endpoint(text: str) -> str:
    # A login in the address would be printed with it; credentials have no place here.
    if text and not _OTLP_ENDPOINT.fullmatch(text):
        raise ValueError("must be http://host:port or https://host:port, without a login, or empty")
    return text


Address = Annotated[str, AfterValidator(_address)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]
Seconds = Annotated[float, Field(allow_inf_nan=False)]


def _with_secret_read(raw: Any, value_name: str, file_name: str) -> Any:
    """Puts the text of the named file beside its name; a secret may be given in one way only."""
    if not isinstance(raw, Mapping) or not raw.get(file_name):
        return raw
    if raw.get(value_name) is not None:
        raise ValueError(f"give `{file_name}` or `{value_name}`, not both")
    path = Path(str(raw[file_name]))
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(f"{file_name}: cannot read {path}: {error.strerror}") from None
    if len(content) > SECRET_FILE_BYTES_MAX:
        raise ValueError(f"{file_name}: {path} is larger than {SECRET_FILE_BYTES_MAX} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{file_name}: {path} does not hold text") from None
    # Editors and `echo` end a file with a newline, which is not part of the secret.
    return {**raw, value_name: text.rstrip("\r\n")}


class _Section(BaseModel):
    # Hidden input keeps a mistyped secret out of every message that pydantic makes.
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )


class Server(_Section):
    """Addresses, callers, and how the process stops."""

    listen: Address = Field(
        default="127.0.0.1:50051", description="Address of the gRPC server, as host:port."
    )
    admin_listen: Address = Field(
        default="127.0.0.1:50052",
        description="Address of the plaintext gRPC health service, for probes.",
    )
    metrics_listen: Address = Field(
        default="127.0.0.1:50053",
        description="Address of the plaintext HTTP server with the Prometheus metrics.",
    )
    auth: Literal["loopback-only", "none-behind-trusted-proxy"] = Field(
        default="loopback-only",
        description=(
            "Who may call. Callers are not authenticated yet, so production serves loopback "
            "addresses only, unless you say that a proxy which you trust stands before it."
        ),
    )
    tenant: Identifier = Field(
        default="default", description="The tenant that every unauthenticated call belongs to."
    )
    reflection: bool = Field(
        default=False, description="Whether gRPC reflection shows the contract to every caller."
    )
    endpoint_delay_s: Seconds = Field(
        default=5.0,
        ge=0,
        le=60,
        description="After SIGTERM: how long calls are still taken while load balancers notice.",
    )
    drain_grace_s: Seconds = Field(
        default=20.0,
        ge=0,
        le=300,
        description=(
            "After that delay: how long running calls may take to end. Not less than "
            "`provider.attempt_total_s`, so that what was sent can be answered."
        ),
    )

    @model_validator(mode="after")
    def _addresses_differ(self) -> Self:
        counts = Counter(
            address
            for address in (self.listen, self.admin_listen, self.metrics_listen)
            if split_address(address)[1] != 0
        )
        shared = sorted(address for address, count in counts.items() if count > 1)
        if shared:
            raise ValueError(
                f"listen, admin_listen and metrics_listen must differ; {shared[0]} is used twice"
            )
        return self


class Limits(_Section):
    """What one caller may ask of the process."""

    deadline_max_s: Seconds = Field(
        default=60, gt=0, le=600, description="Longest deadline that is kept; a longer one is cut."
    )
    deadline_default_s: Seconds = Field(
        default=30, gt=0, le=600, description="Deadline of a call that brings none."
    )
    deadline_min_s: Seconds = Field(
        default=0.25, gt=0, le=60, description="With less time left no booking is begun."
    )
    in_flight_max: int = Field(
        default=512, ge=1, le=100_000, description="Bookings at work at once, all connections."
    )
    in_flight_per_connection_max: int = Field(
        default=128, ge=1, le=100_000, description="Bookings at work at once on one connection."
    )
    request_bytes_max: int = Field(
        default=262_144, ge=1_024, le=16_777_216, description="Largest request message."
    )
    answer_bytes_max: int = Field(
        default=1_048_576, ge=1_024, le=16_777_216, description="Largest answer message."
    )
    metadata_bytes_max: int = Field(
        default=8_192, ge=1_024, le=65_536, description="Largest metadata of a request."
    )
    unresolved_max: int = Field(
        default=1_000,
        ge=1,
        le=1_000_000,
        description="Bookings in doubt on one connection beyond which no new one is sent.",
    )
    tombstones_per_hour_max: int = Field(
        default=1_000,
        ge=0,
        le=1_000_000,
        description="How many unknown request ids one tenant may cancel in an hour.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.deadline_min_s <= self.deadline_default_s <= self.deadline_max_s:
            raise ValueError(
                "deadline_min_s, deadline_default_s and deadline_max_s must not decrease"
            )
        if self.in_flight_per_connection_max > self.in_flight_max:
            raise ValueError("in_flight_per_connection_max must not exceed in_flight_max")
        return self


class Provider(_Section):
    """How long, and how much, a vendor may answer."""

    connect_s: Seconds = Field(
        default=2, gt=0, le=60, description="Time limit for connecting to a vendor."
    )
    attempt_total_s: Seconds = Field(
        default=15, gt=0, le=120, description="Time limit of one attempt, connecting included."
    )
    answer_bytes_max: int = Field(
        default=262_144, ge=1_024, le=16_777_216, description="Largest answer read from a vendor."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.connect_s >= self.attempt_total_s:
            raise ValueError("connect_s must be less than attempt_total_s")
        return self


class Engine(_Section):
    """How a booking is owned while its truth is open, and how long a code lives."""

    lease_s: Seconds = Field(
        default=30,
        gt=0,
        le=600,
        description=(
            "How long a booking belongs to the process that sends it. Not less than "
            "`provider.attempt_total_s` + `engine.send_by_s`."
        ),
    )
    settle_s: Seconds = Field(
        default=60,
        gt=0,
        le=86_400,
        description="How long after a lost answer a vendor may still carry the booking out.",
    )
    send_by_s: Seconds = Field(
        default=2,
        gt=0,
        le=60,
        description="A booking not sent within this time of its journal entry is not sent.",
    )
    challenge_life_s: Seconds = Field(
        default=600,
        gt=0,
        le=86_400,
        description=(
            "How long a code that was sent may be checked, where the vendor does not say. So long"
            " a repeated request_id sends no second one."
        ),
    )
    proof_life_s: Seconds = Field(
        default=1_800,
        gt=0,
        le=86_400,
        description="How long a proof_token may be used, where the vendor does not say.",
    )


class Recovery(_Section):
    """When a booking in doubt is looked at again."""

    schedule_s: tuple[Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)], ...] = Field(
        default=(1, 5, 15, 60, 300),
        min_length=1,
        max_length=50,
        description="Waiting times before the first attempts of recovery; they never decrease.",
    )
    then_every_s: Seconds = Field(
        default=900, gt=0, le=86_400, description="Waiting time before every later attempt."
    )
    abandon_reserved_s: Seconds = Field(
        default=900,
        gt=0,
        le=604_800,
        description="A booking of which nothing was sent is closed when nobody repeats it so long,"
        " not counting a pause that the vendor asked for.",
    )
    not_found_waits_s: tuple[Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)], ...] = (
        Field(
            default=(300, 600),
            min_length=1,
            max_length=10,
            description=(
                "A vendor that does not know a booking in doubt proves nothing before"
                " `engine.settle_s`, and then only by saying so again after each of these"
                " times."
            ),
        )
    )
    give_up_s: Seconds = Field(
        default=86_400,
        gt=0,
        le=2_592_000,
        description="So long a vendor is asked for a booking in doubt, or to undo one.",
    )
    parallel_max: int = Field(
        default=8, ge=1, le=1_000, description="Bookings in recovery at the same time."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if any(now > then for now, then in zip(self.schedule_s, self.schedule_s[1:], strict=False)):
            raise ValueError("schedule_s must not decrease")
        return self


class Journal(_Section):
    """Where the bookings are remembered: in a SQLite file, or in PostgreSQL for replicas."""

    path: Path = Field(
        default=Path("./loyalty.sqlite3"),
        description=(
            "The SQLite file, where no dsn is set. Its folder is made where it is missing; one"
            " process alone may use it."
        ),
    )
    dsn_file: Path | None = Field(
        default=None,
        description="File with the address of a PostgreSQL database (14 or newer); see `dsn`.",
    )
    dsn: SecretStr | None = Field(
        default=None,
        description=(
            "Address of a PostgreSQL database, postgresql://user:password@host:5432/name, instead"
            " of a file. Any number of replicas may share it."
        ),
    )
    ha: Literal["none", "synchronous"] = Field(
        default="none",
        description=(
            "synchronous: a synchronous standby is demanded, so a promotion loses nothing. none:"
            " after a promotion the journal is refused until `loyalty journal accept`."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        return _with_secret_read(raw, "dsn", "dsn_file")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        dsn = self.dsn.get_secret_value() if self.dsn is not None else "postgresql://"
        if not dsn.startswith(("postgresql://", "postgres://")):
            raise ValueError("dsn must begin with postgresql://")
        return self


class SealingKey(_Section):
    """A key that seals account ids; 32 bytes, written in base64."""

    id: Identifier = Field(description="Name of the key; it is stored beside what it sealed.")
    file: Path | None = Field(default=None, description="File with the key in base64.")
    value: SecretStr | None = Field(
        default=None, description="The key itself in base64, instead of a file."
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        return _with_secret_read(raw, "value", "file")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.value is None:
            raise ValueError("needs `file` or `value`")
        try:
            key = self.secret_bytes
        except ValueError:
            raise ValueError("is not base64; make a key with: openssl rand -base64 32") from None
        if len(key) != SEALING_KEY_BYTES:
            raise ValueError(
                f"must be {SEALING_KEY_BYTES} bytes before base64 and has {len(key)}; "
                "make a key with: openssl rand -base64 32"
            )
        return self

    @property
    def secret_bytes(self) -> bytes:
        """The key itself; keep it out of every message."""
        assert self.value is not None
        return base64.b64decode(self.value.get_secret_value(), validate=True)


class Keys(_Section):
    """Secrets of the gateway itself; production demands a sealing key and the salt."""

    sealing: tuple[SealingKey, ...] = Field(
        default=(),
        max_length=20,
        description="Keys that seal account ids. The first one seals; all of them can open.",
    )
    outbound_salt_file: Path | None = Field(
        default=None,
        description=(
            "File with the salt of the ids sent to vendors. It must never change while a "
            "booking is open: a new salt makes a resend look like a new booking."
        ),
    )
    outbound_salt: SecretStr | None = Field(
        default=None,
        description="The salt itself, instead of a file; at least 16 bytes of text.",
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        return _with_secret_read(raw, "outbound_salt", "outbound_salt_file")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        twice = [id for id, count in Counter(key.id for key in self.sealing).items() if count > 1]
        if twice:
            raise ValueError(f"two sealing keys are called {twice[0]}")
        salt = self.outbound_salt_bytes
        if salt is not None and len(salt) < OUTBOUND_SALT_BYTES_MIN:
            raise ValueError(
                f"the outbound salt must have at least {OUTBOUND_SALT_BYTES_MIN} bytes; "
                "make one with: openssl rand -base64 32"
            )
        return self

    @property
    def outbound_salt_bytes(self) -> bytes | None:
        """The salt itself, None where none is configured; keep it out of every message."""
        if self.outbound_salt is None:
            return None
        return self.outbound_salt.get_secret_value().encode()


class TelemetrySettings(_Section):
    """Traces and logs."""

    otlp_endpoint: Annotated[str, AfterValidator(_otlp_endpoint)] = Field(
        default="",
        description="OTLP collector over gRPC, http://host:port or https://host:port; empty: none.",
    )
    trace_file: Path | None = Field(
        default=None,
        description="File that every span is added to as a line of JSON, for one's own machine.",
    )
    sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of traces that are recorded when the caller did not decide.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important log line that is written."
    )
    log_format: Literal["json", "text"] = Field(
        default="json", description="JSON for programs, text for people."
    )


class Promise(_Section):
    """What an operator declares about a vendor, with the proof at hand."""

    value: bool = Field(description="Whether the vendor keeps the promise.")
    proven_on: date = Field(description="The day on which it was seen, as YYYY-MM-DD.")
    evidence: Annotated[str, StringConstraints(min_length=1, max_length=500)] = Field(
        description="How it was seen; shown by GetCapabilities."
    )


class Connection(_Section):
    """Our account with a vendor. Every other key of the table is the adapter's own setting."""

    provider: Identifier = Field(description="The vendor, for example cashassist.")
    display_name: Annotated[str, StringConstraints(max_length=100)] = Field(
        default="", description="Name for people; empty: the vendor's."
    )
    paused: bool = Field(
        default=False,
        description=(
            "Whether the connection rests: new bookings, reads and codes are refused, and its"
            " doubts and undos wait, while the vendor's memory and `recovery.give_up_s` run on."
        ),
    )
    promises: dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,60}$")], Promise] = (
        Field(default_factory=dict, description="What you declare about this vendor, by name.")
    )
    adapter_settings: SkipJsonSchema[InstanceOf[AdapterSettings]] = Field(
        default_factory=lambda: AdapterSettings({}), exclude=True
    )

    @model_validator(mode="before")
    @classmethod
    def _split(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        ours = cls.model_fields.keys() - {"adapter_settings"}
        own = {name: value for name, value in raw.items() if name not in ours}
        known = {name: value for name, value in raw.items() if name in ours}
        return {**known, "adapter_settings": AdapterSettings(own)}


class Settings(_Section):
    """Everything that can be set, checked as a whole."""

    profile: Profile = Field(
        default="production",
        description="production, or sandbox, which `loyalty sandbox` sets by itself.",
    )
    server: Server = Field(default_factory=Server)
    limits: Limits = Field(default_factory=Limits)
    provider: Provider = Field(default_factory=Provider)
    engine: Engine = Field(default_factory=Engine)
    recovery: Recovery = Field(default_factory=Recovery)
    journal: Journal = Field(default_factory=Journal)
    keys: Keys = Field(default_factory=Keys)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    connections: dict[Identifier, Connection] = Field(default_factory=dict)
