"""How answers look to a person: words, tables and colour; it must never ask a server anything.

Colour and wrapping are for terminals only; a pipe gets plain lines that are never cut.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TextIO

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from loyalty.v1 import bookings_pb2, providers_pb2, types_pb2
from loyalty_gateway.cli.client import Refusal

GAP_SHOWN = timedelta(milliseconds=100)
_PLAIN_WIDTH = 4000
_NARROW_WIDTH = 100

STATE_WORDS: dict[str, tuple[str, str]] = {
    "UNSPECIFIED": ("only checked, nothing written", "dim"),
    "RESERVED": ("nothing was booked so far; the same request_id may be repeated", "yellow"),
    "SENDING": ("on its way to the provider; an effect is possible", "yellow"),
    "IN_DOUBT": ("the answer is missing or proves nothing; the gateway is finding out", "yellow"),
    "REVERSING": ("being undone", "yellow"),
    "NEEDS_REVIEW": ("no machine can find out what happened; a person decides", "bold red"),
    "SUCCEEDED": ("the provider executed it", "green"),
    "DECLINED": ("the provider refused it; nothing happened", "cyan"),
    "NOT_EXECUTED": ("proven: nothing happened", "cyan"),
    "REVERSED": ("undone; the net effect is nothing", "cyan"),
}
"""What each state means in a few words, and its colour."""

FAULT_WORDS: dict[str, str] = {
    "UNSPECIFIED": "not said",
    "NOBODY": "nobody's: nothing went wrong",
    "CALLER": "the caller's: the request could not be done",
    "GATEWAY": "the gateway's: this server, its configuration or its credentials",
    "PROVIDER": "the provider's, or the way to it",
    "UNKNOWN": "cannot be told yet",
}

NEXT_WORDS: dict[str, str] = {
    "REQUEST_INVALID": "Mend the fields named above and ask again.",
    "NOT_FOUND": (
        "Look at the spelling; `loyalty bookings list` shows what the journal knows. This proves "
        "nothing about the provider: the call may still be on its way."
    ),
    "CANCEL_NOT_POSSIBLE": (
        "It cannot be undone here; what is known of it stands in outcome. "
        "`loyalty bookings explain` tells its story."
    ),
    "RESOLUTION_NOT_POSSIBLE": (
        "Nothing was changed. `loyalty bookings show` tells where the booking stands now."
    ),
    "BOOKING_IN_DOUBT": (
        "Nothing is lost: the gateway goes on finding out by itself. Look again in a moment."
    ),
    "BOOKING_NEEDS_REVIEW": (
        "Find out at the provider what happened, then settle it with `loyalty bookings resolve "
        "NAME --outcome … --evidence … --reason …`."
    ),
    "CONNECTION_NOT_FOUND": "`loyalty connections list` shows the connections that there are.",
    "UNAUTHENTICATED": "The server wants a key or a token from its callers.",
    "SCOPE_MISSING": "The caller's key lacks the scope for this call.",
    "TENANT_LIMITED": "Wait as long as said, then ask again.",
    "OVERLOADED": "Wait as long as said, then ask again; asking again is safe.",
    "DRAINING": "The server is stopping; ask again once it has been started anew.",
    "DEADLINE_TOO_SHORT": "Give the call more time with --timeout.",
    "JOURNAL_UNAVAILABLE": "Nothing was sent. Look at the server's log: its database is away.",
    "DATA_LOSS": "Stop and look: what is stored cannot be read. The server's log says more.",
    "INTERNAL": "A fault of the server's: its log has more under the error_id.",
}
"""What to do about a refusal that these commands can meet, by reason."""


class Screen:
    """Prints to one stream; it decides once whether a person's terminal is at the other end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = sys.stdout if stream is None else stream
        # No markup and no highlighting: what comes from a journal must look like what it is.
        self._console = Console(file=stream, markup=False, highlight=False, emoji=False)
        self.is_terminal = self._console.is_terminal
        self.is_narrow = self.is_terminal and self._console.width < _NARROW_WIDTH
        if not self.is_terminal:
            self._console = Console(
                file=stream, markup=False, highlight=False, emoji=False, width=_PLAIN_WIDTH
            )

    def show(self, *parts: RenderableType) -> None:
        if self.is_terminal:
            self._print(parts)
            return
        with self._console.capture() as capture:
            self._print(parts)
        lines = (line.rstrip() for line in capture.get().splitlines())
        self._console.file.write("\n".join(lines) + "\n")
        self._console.file.flush()

    @contextmanager
    def progress(self, total: int, *, is_shown: bool = True) -> Iterator[Callable[[], None]]:
        """A bar for long work, on a terminal only; what it gives is called after each step.

        The bar stands below the lines that are shown meanwhile; where those go to a pipe or a
        file, it stands on standard error.
        """
        console = self._console if self.is_terminal else Console(file=sys.stderr)
        if not (is_shown and console.is_terminal):
            yield lambda: None
            return
        bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with bar:
            task = bar.add_task("", total=total)
            yield lambda: bar.advance(task)

    def _print(self, parts: Iterable[RenderableType]) -> None:
        for part in parts:
            # A line of text is left to the terminal to wrap, so that it can be copied whole.
            self._console.print(part, soft_wrap=isinstance(part, Text))


