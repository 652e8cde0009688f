"""docs/errors.md: every reason of an error, and what each vendor's codes are taken for."""

from collections.abc import Iterator, Mapping
from textwrap import fill
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from docs.vendors import VENDORS, Vendor
from loyalty.v1 import errors_pb2
from loyalty_gateway.domain.errors import Reason
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS
from loyalty_gateway.providers.http import SENTENCES, TRANSPORT
from loyalty_gateway.providers.port import StatusRow
from loyalty_gateway.rpc.status import CODES

DESCRIPTORS: Final = "generated/loyalty/v1/descriptor_set.binpb"
PREFIX: Final = "ERROR_REASON_"

INTRODUCTION: Final = """\
# Errors

<!-- Made by `make docs` from the contract and the vendors' tables; edit those. -->

> **The one rule.** Look at `final`; while it is not true, repeat the same `request_id` (always
> safe), or give up with `CancelBooking`, whose answer closes the `request_id`.

Every error carries a `google.rpc.Status` with one `ErrorInfo`, whose domain is `loyalty-gateway`
and whose `reason` is one of those below, whichever vendor is behind it. Its metadata holds, where
they are known:

- `outcome`: `EXECUTED`, `NOT_EXECUTED` or `UNKNOWN`. An error **without** it says nothing about an
  earlier call with the same `request_id`, so take the outcome for unknown. Unknown is never
  "failed".
- `final`: whether the outcome can change any more. `NOT_EXECUTED` that is not final means that
  nothing was done *so far*: an earlier copy of the call may still arrive.
- `booking`, `request_id`, `connection`, `provider`, `provider_code`, `error_id`, `field`.

`RetryInfo` comes where repeating the same `request_id` soon is useful, and only there. On bookings
the trailer `grpc-retry-pushback-ms` says the same to gRPC libraries, and `-1` in it tells them not
to repeat by themselves. `UNAUTHENTICATED` and `PERMISSION_DENIED` speak of the caller's own
key and never of ours at a vendor.
"""

REPEAT: Final = "repeat the same request_id, after the time in RetryInfo where there is one"
MEND: Final = "mend the request; where nothing was journalled the same request_id is free"
FINAL: Final = "final for this request_id; another try is another booking, with a new request_id"
STANDS: Final = (
    "where `final` is true, closed; else nothing was written, and a repeat fares no better while"
    " the original stands so"
)
NEW: Final = "closed; use a new request_id to book again"
OPERATOR: Final = "an operator has to act; until then a repeat fares no better"
PERSON: Final = "a person decides; ask for the booking, and never book it again by another way"
READ: Final = "read again, after the time in RetryInfo where there is one"
CALLER: Final = "mend the caller's key, then repeat"

ADVICE: Final[Mapping[Reason, str]] = {
    Reason.REQUEST_INVALID: MEND,
    Reason.REQUEST_ID_REUSED: "use a new request_id, or ask for the booking that has this one",
    Reason.BOOKING_IN_DOUBT: REPEAT,
    Reason.BOOKING_IN_PROGRESS: REPEAT,
    Reason.BOOKING_NEEDS_REVIEW: PERSON,
    Reason.BOOKING_NOT_EXECUTED: NEW,
    Reason.BOOKING_REVERSED: NEW,
    Reason.CANCELLED_BEFORE_ARRIVAL: NEW,
    Reason.CANCEL_NOT_POSSIBLE: "go by the outcome that it tells; while unknown, repeat",
    Reason.RESOLUTION_NOT_POSSIBLE: "look at the booking; where it is being sent, try again later",
    Reason.ALREADY_REVERSED: STANDS,
    Reason.ORIGINAL_NOT_FOUND: MEND,
    Reason.ORIGINAL_NOT_REVERSIBLE: STANDS,
    Reason.ACCOUNT_NOT_FOUND: FINAL,
    Reason.ACCOUNT_NOT_ACTIVE: FINAL,
    Reason.ACCOUNT_ALREADY_EXISTS: FINAL,
    Reason.ACCOUNT_ON_HOLD: REPEAT,
    Reason.INSUFFICIENT_BALANCE: FINAL,
    Reason.CURRENCY_NOT_ACCEPTED: MEND,
    Reason.CODE_INVALID: "let the person enter the code again",
    Reason.CODE_EXPIRED: "ask for a new code, with a new request_id",
    Reason.CAPABILITY_NOT_SUPPORTED: "do not repeat; GetCapabilities says what the vendor can do",
    Reason.FIELD_REQUIRED_BY_PROVIDER: MEND,
    Reason.PROVIDER_DECLINED: FINAL,
    Reason.PROVIDER_REJECTED_ARGUMENT: FINAL,
    Reason.PROVIDER_PENDING: "repeat where there is a RetryInfo; else ask for a new code",
    Reason.PROVIDER_CREDENTIALS_REJECTED: OPERATOR,
    Reason.PROVIDER_ACCESS_DENIED: OPERATOR,
    Reason.PROVIDER_RATE_LIMITED: REPEAT,
    Reason.PROVIDER_INTERNAL: READ,
    Reason.PROVIDER_UNREACHABLE: REPEAT,
    Reason.PROVIDER_ANSWER_UNREADABLE: READ,
    Reason.PROVIDER_KEY_CONFLICT: PERSON,
    Reason.ADAPTER_ROUTE_INVALID: OPERATOR,
    Reason.CONNECTION_NOT_FOUND: MEND,
    Reason.CONNECTION_PAUSED: "repeat the same request_id once an operator has let it go on",
    Reason.UNAUTHENTICATED: CALLER,
    Reason.SCOPE_MISSING: CALLER,
    Reason.NOT_FOUND: "for a booking: repeat the call itself with its request_id",
    Reason.OVERLOADED: REPEAT,
    Reason.TENANT_LIMITED: REPEAT,
    Reason.DRAINING: REPEAT,
    Reason.DEADLINE_TOO_SHORT: "repeat the same request_id with a longer deadline",
    Reason.JOURNAL_UNAVAILABLE: REPEAT,
    Reason.DATA_LOSS: PERSON,
    Reason.INTERNAL: "repeat the same request_id; the error_id finds the defect in the log",
}
"""What a caller does about each reason."""

