"""kill -9 at every moment of an undo: afterwards it is whole, and happened once or not at all."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from loyalty_gateway.domain.booking import State
from tests.booking.house import QUICK, open_house
from tests.booking.ledger import LedgerVendor

ROOT = Path(__file__).parents[2]
EXPLICIT = (
    "undo-beginning",
    "undo-begun",
    "before-open",
    "after-open",
    "after-answer",
    "undo-settled",
    "undo-followed",
    "after-settle",
    *(f"before-commit@{count}" for count in (1, 2, 3, 4)),
    *(f"after-commit@{count}" for count in (1, 2, 3, 4)),
)
OWN = (
    "undo-begun",
    "after-open",
    "recovery-answered",
    "undo-settled",
    "undo-followed",
    *(f"before-commit@{count}" for count in (2, 3, 4, 5)),
    *(f"after-commit@{count}" for count in (1, 2, 3, 4, 5)),
)


async def killed(journal: Path, ledger: Path, how: str, point: str) -> None:
    """One life of a process that ends at the point."""
    name, _, count = point.partition("@")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.booking.ledger",
        *map(str, (journal, ledger, how)),
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((".", "server", "generated")),
            "LOYALTY_FAILPOINTS": f"{name}=kill@{count or 1}",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == -signal.SIGKILL, said.decode()


@pytest.mark.parametrize("point", EXPLICIT)
async def test_an_undo_that_was_killed_is_repeated_and_undoes_once(
    tmp_path: Path, point: str
) -> None:
    journal, ledger = tmp_path / "journal", tmp_path / "ledger"
    await killed(journal, ledger, "explicit", point)
    vendor = LedgerVendor(ledger)
    async with open_house(journal, vendor, policy=QUICK, boot_id="boot-2") as house:
        await house.is_quiet()
        original = await house.get()
        has_happened = original.outbound_id in vendor.undone
        assert original.state is (State.REVERSED if has_happened else State.SUCCEEDED)
        await house.undo()
        await house.becomes(State.REVERSED)

        assert (await house.get("undo-0001")).state is State.SUCCEEDED
        assert vendor.standing == []
    assert len(ledger.read_text().splitlines()) == 2, "one effect, one undo"


@pytest.mark.parametrize("point", OWN)
async def test_a_cancellation_that_was_answered_is_kept_whoever_dies(
    tmp_path: Path, point: str
) -> None:
    journal, ledger = tmp_path / "journal", tmp_path / "ledger"
    await killed(journal, ledger, "cancel", point)
    vendor = LedgerVendor(ledger)
    async with open_house(journal, vendor, policy=QUICK, boot_id="boot-2") as house:
        await house.becomes(State.REVERSED)

        assert vendor.standing == []
    assert len(ledger.read_text().splitlines()) == 2, "one effect, one undo"