def clean(text: str) -> str:
    """A text in one line that cannot move the cursor: control characters become blanks."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def line(*parts: str | tuple[str, str]) -> Text:
    """One line of texts, each plain or with its style."""
    return Text.assemble(*parts)


def state_name(state: types_pb2.BookingState.ValueType) -> str:
    return types_pb2.BookingState.Name(state).removeprefix("BOOKING_STATE_")


def outcome_name(outcome: types_pb2.Outcome.ValueType) -> str:
    return types_pb2.Outcome.Name(outcome).removeprefix("OUTCOME_")


def money_text(money: Money) -> str:
    """Exact, with two decimals or as many as the amount has (42.50 CHF)."""
    value = Decimal(money.units) + Decimal(money.nanos).scaleb(-9)
    digits = max(2, len(f"{abs(money.nanos):09d}".rstrip("0")) if money.nanos else 2)
    return f"{value:.{digits}f} {clean(money.currency_code)}"


def points_text(points: types_pb2.PointsAmount) -> str:
    return f"{points.value} {clean(points.unit) or 'points'}"


def amount_text(amount: types_pb2.Amount | types_pb2.AccountBalance) -> str:
    match amount.WhichOneof("value"):
        case "money":
            return money_text(amount.money)
        case "points":
            return points_text(amount.points)
        case _:
            return ""


def when(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def time_text(stamp: Timestamp) -> str:
    return f"{when(stamp):%Y-%m-%d %H:%M:%S}Z"


def span_text(span: timedelta) -> str:
    """A span of time as people say it: 350 ms, 12 s, 4 min, 3 h, 2 d; the sign is dropped."""
    seconds = abs(span.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit_s, unit_s, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit_s:
            return f"{seconds / unit_s:.3g} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _operation(booking: types_pb2.Booking) -> str:
    if not booking.method:
        return "cancelled before it arrived"
    return f"{clean(booking.service)}.{clean(booking.method)}"


def _facts(rows: Iterable[tuple[str, RenderableType | str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value if not isinstance(value, str) else Text(value))
    return grid


def _state(booking: types_pb2.Booking) -> Text:
    name = state_name(booking.state)
    words, style = STATE_WORDS[name]
    return Text.assemble((name, style), f": {words}")


def new_table(*columns: str) -> Table:
    """A table without lines around it, whose cells are never cut."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def show_bookings(screen: Screen, bookings: Iterable[types_pb2.Booking], *, is_cut: bool) -> None:
    """The table of `bookings list`; `is_cut` says that more matched than were asked for.

    Below it stand the incidents whose bookings are still open: one trouble at a vendor leaves
    many doubts, and they are looked into and settled together.
    """
    table = new_table("CREATED", "STATE", "OPERATION", "AMOUNT")
    if not screen.is_narrow:
        table.add_column("ACCOUNT", no_wrap=True)
        table.add_column("CONNECTION", no_wrap=True)
    # Never cut: it is what the next command needs.
    table.add_column("REQUEST_ID", overflow="fold")
    open_of: Counter[str] = Counter()
    for booking in bookings:
        name = state_name(booking.state)
        if booking.incident and not booking.final:
            open_of[booking.incident] += 1
        row = [
            Text(time_text(booking.create_time)),
            Text(name, STATE_WORDS[name][1]),
            Text(clean(booking.method) if screen.is_narrow else _operation(booking)),
            Text(amount_text(booking.asked)),
        ]
        if not screen.is_narrow:
            row += [Text(clean(booking.account.masked_id)), Text(clean(booking.connection))]
        table.add_row(*row, Text(clean(booking.request_id)))
    if not table.row_count:
        screen.show(Text("No booking matches."))
        return
    parts: list[RenderableType] = [table]
    if is_cut:
        parts.append(Text(f"\nThe first {table.row_count}; there are more (--limit).", "dim"))
    if open_of:
        rows = ((clean(incident), f"{count} open") for incident, count in open_of.most_common())
        parts += [Text("\nopen incidents (--incident)", "bold"), _facts(rows)]
    screen.show(*parts)


