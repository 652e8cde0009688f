"""`loyalty bookings resolve --from FILE` against a server that answers as it is told."""

import io
import json
import sys
from pathlib import Path

import pytest
from google.rpc import code_pb2

from loyalty.v1 import bookings_pb2 as bookings
from loyalty.v1 import types_pb2
from loyalty_gateway.cli import main
from tests.cli.fake_gateway import FakeGateway, a_booking, refusal

Capture = pytest.CaptureFixture[str]

NAME = "bookings/01a20074-3b79-76b1-b274-9fb5d90f3bfd"
NOT_NOW = refusal(
    "RESOLUTION_NOT_POSSIBLE",
    "This booking cannot be resolved now: it stands at REVERSING.",
    outcome="UNKNOWN",
    final="false",
)
AWAY = refusal("", "nobody is there", code=code_pb2.UNAVAILABLE)


class Terminal(io.StringIO):
    """A person at a keyboard."""

    def isatty(self) -> bool:
        return True


def found(state: str = "NEEDS_REVIEW") -> bookings.GetBookingResponse:
    booking = a_booking()
    booking.state = types_pb2.BookingState.Value(f"BOOKING_STATE_{state}")
    booking.final = state in ("SUCCEEDED", "NOT_EXECUTED")
    outcome = {"SUCCEEDED": "EXECUTED", "NOT_EXECUTED": "NOT_EXECUTED"}.get(state, "UNKNOWN")
    booking.outcome = types_pb2.Outcome.Value(f"OUTCOME_{outcome}")
    return bookings.GetBookingResponse(booking=booking)


def resolved(state: str) -> bookings.ResolveBookingResponse:
    return bookings.ResolveBookingResponse(booking=found(state).booking)


@pytest.fixture
def decisions(tmp_path: Path) -> Path:
    """Three bookings: executed, not executed, executed."""
    path = tmp_path / "decisions.csv"
    path.write_text(
        "booking,outcome,evidence,reason\n"
        "till-7-000001,executed,line 81,their statement\n"
        f"{NAME},not-executed,statement,no line for it\n"
        "till-7-000003,executed,line 83,their statement\n"
    )
    return path


def asked_to_resolve(gateway: FakeGateway) -> list[bookings.ResolveBookingRequest]:
    return [it for it in gateway.asked if isinstance(it, bookings.ResolveBookingRequest)]


