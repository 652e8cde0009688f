"""Runs every command of docs/tour.md against a real sandbox and compares what it prints.

LOYALTY_TEST_WRITE_TOUR=1 writes the answers into the page instead of comparing them.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.running_sandbox import RunningSandbox, environment

TOUR = Path(__file__).parents[1] / "docs" / "tour.md"
PRINTED_ADDRESS = "127.0.0.1:50051"
COMMAND_LIMIT_S = 30
ELLIPSIS = "…"

# What differs from run to run, and the part of it that the page keeps.
VOLATILE: tuple[tuple[str, str], ...] = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", ELLIPSIS),
    (r"/\d{4}-\d\d-\d\dT\d\d/", f"/{ELLIPSIS}/"),
    (r"\d{4}-\d\d-\d\d \(UTC\)", f"{ELLIPSIS} (UTC)"),
    (r"\b\d\d:\d\d:\d\d\.\d{3}\b", ELLIPSIS),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", ELLIPSIS),
    (r"\btx_\d+", f"tx_{ELLIPSIS}"),
    (r'"token": "[^"]+"', f'"token": "{ELLIPSIS}"'),
    (r'"(traceId|retry_delay|retryDelay)": ?"[^"]*"', rf'"\1":"{ELLIPSIS}"'),
    (r"^(x-request-id|trace|traceparent)(:? +).*$", rf"\1\2{ELLIPSIS}"),
    (r" \(\+[^()]+\)$", ""),
)


@dataclass(frozen=True, slots=True)
class Example:
    """One console block: what is typed, and the lines that must follow."""

    line: int
    command: str
    expected: str

    @property
    def has_left_out(self) -> bool:
        return ELLIPSIS in self.expected.splitlines()


def read_examples(page: str) -> list[Example]:
    examples = []
    for block in re.finditer(r"^```console\n\$ (.*?)^```$", page, re.MULTILINE | re.DOTALL):
        command, expected = split_command(block[1])
        line = page.count("\n", 0, block.start()) + 2
        examples.append(Example(line, command, expected))
    return examples


def split_command(text: str) -> tuple[str, str]:
    """The command goes on while a quote is open or a line ends with a backslash."""
    lines = text.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        command = "".join(lines[:count])
        if command.rstrip("\n").endswith("\\"):
            continue
        try:
            shlex.split(command)
        except ValueError:
            continue
        return command, "".join(lines[count:])
    raise AssertionError(f"a command of the tour has no end: {text}")


def masked(text: str) -> str:
    """What a command printed, without what differs from run to run."""
    lines = []
    for line in text.splitlines():
        for pattern, kept in VOLATILE:
            line = re.sub(pattern, kept, line)
        lines.append(line.rstrip())
    return "\n".join(lines).strip("\n")


def matches(expected: str, printed: str) -> bool:
    """Whether the lines are the same; a line `…` of the page stands for any number of lines."""
    parts = [
        r"(?:.*\n)*?" if line == ELLIPSIS else re.escape(f"{line}\n")
        for line in expected.strip("\n").splitlines()
    ]
    return re.fullmatch("".join(parts), f"{printed}\n") is not None


def run(command: str, address: str) -> str:
    words = shlex.split(command.replace(PRINTED_ADDRESS, address).replace("\\\n", " "))
    # The answers on the page are in the spelling of the release that the lock names.
    beside = Path(sys.executable).parent / "grpcurl"
    programs = {
        "grpcurl": [str(beside) if beside.exists() else shutil.which("grpcurl") or "grpcurl"],
        "loyalty": [sys.executable, "-m", "loyalty_gateway"],
    }
    done = subprocess.run(
        [*programs[words[0]], *words[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment(), "LOYALTY_SERVER": address},
        timeout=COMMAND_LIMIT_S,
        check=False,
        text=True,
    )
    return masked(done.stdout)


@pytest.fixture(scope="module")
def page() -> str:
    return TOUR.read_text()


def test_the_tour_has_ten_steps(page: str) -> None:
    assert [int(number) for number in re.findall(r"^## (\d+)\. ", page, re.MULTILINE)] == list(
        range(1, 11)
    )


def test_every_command_of_the_tour_prints_what_the_page_says(page: str, tmp_path: Path) -> None:
    examples = read_examples(page)
    differences = []
    with RunningSandbox(tmp_path / "sandbox") as sandbox:
        for example in examples:
            printed = run(example.command, sandbox.listen)
            if matches(example.expected, printed):
                continue
            if os.environ.get("LOYALTY_TEST_WRITE_TOUR") and not example.has_left_out:
                new = f"$ {example.command}{printed}\n```"
                page = page.replace(f"$ {example.command}{example.expected}```", new)
            else:
                differences.append(
                    f"docs/tour.md:{example.line}\n{example.command}printed\n{printed}\n"
                )
    if os.environ.get("LOYALTY_TEST_WRITE_TOUR"):
        TOUR.write_text(page)
    assert not differences, "\n".join(differences)


def test_a_changed_answer_is_noticed() -> None:
    assert matches("a\n…\nd", "a\nb\nc\nd")
    assert matches("a\n…\nb", "a\nb")
    assert not matches("a\n…\nd", "a\nb\nc")
    assert not matches("final: true", "final: false")


def test_only_what_differs_from_run_to_run_is_masked() -> None:
    printed = '  "name": "bookings/01a20077-75c1-71b6-8441-ada2e14fa898", "value": "200"'
    assert masked(printed) == '  "name": "bookings/…", "value": "200"'
