"""kill -9 at every moment of an undo: afterwards it is whole, and happened once or not at all."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from loyalty_gateway.domain.booking import State
from tests.booking.house import QUICK, open_house
from tests.booking.ledger import LedgerVendor
from tests.postgres import Place

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
EXPLICIT_SHARED = ("before-commit@2", "after-answer", "after-commit@3")
OWN_SHARED = ("after-commit@2", "before-commit@3", "undo-followed")
"""Between one write and the next, for PostgreSQL: there a dead owner's lease has to end."""


def on_both(points: Iterable[str], shared: Iterable[str]) -> list[tuple[str, str]]:
    """Kinds of journal and moments."""
    return [*(("sqlite", it) for it in points), *(("postgres", it) for it in shared)]


async def killed(journal: Place, ledger: Path, how: str, point: str) -> None:
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


@pytest.mark.parametrize(("store_kind", "point"), on_both(EXPLICIT, EXPLICIT_SHARED))
async def test_an_undo_that_was_killed_is_repeated_and_undoes_once(
    tmp_path: Path, place: Place, point: str
) -> None:
    ledger = tmp_path / "ledger"
    await killed(place, ledger, "explicit", point)
    vendor = LedgerVendor(ledger)
    async with open_house(place, vendor, policy=QUICK, boot_id="boot-2") as house:
        await house.is_quiet()
        original = await house.get()
        has_happened = original.outbound_id in vendor.undone
        assert original.state is (State.REVERSED if has_happened else State.SUCCEEDED)
        await house.undo()
        await house.becomes(State.REVERSED)

        assert (await house.get("undo-0001")).state is State.SUCCEEDED
        assert vendor.standing == []
    assert len(ledger.read_text().splitlines()) == 2, "one effect, one undo"


@pytest.mark.parametrize(("store_kind", "point"), on_both(OWN, OWN_SHARED))
async def test_a_cancellation_that_was_answered_is_kept_whoever_dies(
    tmp_path: Path, place: Place, point: str
) -> None:
    ledger = tmp_path / "ledger"
    await killed(place, ledger, "cancel", point)
    vendor = LedgerVendor(ledger)
    async with open_house(place, vendor, policy=QUICK, boot_id="boot-2") as house:
        await house.becomes(State.REVERSED)

        assert vendor.standing == []
    assert len(ledger.read_text().splitlines()) == 2, "one effect, one undo"