def show_booking(screen: Screen, booking: types_pb2.Booking) -> None:
    """Everything that one booking holds."""
    screen.show(_headline(booking), _facts(_booking_rows(booking)))


def _headline(booking: types_pb2.Booking) -> Text:
    what = [_operation(booking)]
    asked = amount_text(booking.asked)
    if asked:
        what.append(asked)
    if booking.account.masked_id:
        what.append(f"account {clean(booking.account.masked_id)}")
    if booking.connection:
        what.append(f"at {clean(booking.connection)}")
    return Text(", ".join(what), "bold")


def _booking_rows(booking: types_pb2.Booking) -> list[tuple[str, RenderableType | str]]:
    rows: list[tuple[str, RenderableType | str]] = [
        ("state", _state(booking)),
        ("outcome", f"{outcome_name(booking.outcome)}, {_finality(booking)}"),
        ("name", clean(booking.name)),
        ("request_id", clean(booking.request_id)),
    ]
    if booking.cancel_requested:
        rows.append(("cancel", "asked for"))
    if booking.HasField("applied"):
        rows.append(("applied", amount_text(booking.applied)))
    if booking.balances_after:
        rows.append(("balance after", ", ".join(map(amount_text, booking.balances_after))))
    for reference in booking.provider_references:
        rows.append((clean(reference.kind), clean(reference.value)))
    for line in booking.receipt_lines:
        amount = money_text(line.amount) if line.HasField("amount") else clean(line.text)
        rows.append(("receipt", f"{clean(line.label)} {amount}".strip()))
    if booking.HasField("error"):
        rows.append(("error", clean(booking.error.message)))
    if booking.original_booking:
        rows.append(("original", clean(booking.original_booking)))
    rows.extend(("undone by", clean(name)) for name in booking.undo_bookings)
    for label, field in (
        ("created", "create_time"),
        ("sent", "sent_time"),
        ("settled", "settle_time"),
        ("next attempt", "next_attempt_time"),
    ):
        if booking.HasField(field):  # type: ignore[arg-type]  # the names are a literal table
            rows.append((label, time_text(getattr(booking, field))))
    mode = types_pb2.RecoveryMode.Name(booking.recovery_mode).removeprefix("RECOVERY_MODE_")
    if booking.recovery_mode:
        rows.append(("if lost", mode))
    if booking.attempt_count:
        rows.append(("attempts", str(booking.attempt_count)))
    if booking.incident:
        rows.append(("incident", clean(booking.incident)))
    if booking.trace_id:
        rows.append(("trace", clean(booking.trace_id)))
    return rows


