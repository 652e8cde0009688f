"""The bugs that are planted, and what finds them; docs/guarantees.md prints this table."""

from typing import Final

from tests.faults.rows import Row
from tests.planted.cells import CELLS, SHOWS
from tests.planted.plants import PLANTS

BUGS: Final = tuple(
    Row(
        name,
        plant.title,
        "; ".join(sorted(SHOWS[name])),
        (f"{CELLS[name].__module__}.{CELLS[name].__name__}",),
    )
    for name, plant in PLANTS.items()
)
"""By their number; what must come out is what the checker finds."""
