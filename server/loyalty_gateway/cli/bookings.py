"""`loyalty bookings` and `connections`: what people ask a running server; it decides nothing."""

import re
import sys
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from cyclopts import App, Parameter

from loyalty.v1 import bookings_pb2, providers_pb2, types_pb2
from loyalty_gateway.cli import resolving, screen
from loyalty_gateway.cli.asking import ASKED, Asked, open_server
from loyalty_gateway.cli.client import Server, to_json
from loyalty_gateway.cli.decision_file import OUTCOMES, read_decisions
from loyalty_gateway.cli.failure import CommandFailed, UsageFailed

PAGE_SIZE_MAX = 200
INCIDENT_LENGTH_MAX = 120
LIST_LIMIT_MAX = 10_000

KeyedRequest = TypeVar(
    "KeyedRequest",
    bookings_pb2.GetBookingRequest,
    bookings_pb2.ExplainBookingRequest,
    bookings_pb2.CancelBookingRequest,
)


class StateName(Enum):
    """The states as they may be typed: needs-review or NEEDS_REVIEW."""

    RESERVED = types_pb2.BOOKING_STATE_RESERVED
    SENDING = types_pb2.BOOKING_STATE_SENDING
    IN_DOUBT = types_pb2.BOOKING_STATE_IN_DOUBT
    REVERSING = types_pb2.BOOKING_STATE_REVERSING
    NEEDS_REVIEW = types_pb2.BOOKING_STATE_NEEDS_REVIEW
    SUCCEEDED = types_pb2.BOOKING_STATE_SUCCEEDED
    DECLINED = types_pb2.BOOKING_STATE_DECLINED
    NOT_EXECUTED = types_pb2.BOOKING_STATE_NOT_EXECUTED
    REVERSED = types_pb2.BOOKING_STATE_REVERSED


bookings_app = App(
    name="bookings",
    help="""Look into the journal of a running server, and end a doubt.

    A booking is named by its name (`bookings/…`) or by the caller's request_id.
    """,
    help_epilogue="""Examples:

```
loyalty bookings list --state in-doubt --state needs-review --since 24h
loyalty bookings explain till-7-000123
loyalty bookings resolve till-7-000123 --ask-now
loyalty bookings resolve --from decisions.csv --dry-run
```
""",
)
connections_app = App(
    name="connections",
    help="See the connections of a running server and what each can do.",
    help_epilogue="Example: `loyalty connections list`",
)

BookingName = Annotated[
    str, Parameter(name="NAME", help="`bookings/…`, or the caller's request_id.")
]


@bookings_app.command(
    name="list",
    help_epilogue="""Examples:

```
loyalty bookings list --state needs-review --since 7d --limit 500
loyalty bookings list --incident cashassist/2026-11-21T23/PROVIDER_UNREACHABLE
```
""",
)
def list_bookings(
    *,
    state: Annotated[
        tuple[StateName, ...],
        Parameter(
            negative=(), show_default=False, help="Only this state; may be given more than once."
        ),
    ] = (),
    connection: Annotated[str, Parameter(help="Only this connection.", show_default=False)] = "",
    incident: Annotated[
        str,
        Parameter(
            help="Only what one incident left in doubt, as the list names it.", show_default=False
        ),
    ] = "",
    since: Annotated[
        str,
        Parameter(
            help="Only bookings created since: 30m, 24h, 7d, or a time as in RFC 3339.",
            show_default=False,
        ),
    ] = "",
    limit: Annotated[int, Parameter(help="At most this many, 1 to 10000.")] = 50,
    asked: Asked = ASKED,
) -> None:
    """List bookings, the newest first."""
    if not 1 <= limit <= LIST_LIMIT_MAX:
        raise UsageFailed(f"--limit must be from 1 to {LIST_LIMIT_MAX}.")
    if len(incident) > INCIDENT_LENGTH_MAX:
        raise UsageFailed(f"--incident must be at most {INCIDENT_LENGTH_MAX} characters.")
    request = bookings_pb2.ListBookingsRequest(connection=connection, incident=incident)
    request.states.extend(dict.fromkeys(each.value for each in state))
    if since:
        request.created.start_time.FromDatetime(read_since(since, datetime.now(UTC)))
    answer = bookings_pb2.ListBookingsResponse()
    with open_server(asked) as server:
        while len(answer.bookings) < limit:
            request.page.page_size = min(PAGE_SIZE_MAX, limit - len(answer.bookings))
            request.page.page_token = answer.next_page_token
            page = server.call(server.bookings.ListBookings, request)
            answer.bookings.extend(page.bookings)
            answer.next_page_token = page.next_page_token
            if not page.next_page_token:
                break
    if asked.json:
        print(to_json(answer))
    else:
        is_cut = bool(answer.next_page_token)
        screen.show_bookings(screen.Screen(), answer.bookings, is_cut=is_cut)