assert set(ADVICE) == set(Reason) == set(CODES), "every reason has its code and its advice"

VENDORS_INTRODUCTION: Final = """\
## What the vendors' answers are taken for

For a booking, `fate` is what the answer proves of its effect: `NOT_EXECUTED` has to be proven, by
the vendor's own documented refusal, and whatever is not listed is `UNKNOWN`. *Refused* means that
the vendor has looked at the booking and said no: it is final. *Not executed* without it means that
nothing was looked at: the same request may be sent again. A proof is of *this attempt* alone unless
it says *the whole booking*; an earlier attempt whose answer was lost stays in doubt. A read has no
fate: there only the reason counts.

### Any vendor: the exchange itself failed

| what happened | reason | fate of a booking |
| --- | --- | --- |
"""


def errors_page(descriptors: bytes) -> str:
    """The page, made of the contract's compiled descriptors."""
    comments = _comments(descriptors)
    parts = [INTRODUCTION, "## The reasons at a glance\n"]
    parts += ["| reason | gRPC code | what the caller does |\n| --- | --- | --- |"]
    for reason in Reason:
        link = f"[`{reason}`](#{reason.lower()})"
        parts.append(f"| {link} | `{CODES[reason].name}` | {ADVICE[reason]} |")
    parts += ["", "## The reasons one by one", ""]
    for reason in Reason:
        parts.append(_section(reason, comments[reason]))
    parts.append(VENDORS_INTRODUCTION.rstrip("\n"))
    for failure, row in TRANSPORT.items():
        parts.append(f"| {SENTENCES[failure]} | `{row.reason}` | {_fate(row)} |")
    for provider, vendor in VENDORS.items():
        parts += ["", *_vendor_lines(provider, vendor)]
    return "\n".join([*parts, ""])


def _section(reason: Reason, comment: str) -> str:
    meaning, _, example = comment.partition("Example:")
    meaning = meaning.partition("gRPC code:")[0]
    text = fill(f"`{CODES[reason].name}`. {' '.join(meaning.split())}", 100)
    lines = [line[4:] for line in example.strip("\n").split("\n")]
    json = "\n".join(line[1:] if line.startswith(" ") else line for line in lines).strip("\n")
    return f"### {reason}\n\n{text}\n\nWhat to do: {ADVICE[reason]}.\n\n```json\n{json}\n```\n"


def _comments(descriptors: bytes) -> dict[Reason, str]:
    """The contract's own words for each reason."""
    name = errors_pb2.DESCRIPTOR.name
    files = FileDescriptorSet.FromString(descriptors).file
    file = next(it for it in files if it.name == name)
    values = file.enum_type[0].value
    # A value's place in the file: enum_type (5) 0, value (2) so-and-so.
    return {
        Reason(values[place.path[3]].name.removeprefix(PREFIX)): place.leading_comments
        for place in file.source_code_info.location
        if list(place.path[:3]) == [5, 0, 2] and len(place.path) == 4 and place.path[3] > 0
    }


def _vendor_lines(provider: str, vendor: Vendor) -> Iterator[str]:
    yield f"### {vendor.adapter.display_name} (`{provider}`)"
    yield ""
    yield "| code or HTTP status | of | reason | fate of a booking |"
    yield "| --- | --- | --- | --- |"
    is_booking = any(it in BOOKING_OPERATIONS for it in vendor.adapter.operations)
    assert is_booking, "a vendor without any booking needs no fates"
    places = {code: place for place, (_, code) in enumerate(vendor.subject.status)}
    # A table made from a set of operations has another order in every process.
    rows = sorted(vendor.subject.status.items(), key=lambda it: (places[it[0][1]], it[0][0] or ""))
    for (operation, code), row in rows:
        shown = f"HTTP {code}" if isinstance(code, int) else f"`{code}`"
        yield f"| {shown} | {operation or 'any'} | `{row.reason}` | {_fate(row)} |"
    default = vendor.subject.status_default
    yield f"| anything else | any | `{default.reason}` | {_fate(default)} |"


def _fate(row: StatusRow) -> str:
    told = [f"`{row.fate}`"]
    if row.is_refusal:
        told.append("refused")
    if row.fate.name != "UNKNOWN":
        told.append(row.proves.replace("_", " ").lower())
    if row.contradicts:
        told.append("a person decides")
    if row.shows_earlier:
        told.append("to a resend: an earlier attempt was executed")
    if row.may_be_own:
        told.append("to a resend: no proof, for an earlier attempt may have caused it")
    return ", ".join(told)
