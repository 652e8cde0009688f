"""One house for all tests of a file: starting it costs a second, and no test empties it."""

from collections.abc import AsyncIterator

import pytest

from tests.vendors.house import House, open_house


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    """A gateway with every vendor; tests go by what changed in the books, not by what is there."""
    async with open_house() as house:
        yield house


@pytest.fixture(autouse=True)
def nothing_played(house: House) -> None:
    """Each test begins with vendors that speak for themselves, and an empty record."""
    for vendor in house.vendors.values():
        vendor.recorder.forget()