@bookings_app.command(
    name="show",
    help_epilogue="Example: `loyalty bookings show till-7-000123 --json`",
)
def show_booking(name: BookingName, /, *, asked: Asked = ASKED) -> None:
    """Show everything that is known of one booking today."""
    with open_server(asked) as server:
        booking = _get(server, name)
    _show(booking, asked)


@bookings_app.command(
    name="explain",
    help_epilogue="Example: `loyalty bookings explain till-7-000123`",
)
def explain_booking(name: BookingName, /, *, asked: Asked = ASKED) -> None:
    """Tell the story of a booking: each step, whose fault it is, what happens next."""
    request = _naming(bookings_pb2.ExplainBookingRequest(), name)
    with open_server(asked) as server:
        story = server.call(server.bookings.ExplainBooking, request)
    if asked.json:
        print(to_json(story))
    else:
        screen.show_story(screen.Screen(), story)


@bookings_app.command(
    name="cancel",
    help_epilogue="Example: `loyalty bookings cancel till-7-000123`",
)
def cancel_booking(name: BookingName, /, *, asked: Asked = ASKED) -> None:
    """Give a booking up.

    What was not sent never will be; what was sent is undone where the operation has an undo, and
    else the refusal tells its true outcome. A request_id that never arrived is closed for ever.
    """
    request = _naming(bookings_pb2.CancelBookingRequest(), name)
    with open_server(asked) as server:
        booking = server.call(server.bookings.CancelBooking, request).booking
    _show(booking, asked)


@bookings_app.command(
    name="resolve",
    help_epilogue="""Examples:

```
loyalty bookings resolve till-7-000123 --ask-now
loyalty bookings resolve till-7-000123 --outcome executed
    --evidence "vendor ticket 4711" --reason "their back office shows the withdrawal"
loyalty bookings resolve --from decisions.csv --dry-run
```

A file of decisions is CSV that begins with the line `booking,outcome,evidence,reason`, or one
JSON object with these names in each line:

```
booking,outcome,evidence,reason
till-7-000123,executed,statement line 81,their statement shows the withdrawal
bookings/01a20074-3b79-76b1-b274-9fb5d90f3bfd,not-executed,statement of 21 Nov,no line for it
```
""",
)
def resolve_booking(
    name: Annotated[
        str | None,
        Parameter(
            name="NAME", help="`bookings/…`, or the caller's request_id.", show_default=False
        ),
    ] = None,
    /,
    *,
    ask_now: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Let the gateway ask the provider at once."
        ),
    ] = False,
    outcome: Annotated[
        Literal["executed", "not-executed"] | None,
        Parameter(help="What a person has found out.", show_default=False),
    ] = None,
    evidence: Annotated[
        str,
        Parameter(
            help="What proves it: the provider's reference, a ticket of its support.",
            show_default=False,
        ),
    ] = "",
    reason: Annotated[str, Parameter(help="Why you decide so.", show_default=False)] = "",
    from_file: Annotated[
        Path | None,
        Parameter(
            name="--from",
            help="Record the decisions in this file; `-` reads standard input.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="With --from: check the file, ask where each booking stands, change nothing.",
        ),
    ] = False,
    yes: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Do not ask for confirmation.")
    ] = False,
    asked: Asked = ASKED,
) -> int:
    """End a doubt: ask the provider now, or record what a person has found out.

    A recorded outcome is final and is answered to every repeat of the request_id, so a terminal
    is asked for confirmation first.

    With --from many are recorded at once. The whole file is checked before the first is sent, and
    every wrong line is named. Each booking has a line with what became of it; the exit code is 1
    when any failed. Running the same file again is safe: what is recorded stays as it is.
    """
    if from_file is not None:
        if name or ask_now or outcome or evidence or reason:
            raise UsageFailed("--from takes the bookings and what is decided from the file alone.")
        return _resolve_file(from_file, asked, is_dry_run=dry_run, is_agreed=yes)
    if name is None:
        raise UsageFailed("give the NAME of a booking, or a file of decisions with --from.")
    if dry_run:
        raise UsageFailed("--dry-run belongs to --from.")
    if ask_now == (outcome is not None):
        raise UsageFailed("give exactly one of --ask-now and --outcome.")
    if ask_now and (evidence or reason):
        raise UsageFailed("--evidence and --reason belong to --outcome, not to --ask-now.")
    if outcome and not (evidence.strip() and reason.strip()):
        raise UsageFailed("--outcome needs --evidence and --reason: the journal keeps both.")
    with open_server(asked) as server:
        if outcome:
            booking = _get(server, name)
            _confirm(booking, outcome, asked, is_agreed=yes)
            name = booking.name
        elif not _is_booking_name(name):
            name = _get(server, name).name
        request = bookings_pb2.ResolveBookingRequest(name=name)
        if outcome:
            request.decision.outcome = OUTCOMES[outcome]
            request.decision.evidence = evidence
            request.decision.reason = reason
        else:
            request.ask_now.SetInParent()
        booking = server.call(server.bookings.ResolveBooking, request).booking
    _show(booking, asked)
    return 0


