"""Lint, format and freshness: each finds what was planted, and nothing in the repository."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

# The first run makes the generator's environment.
pytestmark = pytest.mark.timeout(600)

Generator = Callable[[Path, str], subprocess.CompletedProcess[str]]


def replace_once(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, f"{path.name} no longer holds what this test changes"
    path.write_text(text.replace(old, new, 1))


def test_the_contract_is_linted_and_formatted(
    prepared_generator: Path, generator: Generator
) -> None:
    done = generator(prepared_generator, "lint")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_committed_stubs_are_what_the_protos_make(
    prepared_generator: Path, generator: Generator
) -> None:
    done = generator(prepared_generator, "check")
    assert (done.returncode, done.stderr) == (0, "")


def test_lint_finds_a_missing_comment(contract_copy: Path, generator: Generator) -> None:
    replace_once(
        contract_copy / "proto/loyalty/v1/bookings.proto",
        "  // The booking as it stands now.\n",
        "",
    )
    done = generator(contract_copy, "lint")
    assert done.returncode == 1
    assert 'Field "booking" should have a non-empty comment' in done.stdout


def test_lint_finds_a_rule_that_does_not_compile(contract_copy: Path, generator: Generator) -> None:
    replace_once(
        contract_copy / "proto/loyalty/v1/points.proto", "this.value >= 1", "this.val >= 1"
    )
    done = generator(contract_copy, "lint")
    assert done.returncode == 1
    assert "points.proto" in done.stdout


def test_lint_finds_a_file_that_is_not_in_the_format(
    contract_copy: Path, generator: Generator
) -> None:
    replace_once(
        contract_copy / "proto/loyalty/v1/points.proto", "  // The account.", "// The account."
    )
    done = generator(contract_copy, "lint")
    assert done.returncode == 1
    assert "+  // The account." in done.stdout


def test_check_names_the_stubs_of_a_changed_proto(
    contract_copy: Path, generator: Generator
) -> None:
    replace_once(
        contract_copy / "proto/loyalty/v1/points.proto",
        "// The points at the end.",
        "// The points at the very end.",
    )
    done = generator(contract_copy, "check")
    assert done.returncode == 1
    assert "stale: generated/loyalty/v1/points_pb2.pyi" in done.stderr
    assert "stale: generated/loyalty/v1/descriptor_set.binpb" in done.stderr
    assert "balance_pb2" not in done.stderr


def test_check_names_a_stub_that_was_edited_added_or_removed(
    contract_copy: Path, generator: Generator
) -> None:
    v1 = contract_copy / "generated/loyalty/v1"
    replace_once(v1 / "types_pb2.py", "# -*- coding: utf-8 -*-", "# -*- coding: utf8 -*-")
    (v1 / "stray_pb2.py").write_text("")
    (v1 / "cards_pb2.pyi").unlink()
    done = generator(contract_copy, "check")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("stale")] == [
        "stale: generated/loyalty/v1/cards_pb2.pyi",
        "stale: generated/loyalty/v1/stray_pb2.py",
        "stale: generated/loyalty/v1/types_pb2.py",
    ]


def test_generate_mends_what_check_finds(contract_copy: Path, generator: Generator) -> None:
    v1 = contract_copy / "generated/loyalty/v1"
    (v1 / "stray_pb2.py").write_text("")
    (v1 / "cards_pb2.pyi").unlink()
    assert generator(contract_copy, "generate").returncode == 0
    assert generator(contract_copy, "check").returncode == 0
