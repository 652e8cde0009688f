"""What the tests of this room share."""

from collections.abc import AsyncIterator

import pytest

from tests.booking.house import (
    House,
    open_house,
)
from tests.postgres import Place


@pytest.fixture
async def house(place: Place) -> AsyncIterator[House]:
    async with open_house(place) as house:
        yield house
