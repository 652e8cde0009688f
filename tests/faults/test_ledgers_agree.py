"""Whatever a vendor does, and whichever way it behaves: its ledger and our journal agree."""

import importlib
import os
from pathlib import Path

import pytest

from loyalty_gateway.conformance import Behaviour
from loyalty_gateway.sandbox.players import PLAYERS
from tests.faults.agree import agree
from tests.faults.trades import TRADES

SEED = int(os.environ.get("LOYALTY_TEST_SEED", "20261126"))
CALLS = int(os.environ.get("LOYALTY_TEST_CALLS", "500"))
MEMORY = Path("/dev/shm")


def behaviours(vendor: str) -> dict[str, Behaviour]:
    """The ways in which the vendor may behave, as its conformance test knows them."""
    return dict(importlib.import_module(f"tests.conformance.test_{vendor}").SUBJECT.behaviours)


WAYS = [
    pytest.param(vendor, behaviour, id=f"{vendor}-{name}")
    for vendor in TRADES
    for name, behaviour in behaviours(vendor).items()
]


def test_every_vendor_of_the_sandbox_has_callers() -> None:
    assert set(TRADES) == set(PLAYERS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("vendor", "behaviour"), WAYS)
async def test_the_vendors_ledger_and_our_journal_agree(
    vendor: str, behaviour: Behaviour, tmp_path: Path
) -> None:
    run = await agree(
        tmp_path / "house",
        TRADES[vendor],
        PLAYERS[vendor],
        behaviour.settings,
        seed=SEED,
        calls=CALLS,
    )

    assert not run.wrong, f"seed {SEED}:\n{run.words()}"
    assert not run.missed, f"seed {SEED}: {run.missed}\n{run.words()}"