def test_each_booking_is_settled_with_its_evidence_and_has_its_line(
    gateway: FakeGateway, capsys: Capture, decisions: Path
) -> None:
    gateway.answers = {
        "GetBooking": [found(), found("IN_DOUBT"), found()],
        "ResolveBooking": [resolved("SUCCEEDED"), resolved("NOT_EXECUTED"), resolved("SUCCEEDED")],
    }
    assert main(["bookings", "resolve", "--from", str(decisions)]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [
        "line 2  till-7-000001  EXECUTED  recorded: SUCCEEDED",
        f"line 3  {NAME}  NOT_EXECUTED  recorded: NOT_EXECUTED",
        "line 4  till-7-000003  EXECUTED  recorded: SUCCEEDED",
        "3 decisions: 3 recorded.",
    ]
    assert output.err == ""
    first, second, _ = asked_to_resolve(gateway)
    assert first.decision == bookings.Decision(
        outcome=types_pb2.OUTCOME_EXECUTED, evidence="line 81", reason="their statement"
    )
    assert second.name == NAME
    assert second.decision.outcome == types_pb2.OUTCOME_NOT_EXECUTED


def test_what_is_recorded_already_is_left_as_it_is(
    gateway: FakeGateway, capsys: Capture, decisions: Path
) -> None:
    gateway.answers["GetBooking"] = [found("SUCCEEDED"), found("NOT_EXECUTED"), found("SUCCEEDED")]
    assert main(["bookings", "resolve", "--from", str(decisions)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 decisions: 3 already so."
    assert asked_to_resolve(gateway) == []


def test_a_refusal_does_not_stop_the_others(
    gateway: FakeGateway, capsys: Capture, decisions: Path
) -> None:
    gateway.answers = {
        "GetBooking": [
            refusal("NOT_FOUND", "There is no such booking.", code=code_pb2.NOT_FOUND),
            found("REVERSING"),
            found(),
        ],
        "ResolveBooking": [NOT_NOW, resolved("SUCCEEDED")],
    }
    assert main(["bookings", "resolve", "--from", str(decisions)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "line 2  till-7-000001  EXECUTED  refused: NOT_FOUND: There is no such booking.",
        f"line 3  {NAME}  NOT_EXECUTED  refused: RESOLUTION_NOT_POSSIBLE:"
        " This booking cannot be resolved now: it stands at REVERSING.",
        "line 4  till-7-000003  EXECUTED  recorded: SUCCEEDED",
        "3 decisions: 1 recorded, 2 refused."
        " Running the same file again is safe; what is recorded stays.",
    ]


def test_an_outcome_that_contradicts_the_recorded_one_is_the_servers_to_refuse(
    gateway: FakeGateway, capsys: Capture, decisions: Path
) -> None:
    gateway.answers = {"GetBooking": found("NOT_EXECUTED"), "ResolveBooking": NOT_NOW}
    assert main(["bookings", "resolve", "--from", str(decisions)]) == 1
    assert "1 already so, 2 refused" in capsys.readouterr().out


def test_a_dry_run_asks_and_changes_nothing(
    gateway: FakeGateway, capsys: Capture, decisions: Path
) -> None:
    gateway.answers["GetBooking"] = [found(), found("IN_DOUBT"), found("SENDING")]
    assert main(["bookings", "resolve", "--from", str(decisions), "--dry-run"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "line 2  till-7-000001  EXECUTED  would be recorded: stands at NEEDS_REVIEW",
        f"line 3  {NAME}  NOT_EXECUTED  would be recorded: stands at IN_DOUBT",
        "line 4  till-7-000003  EXECUTED  refused: it stands at SENDING and cannot be decided",
        "3 decisions: 2 would be recorded, 1 refused. This was a dry run: nothing was changed.",
    ]
    assert asked_to_resolve(gateway) == []


def test_a_server_that_went_away_is_not_asked_for_every_line(
    gateway: FakeGateway, capsys: Capture, tmp_path: Path
) -> None:
    path = tmp_path / "decisions.csv"
    lines = [f"till-7-{number:06d},executed,e,r" for number in range(6)]
    path.write_text("\n".join(["booking,outcome,evidence,reason", *lines]))
    gateway.answers["GetBooking"] = AWAY
    assert main(["bookings", "resolve", "--from", str(path)]) == 1
    out = capsys.readouterr().out
    assert "6 decisions: 3 unanswered, 3 not tried." in out
    assert "unanswered: no server answers at" in out
    assert len(gateway.asked) == 3


def test_as_json_it_is_one_document_with_a_result_for_each_line(
    gateway: FakeGateway, capsys: Capture, decisions: Path
) -> None:
    gateway.answers = {
        "GetBooking": [found(), found("NOT_EXECUTED"), found()],
        "ResolveBooking": [resolved("SUCCEEDED"), NOT_NOW],
    }
    assert main(["bookings", "resolve", "--from", str(decisions), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [(it["line"], it["ending"]) for it in document["results"]] == [
        (2, "RECORDED"),
        (3, "ALREADY"),
        (4, "REFUSED"),
    ]
    assert document["results"][0]["outcome"] == "OUTCOME_EXECUTED"
    assert {name: count for name, count in document["counts"].items() if count} == {
        "RECORDED": 1,
        "ALREADY": 1,
        "REFUSED": 1,
    }


def test_a_wrong_file_is_refused_before_the_server_is_asked(
    gateway: FakeGateway, capsys: Capture, decisions: Path
) -> None:
    decisions.write_text(decisions.read_text() + "till-7-000001,executed,e,r\n")
    assert main(["bookings", "resolve", "--from", str(decisions)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[1:] == ["  line 5: booking: is the one of line 2"]
    assert gateway.asked == []


@pytest.mark.parametrize(
    ("typed", "options", "is_done"),
    [
        ("y\n", (), True),
        ("n\n", (), False),
        ("", (), False),
        ("", ("--yes",), True),
        ("", ("--dry-run",), True),
    ],
)
def test_a_person_is_asked_once_for_the_whole_file(
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    decisions: Path,
    typed: str,
    options: tuple[str, ...],
    is_done: bool,
) -> None:
    gateway.answers = {"GetBooking": found(), "ResolveBooking": resolved("SUCCEEDED")}
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    code = main(["bookings", "resolve", "--from", str(decisions), *options])
    assert code == (0 if is_done else 1)
    assert bool(gateway.asked) is is_done
    asks = "Record bookings for ever: 2 as EXECUTED and 1 as NOT_EXECUTED? [y/N]"
    assert (asks in terminal.getvalue()) is not bool(options)


@pytest.mark.parametrize("bar_is_on", ["stdout", "stderr", "neither"])
def test_a_bar_shows_the_progress_on_a_terminal_only(
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    decisions: Path,
    bar_is_on: str,
) -> None:
    gateway.answers = {"GetBooking": found(), "ResolveBooking": resolved("SUCCEEDED")}
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    if bar_is_on != "neither":
        monkeypatch.setattr(sys, bar_is_on, terminal)
    assert main(["bookings", "resolve", "--from", str(decisions), "--yes"]) == 0
    assert ("3/3" in terminal.getvalue()) is (bar_is_on != "neither")
    plain = capsys.readouterr().out
    assert "3/3" not in plain
    told = terminal.getvalue() if bar_is_on == "stdout" else plain
    assert "3 decisions: 3 recorded." in told
