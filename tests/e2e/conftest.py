"""Fixtures for the promises as seen from outside: a house of one's own, or one for a file."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loyalty_gateway.sandbox.book import CardSeed
from tests.e2e.house import House

QUICK = {
    # Recovery as ever, only sooner: a test need not wait as long as a vendor's outage may last.
    "RECOVERY__SCHEDULE_S": "[0.3, 0.5, 1, 2, 5]",
    "RECOVERY__THEN_EVERY_S": "5",
}
"""Settings of a server whose recovery is in a hurry."""

UNPROVEN = """
[connections.cashassist-unproven]
provider = "cashassist"
base_url = "{base_url}"
api_key = "sk_test_demo"
"""
"""The same vendor by a connection that has proven nothing, so that a doubt is a person's."""


@asynccontextmanager
async def open_house(
    folder: Path,
    *,
    settings: Mapping[str, str] = QUICK,
    player_options: Sequence[str] = (),
    more_config: str = "",
    more_cards: Sequence[CardSeed] = (),
) -> AsyncIterator[House]:
    """A running house. At its end the vendor has nothing to complain of and the server drains."""
    house = House(folder, settings=settings, player_options=player_options, more_config=more_config)
    try:
        await house.start(more_cards)
        yield house
        assert await house.vendor.problems() == []
    finally:
        await house.stop()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A house of one test's own, which may kill what it likes in it."""
    async with open_house(tmp_path / "house") as house:
        yield house


@pytest.fixture(scope="module")
async def shared_house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A house for all tests of a file; who kills something in it starts it again."""
    async with open_house(tmp_path_factory.mktemp("e2e") / "house") as house:
        yield house