def _resolve_file(path: Path, asked: Asked, *, is_dry_run: bool, is_agreed: bool) -> int:
    decisions = read_decisions(path)
    is_asked = not (is_agreed or is_dry_run or asked.json)
    if is_asked and sys.stdin.isatty() and sys.stderr.isatty():
        resolving.confirm(decisions)
    with open_server(asked) as server:
        return resolving.resolve_all(server, decisions, is_dry_run=is_dry_run, is_json=asked.json)


@connections_app.command(name="list", help_epilogue="Example: `loyalty connections list`")
def list_connections(*, asked: Asked = ASKED) -> None:
    """List the connections: whether each works, and how many of its bookings are unresolved."""
    request = providers_pb2.ListConnectionsRequest()
    request.page.page_size = PAGE_SIZE_MAX
    answer = providers_pb2.ListConnectionsResponse()
    with open_server(asked) as server:
        while True:
            page = server.call(server.providers.ListConnections, request)
            answer.connections.extend(page.connections)
            request.page.page_token = page.next_page_token
            if not page.next_page_token or len(answer.connections) >= LIST_LIMIT_MAX:
                break
    if asked.json:
        print(to_json(answer))
    else:
        screen.show_connections(screen.Screen(), answer.connections)


@connections_app.command(
    name="capabilities",
    help_epilogue="Example: `loyalty connections capabilities cashassist`",
)
def show_capabilities(
    connection: Annotated[str, Parameter(name="CONNECTION", help="The connection's id.")],
    /,
    *,
    asked: Asked = ASKED,
) -> None:
    """Show what a connection can do and how it recovers a lost answer."""
    request = providers_pb2.GetCapabilitiesRequest(connection=connection)
    with open_server(asked) as server:
        answer = server.call(server.providers.GetCapabilities, request)
    if asked.json:
        print(to_json(answer))
    else:
        screen.show_capabilities(screen.Screen(), connection, answer)


def read_since(text: str, now: datetime) -> datetime:
    """The moment that a text names: a span before now, or a time with a zone (none means UTC)."""
    span = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if span:
        unit_s = {"s": 1, "m": 60, "h": 3600, "d": 86_400}[span[2]]
        moment = now - timedelta(seconds=int(span[1]) * unit_s)
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise UsageFailed(
                "--since must be a span such as 30m, 24h or 7d, or a time such as "
                "2026-01-31T08:00:00Z."
            ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(moment, datetime(1970, 1, 1, tzinfo=UTC))


def _is_booking_name(name: str) -> bool:
    # A request_id cannot hold a slash, so the two never look alike.
    return name.startswith("bookings/")


def _naming(request: KeyedRequest, name: str) -> KeyedRequest:
    if _is_booking_name(name):
        request.name = name
    else:
        request.request_id = name
    return request


def _get(server: Server, name: str) -> types_pb2.Booking:
    request = _naming(bookings_pb2.GetBookingRequest(), name)
    return server.call(server.bookings.GetBooking, request).booking


def _show(booking: types_pb2.Booking, asked: Asked) -> None:
    if asked.json:
        print(to_json(booking))
    else:
        screen.show_booking(screen.Screen(), booking)


def _confirm(booking: types_pb2.Booking, outcome: str, asked: Asked, *, is_agreed: bool) -> None:
    """A person at a terminal sees what is about to be settled; a script has decided already."""
    if is_agreed or asked.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    screen.show_booking(screen.Screen(sys.stderr), booking)
    print(f"\nRecord this booking as {outcome.upper()}, for ever? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandFailed("nothing was changed.")
