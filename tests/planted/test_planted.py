"""Tests of the tests: every planted bug is found by its cell, and only because it is there."""

import pytest

from tests.planted.cells import CELLS, SHOWS
from tests.planted.plants import PLANTS, planted
from tests.planted.scene import Scene


def test_every_plant_has_a_cell_and_says_what_it_shows() -> None:
    assert set(PLANTS) == set(CELLS) == set(SHOWS)
    assert all(SHOWS.values())


@pytest.mark.parametrize("name", CELLS)
async def test_a_cell_finds_nothing_in_the_product_as_it_is(name: str, scene: Scene) -> None:
    assert await CELLS[name](scene) == set()


@pytest.mark.parametrize("name", CELLS)
async def test_a_cell_finds_the_bug_that_is_planted(name: str, scene: Scene) -> None:
    with planted(name):
        found = await CELLS[name](scene)

    assert found >= SHOWS[name], f"{PLANTS[name].title}: {found}"
