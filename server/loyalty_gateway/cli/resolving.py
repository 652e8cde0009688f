"""Puts a file of decisions to a running server, line by line; it decides nothing itself.

Safe to run again: a booking that already has the outcome of its line is left as it is.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from loyalty.v1 import bookings_pb2, types_pb2
from loyalty_gateway.cli import screen
from loyalty_gateway.cli.client import CallRefused, Server
from loyalty_gateway.cli.decision_file import LineDecision
from loyalty_gateway.cli.failure import REFUSED_EXIT_CODE, CommandFailed

UNANSWERED_IN_A_ROW_MAX = 3
"""After so many calls without an answer the rest is not tried: the server is away."""

_OPEN_TO_A_PERSON = (types_pb2.BOOKING_STATE_IN_DOUBT, types_pb2.BOOKING_STATE_NEEDS_REVIEW)


class Ending(StrEnum):
    """What became of one line."""

    RECORDED = "recorded"
    WOULD_RECORD = "would be recorded"
    ALREADY = "already so"
    REFUSED = "refused"
    UNANSWERED = "unanswered"
    NOT_TRIED = "not tried"


_STYLES: dict[Ending, str] = {
    Ending.RECORDED: "green",
    Ending.WOULD_RECORD: "green",
    Ending.ALREADY: "dim",
    Ending.REFUSED: "bold red",
    Ending.UNANSWERED: "bold red",
    Ending.NOT_TRIED: "yellow",
}
_FAILED = (Ending.REFUSED, Ending.UNANSWERED, Ending.NOT_TRIED)


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the file and its end."""

    decision: LineDecision
    ending: Ending
    detail: str = ""


def confirm(decisions: Sequence[LineDecision]) -> None:
    """Asks the person at the terminal once for the whole file.

    Raises:
        CommandFailed: the person said no.
    """
    counts = Counter(screen.outcome_name(each.outcome) for each in decisions)
    told = " and ".join(f"{count} as {outcome}" for outcome, count in sorted(counts.items()))
    print(f"Record bookings for ever: {told}? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandFailed("nothing was changed.")


def resolve_all(
    server: Server, decisions: Sequence[LineDecision], *, is_dry_run: bool, is_json: bool
) -> int:
    """Settles booking after booking and tells each line's end; 1 where any of them failed."""
    shown = screen.Screen()
    results: list[Result] = []
    unanswered_in_a_row = 0
    with shown.progress(len(decisions), is_shown=not is_json) as advance:
        for decision in decisions:
            if unanswered_in_a_row >= UNANSWERED_IN_A_ROW_MAX:
                result = Result(decision, Ending.NOT_TRIED)
            else:
                result = _resolve(server, decision, is_dry_run=is_dry_run)
                is_unanswered = result.ending is Ending.UNANSWERED
                unanswered_in_a_row = unanswered_in_a_row + 1 if is_unanswered else 0
            results.append(result)
            if not is_json:
                _show(shown, result)
            advance()
    counts = Counter(result.ending for result in results)
    if is_json:
        print(_document(results, counts))
    else:
        shown.show(screen.line(_summary(counts, is_dry_run=is_dry_run)))
    return REFUSED_EXIT_CODE if any(counts[ending] for ending in _FAILED) else 0


def _resolve(server: Server, decision: LineDecision, *, is_dry_run: bool) -> Result:
    try:
        asked = bookings_pb2.GetBookingRequest()
        if decision.booking.startswith("bookings/"):
            asked.name = decision.booking
        else:
            asked.request_id = decision.booking
        booking = server.call(server.bookings.GetBooking, asked).booking
        if booking.final and booking.outcome == decision.outcome:
            return Result(decision, Ending.ALREADY, screen.state_name(booking.state))
        if is_dry_run:
            return _foretold(decision, booking)
        request = bookings_pb2.ResolveBookingRequest(name=booking.name)
        request.decision.outcome = decision.outcome
        request.decision.evidence = decision.evidence
        request.decision.reason = decision.reason
        settled = server.call(server.bookings.ResolveBooking, request).booking
        return Result(decision, Ending.RECORDED, screen.state_name(settled.state))
    except CallRefused as refused:
        refusal = refused.refusal
        return Result(decision, Ending.REFUSED, f"{refusal.reason}: {refusal.message}")
    except CommandFailed as silence:
        return Result(decision, Ending.UNANSWERED, silence.text)


def _foretold(decision: LineDecision, booking: types_pb2.Booking) -> Result:
    state = screen.state_name(booking.state)
    if booking.state in _OPEN_TO_A_PERSON:
        return Result(decision, Ending.WOULD_RECORD, f"stands at {state}")
    return Result(decision, Ending.REFUSED, f"it stands at {state} and cannot be decided")


def _show(shown: screen.Screen, result: Result) -> None:
    decision = result.decision
    outcome = screen.outcome_name(decision.outcome)
    text = f"line {decision.line}  {decision.booking}  {outcome}  "
    detail = f": {screen.clean(result.detail)}" if result.detail else ""
    shown.show(screen.line(text, (result.ending.value, _STYLES[result.ending]), detail))


def _summary(counts: Counter[Ending], *, is_dry_run: bool) -> str:
    told = ", ".join(f"{counts[ending]} {ending.value}" for ending in Ending if counts[ending])
    text = f"{counts.total()} decisions: {told}."
    if is_dry_run:
        return f"{text} This was a dry run: nothing was changed."
    if any(counts[ending] for ending in _FAILED):
        return f"{text} Running the same file again is safe; what is recorded stays."
    return text


def _document(results: Sequence[Result], counts: Counter[Ending]) -> str:
    return json.dumps(
        {
            "results": [
                {
                    "line": result.decision.line,
                    "booking": result.decision.booking,
                    "outcome": types_pb2.Outcome.Name(result.decision.outcome),
                    "ending": result.ending.name,
                    "detail": result.detail,
                }
                for result in results
            ],
            "counts": {ending.name: counts[ending] for ending in Ending},
        },
        indent=2,
        ensure_ascii=False,
    )
