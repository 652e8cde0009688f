"""Lint, format, freshness, the frozen contract: each finds what was planted, and nothing else."""

import shutil
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


def test_the_contract_breaks_no_caller_of_its_newest_frozen_copy(
    prepared_generator: Path, generator: Generator
) -> None:
    done = generator(prepared_generator, "breaking")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        (
            "cards",
            "string provider_kind = 4;",
            "string provider_kind = 40;",
            'Previously present field "4" with name "provider_kind" on message "Transaction"',
        ),
        (
            "errors",
            "ERROR_REASON_CODE_EXPIRED = 21;",
            "ERROR_REASON_CODE_TOO_OLD = 21;",
            'Enum value "21" on enum "ErrorReason" changed name',
        ),
        (
            "gift",
            "rpc GetGiftCard(",
            "rpc ReadGiftCard(",
            'Previously present RPC "GetGiftCard" on service "Gift" was deleted',
        ),
    ],
    ids=["field", "reason", "rpc"],
)
def test_breaking_finds_what_a_caller_would_miss(
    contract_copy: Path, generator: Generator, file: str, old: str, new: str, told: str
) -> None:
    replace_once(contract_copy / f"proto/loyalty/v1/{file}.proto", old, new)
    done = generator(contract_copy, "breaking")
    assert done.returncode == 1
    assert told in done.stdout


def test_what_is_only_added_breaks_nobody(contract_copy: Path, generator: Generator) -> None:
    replace_once(
        contract_copy / "proto/loyalty/v1/cards.proto",
        "  string provider_kind = 4;",
        "  string provider_kind = 4;\n  // New.\n  string added = 99;",
    )
    assert generator(contract_copy, "breaking").returncode == 0


def test_the_newest_frozen_copy_is_found_by_number_and_not_by_letters(
    contract_copy: Path, generator: Generator
) -> None:
    released = contract_copy / "proto/released"
    newest = sorted(released.iterdir())[-1]
    for name in ("v1.99", "v1.100"):
        shutil.copytree(newest, released / name)
    replace_once(
        released / "v1.100/loyalty/v1/cards.proto",
        "  string provider_kind = 4;",
        "  string provider_kind = 4;\n  // Gone since.\n  string added = 99;",
    )
    done = generator(contract_copy, "breaking")
    assert done.returncode == 1
    assert 'Previously present field "99" with name "added"' in done.stdout


def test_nothing_is_made_from_a_frozen_copy(contract_copy: Path, generator: Generator) -> None:
    (contract_copy / "proto/released/v0.1/loyalty/v1").mkdir(parents=True)
    (contract_copy / "proto/released/v0.1/loyalty/v1/cards.proto").write_text("not a proto\n")
    assert generator(contract_copy, "lint").returncode == 0
    assert generator(contract_copy, "check").returncode == 0