def _finality(booking: types_pb2.Booking) -> str:
    if booking.final:
        return "final"
    if booking.state == types_pb2.BOOKING_STATE_NEEDS_REVIEW:
        return "not final: it waits for a person"
    return "not final: repeating the same request_id is safe"


def show_story(screen: Screen, story: bookings_pb2.ExplainBookingResponse) -> None:
    """The story of a booking, oldest step first: readable by a tired person."""
    booking = story.booking
    fault = bookings_pb2.Fault.Name(story.whose_fault).removeprefix("FAULT_")
    rows: list[tuple[str, RenderableType | str]] = [
        ("state", _state(booking)),
        ("outcome", f"{outcome_name(booking.outcome)}, {_finality(booking)}"),
        ("name", clean(booking.name)),
        ("request_id", clean(booking.request_id)),
    ]
    ending: list[tuple[str, RenderableType | str]] = [("whose fault", FAULT_WORDS[fault])]
    if story.next_step:
        ending.append(("what next", clean(story.next_step)))
    if story.HasField("next_time"):
        span = when(story.next_time) - datetime.now(UTC)
        words = f"in {span_text(span)}" if span > timedelta() else "due now"
        ending.append(("by itself at", f"{time_text(story.next_time)} ({words})"))
    if booking.incident:
        ending.append(("incident", clean(booking.incident)))
    if story.trace_id:
        ending.append(("trace", clean(story.trace_id)))
    screen.show(_headline(booking), _facts(rows), Text(), _steps(story), Text(), _facts(ending))


def _steps(story: bookings_pb2.ExplainBookingResponse) -> RenderableType:
    parts: list[RenderableType] = []
    day = ""
    last: datetime | None = None
    for step in story.steps:
        time = when(step.time)
        if f"{time:%Y-%m-%d}" != day:
            day = f"{time:%Y-%m-%d}"
            parts.append(Text(f"{day} (UTC)", "dim"))
        # A gap tells where the time went, and tells it sooner than two stamps do.
        gap = f" (+{span_text(time - last)})" if last and time - last >= GAP_SHOWN else ""
        last = time
        line = Table.grid(padding=(0, 2))
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(
            Text(f"  {time:%H:%M:%S}.{time.microsecond // 1000:03d}"),
            Text.assemble(clean(step.text), (gap, "dim")),
        )
        parts.append(line)
        if step.HasField("attempt"):
            rows = _attempt_rows(step.attempt, step.text)
            parts.append(Padding(_facts(rows), (0, 0, 0, 16)))
    return Group(*parts)


def _attempt_rows(
    attempt: bookings_pb2.Attempt, told: str
) -> list[tuple[str, RenderableType | str]]:
    """The evidence behind a step, without what its sentence has told already."""
    rows: list[tuple[str, RenderableType | str]] = []
    if attempt.request:
        rows.append(("sent", clean(attempt.request)))
    rows.append(("answer", clean(attempt.answer) or "none"))
    fate = outcome_name(attempt.fate)
    reach = {
        bookings_pb2.PROOF_THIS_ATTEMPT: ", for this attempt",
        bookings_pb2.PROOF_WHOLE_BOOKING: ", for the whole booking",
    }.get(attempt.proves, "")
    rows.append(("proves", "nothing" if fate == "UNKNOWN" else f"{fate}{reach}"))
    if attempt.provider_code and attempt.provider_code not in told:
        rows.append(("their code", clean(attempt.provider_code)))
    if attempt.rule and attempt.rule not in told:
        rows.append(("our rule", clean(attempt.rule)))
    return rows


