"""How answers look: exact amounts, plain text for pipes, nothing that moves the cursor."""

import io
import re
from datetime import timedelta

import pytest
from google.type.money_pb2 import Money

from loyalty.v1 import bookings_pb2, types_pb2
from loyalty_gateway.cli import screen
from tests.cli.fake_gateway import a_booking


class Terminal(io.StringIO):
    """A terminal of a person."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("units", "nanos", "text"),
    [
        (42, 500_000_000, "42.50 CHF"),
        (0, 10_000_000, "0.01 CHF"),
        (-3, -50_000_000, "-3.05 CHF"),
        (0, -50_000_000, "-0.05 CHF"),
        (1000, 0, "1000.00 CHF"),
        (1, 1, "1.000000001 CHF"),
        (90_071_992_547_409_93, 990_000_000, "9007199254740993.99 CHF"),
    ],
)
def test_money_is_shown_to_the_last_digit(units: int, nanos: int, text: str) -> None:
    assert screen.money_text(Money(currency_code="CHF", units=units, nanos=nanos)) == text


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(milliseconds=12), "12 ms"),
        (timedelta(seconds=12), "12 s"),
        (timedelta(minutes=4), "4 min"),
        (timedelta(hours=3), "3 h"),
        (timedelta(days=9), "9 d"),
        (-timedelta(seconds=5), "5 s"),
    ],
)
def test_spans_are_shown_as_people_say_them(span: timedelta, text: str) -> None:
    assert screen.span_text(span) == text


def test_a_pipe_gets_plain_lines_that_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = io.StringIO()
    long_id = "A" * 64
    screen.show_bookings(screen.Screen(stream), [a_booking(long_id)], is_cut=False)
    assert "\x1b" not in stream.getvalue()
    assert long_id in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 2
    assert all(line == line.rstrip() for line in stream.getvalue().splitlines())


def test_a_terminal_gets_colour_unless_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    coloured = Terminal()
    screen.show_booking(screen.Screen(coloured), a_booking())
    assert "\x1b[32m" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    screen.show_booking(screen.Screen(plain), a_booking())
    assert "\x1b[32m" not in plain.getvalue()


def test_a_narrow_terminal_shows_the_whole_request_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    long_id = "ABCDEFGH" * 8
    screen.show_bookings(screen.Screen(terminal), [a_booking(long_id)], is_cut=False)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "".join(line.split()[-1] for line in lines[1:]) == long_id


@pytest.mark.parametrize("is_terminal", [True, False])
def test_text_from_a_journal_cannot_move_the_cursor_or_pass_for_markup(is_terminal: bool) -> None:
    stream = Terminal() if is_terminal else io.StringIO()
    hostile = "x\x1b[2J\r\n\u202e[bold]y"
    story = bookings_pb2.ExplainBookingResponse(booking=a_booking(), next_step=hostile)
    story.booking.error.message = hostile
    story.steps.add(text=hostile).attempt.answer = hostile
    screen.show_story(screen.Screen(stream), story)
    screen.show_booking(screen.Screen(stream), story.booking)
    assert "\x1b[2J" not in stream.getvalue()
    assert "\r" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()
    assert "[bold]y" in stream.getvalue()


def test_a_tombstone_is_told_in_words() -> None:
    stream = io.StringIO()
    tombstone = types_pb2.Booking(
        name="bookings/01a20074-3b79-76b1-b274-9fb5d90f3bfd",
        request_id="till-7-000123",
        state=types_pb2.BOOKING_STATE_NOT_EXECUTED,
        outcome=types_pb2.OUTCOME_NOT_EXECUTED,
        final=True,
    )
    screen.show_booking(screen.Screen(stream), tombstone)
    assert stream.getvalue().startswith("cancelled before it arrived\n")
    assert "proven: nothing happened" in stream.getvalue()
