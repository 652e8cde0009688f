"""A file of decisions: both of its forms are read, and whatever is wrong is named by its line."""

import io
import sys
from pathlib import Path

import pytest

from loyalty.v1 import bookings_pb2, rules_pb2, types_pb2
from loyalty_gateway.cli import decision_file
from loyalty_gateway.cli.decision_file import OUTCOMES, LineDecision, read_decisions
from loyalty_gateway.cli.failure import UsageFailed

NAME = "bookings/01a20074-3b79-76b1-b274-9fb5d90f3bfd"
READ = (
    LineDecision(2, "till-7-000123", types_pb2.OUTCOME_EXECUTED, "line 81", "their statement"),
    LineDecision(3, NAME, types_pb2.OUTCOME_NOT_EXECUTED, "ticket 4711", "no line for it"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions"


def refused(path: Path) -> list[str]:
    """What is told of each line."""
    with pytest.raises(UsageFailed) as caught:
        read_decisions(path)
    first, *lines = caught.value.text.split("\n  ")
    assert first == f"nothing was done, because {path} is wrong:"
    return lines


@pytest.mark.parametrize(
    "content",
    [
        "booking,outcome,evidence,reason\n"
        "till-7-000123,executed,line 81,their statement\n"
        f"{NAME},not-executed,ticket 4711,no line for it\n",
        # As a spreadsheet writes it.
        "\ufeffbooking;outcome;evidence;reason\r\n"
        'till-7-000123;EXECUTED;"line 81";their statement\r\n'
        f"{NAME};NOT_EXECUTED;ticket 4711;no line for it\r\n",
        "Outcome\tReason\tBooking\tEvidence\n"
        "Executed\ttheir statement\ttill-7-000123\tline 81\n"
        f"not-executed \t no line for it\t {NAME}\tticket 4711\n"
        "\t\t\t\n",
        "\n"
        '{"booking": "till-7-000123", "outcome": "executed", "evidence": "line 81",'
        ' "reason": "their statement"}\n'
        f'{{"reason": "no line for it", "evidence": "ticket 4711", "booking": "{NAME}",'
        ' "outcome": "NOT_EXECUTED"}',
    ],
    ids=["commas", "semicolons", "tabs", "json lines"],
)
def test_every_form_of_the_file_says_the_same(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8", newline="")
    assert read_decisions(path) == READ


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"booking,outcome,evidence,reason\ntill-7-000123,executed,line 81,their statement\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read_decisions(Path("-")) == READ[:1]


def test_every_wrong_line_of_a_table_is_named(path: Path) -> None:
    path.write_text(
        "booking,outcome,evidence,reason\n"
        "till-7-000123,executed,line 81,their statement\n"
        "short,perhaps,,\n"
        '"till-7-000124",executed,"two\nlines",so\n'
        "till-7-000123,executed,line 81,their statement\n"
        "till-7-000125,executed,line 82\n"
        f"till-7-000126,executed,{'e' * 257},{'r' * 1001}\n"
    )
    assert refused(path) == [
        "line 3: booking: must be `bookings/` and a UUID, or a request_id",
        "line 3: outcome: must be executed or not-executed",
        "line 3: evidence: is missing",
        "line 3: reason: is missing",
        "line 4: evidence: must be one line without control characters",
        "line 6: booking: is the one of line 2",
        "line 7: has 3 columns and not 4",
        "line 8: evidence: is longer than 256 characters",
        "line 8: reason: is longer than 1000 characters",
    ]


def test_every_wrong_line_of_json_is_named(path: Path) -> None:
    good = '{"booking": "till-7-000123", "outcome": "executed", "evidence": "e", "reason": "r"}'
    path.write_text(
        f"{good}\n"
        "[]\n"
        "{\n"
        '{"booking": 12345678, "outcome": "executed", "evidence": "e"}\n'
        f'{good[:-1].replace("123", "124")}, "note": 1}}\n'
    )
    assert refused(path) == [
        "line 2: is not one JSON object",
        "line 3: is not one JSON object",
        "line 4: booking: must be text",
        "line 4: reason: is missing",
        "line 5: has names other than booking, outcome, evidence, reason",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "line 1: must be booking,outcome,evidence,reason"),
        ("till-7-000123,executed,e,r\n", "line 1: must be booking,outcome,evidence,reason"),
        ("booking,outcome,evidence,reason\n\n", "it holds no decision"),
        ('booking,outcome,evidence,reason\na,"b" c,d,e\n', "line 2: is no CSV"),
    ],
)
def test_a_file_that_is_no_table_of_decisions_says_so(path: Path, content: str, told: str) -> None:
    path.write_text(content)
    (line,) = refused(path)
    assert line.startswith(told)


def test_what_is_wrong_is_never_repeated_for_it_may_be_a_card_number(path: Path) -> None:
    card = "4111 1111 1111 1111"
    path.write_text(f"booking,outcome,evidence,reason\n{card},{card},,\n")
    assert card not in "".join(refused(path))


def test_a_file_that_cannot_be_read_says_why(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageFailed, match="No such file"):
        read_decisions(path)
    path.write_bytes(b"booking\xff")
    with pytest.raises(UsageFailed, match="not UTF-8"):
        read_decisions(path)
    monkeypatch.setattr(decision_file, "FILE_BYTES_MAX", 7)
    with pytest.raises(UsageFailed, match="larger than 7 bytes"):
        read_decisions(path)


def test_a_file_has_a_limit_of_decisions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_file, "DECISIONS_MAX", 1)
    path.write_text(
        "booking,outcome,evidence,reason\ntill-7-000123,executed,e,r\ntill-7-000124,executed,e,r\n"
    )
    assert refused(path) == ["it holds more than 1 decisions; split it"]


def test_the_file_is_checked_by_the_rules_of_the_contract() -> None:
    """What passes the file passes the server's validation, and the limits are the same."""
    fields = bookings_pb2.Decision.DESCRIPTOR.fields_by_name
    for name, length_max in decision_file._LENGTHS_MAX.items():
        (rules,) = [
            value
            for option, value in fields[name].GetOptions().ListFields()
            if option.full_name == "buf.validate.field"
        ]
        assert rules.string.max_len == length_max
    text = rules_pb2.DESCRIPTOR.serialized_pb.decode("utf-8", "replace")
    assert f"^{decision_file._REQUEST_ID.pattern}$" in text
    assert f"^{decision_file._BOOKING_NAME.pattern}$" in text
    assert {
        f"OUTCOME_{word.upper().replace('-', '_')}": number for word, number in OUTCOMES.items()
    } == {name: number for name, number in types_pb2.Outcome.items() if number in OUTCOMES.values()}