def show_refusal(screen: Screen, refusal: Refusal) -> None:
    """Why a call was refused, what it means for the booking and what to do next."""
    known = refusal.metadata
    rows: list[tuple[str, RenderableType | str]] = [
        ("reason", Text(f"{clean(refusal.reason)} ({refusal.code})", "bold red")),
        ("outcome", clean(refusal.outcome) or "not said: read it as UNKNOWN"),
        ("final", clean(refusal.final) or "not said"),
        ("message", clean(refusal.message)),
    ]
    rows.extend((clean(field), clean(text)) for field, text in refusal.violations)
    rows.extend(
        (key, clean(known[key]))
        for key in ("booking", "request_id", "connection", "provider", "provider_code", "error_id")
        if known.get(key)
    )
    if refusal.retry_after_s is not None:
        rows.append(("wait", span_text(timedelta(seconds=refusal.retry_after_s))))
    rows.append(("what next", next_words(refusal)))
    screen.show(_facts(rows))


def next_words(refusal: Refusal) -> str:
    """What to do about a refusal: by its reason, else by what it says of the booking."""
    if refusal.reason in NEXT_WORDS:
        return NEXT_WORDS[refusal.reason]
    if refusal.final == "true":
        return "This is the end of this request_id; a new try needs a new one."
    return "Asking again is safe. `loyalty bookings explain` tells where the booking stands."


def show_connections(screen: Screen, connections: Iterable[providers_pb2.Connection]) -> None:
    """The table of `connections list`."""
    table = new_table("CONNECTION", "STATE", "UNRESOLVED", "PROVIDER", "NAME")
    for connection in connections:
        state = providers_pb2.ConnectionState.Name(connection.state)
        state = state.removeprefix("CONNECTION_STATE_")
        table.add_row(
            Text(clean(connection.name.removeprefix("connections/"))),
            Text(state, "green" if state == "OK" else "bold red"),
            Text(str(connection.unresolved_count), "yellow" if connection.unresolved_count else ""),
            Text(clean(connection.provider)),
            Text(clean(connection.display_name)),
        )
    screen.show(table if table.row_count else Text("There are no connections."))


def show_capabilities(
    screen: Screen, connection: str, answer: providers_pb2.GetCapabilitiesResponse
) -> None:
    """What a connection can do, and the promises that its recovery of lost answers rests on."""
    table = new_table("RPC", "SUPPORT", "IF AN ANSWER IS LOST", "NEEDS")
    promises: dict[str, providers_pb2.Promise] = {}
    notes: list[tuple[str, RenderableType | str]] = []
    for capability in answer.capabilities:
        support = providers_pb2.Support.Name(capability.support).removeprefix("SUPPORT_")
        mode = types_pb2.RecoveryMode.Name(capability.recovery_mode)
        has_mode = capability.recovery_mode != types_pb2.RECOVERY_MODE_UNSPECIFIED
        table.add_row(
            Text(f"{clean(capability.service)}.{clean(capability.method)}"),
            Text(support, "dim" if support == "UNSUPPORTED" else ""),
            Text(mode.removeprefix("RECOVERY_MODE_") if has_mode else ""),
            Text(", ".join(map(clean, capability.needed_fields))),
        )
        promises.update((promise.name, promise) for promise in capability.promises)
        if capability.note:
            rpc = f"{clean(capability.service)}.{clean(capability.method)}"
            notes.append((rpc, clean(capability.note)))
    parts: list[RenderableType] = [Text(f"connection {clean(connection)}", "bold"), table]
    if notes:
        parts += [Text("\nnotes", "bold"), _facts(notes)]
    if promises:
        parts += [Text("\npromises", "bold"), _facts(map(_promise_row, promises.values()))]
    screen.show(*parts)


def _promise_row(promise: providers_pb2.Promise) -> tuple[str, RenderableType | str]:
    source = providers_pb2.PromiseSource.Name(promise.source).removeprefix("PROMISE_SOURCE_")
    words = f"{clean(promise.value)}, {source.lower()}"
    if promise.HasField("time"):
        words += f" {time_text(promise.time)}"
    if promise.evidence:
        words += f": {clean(promise.evidence)}"
    return clean(promise.name), words
