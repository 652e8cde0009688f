"""What a row of the fault plan holds; the rows themselves are in plan.py and beside it."""

from dataclasses import dataclass
from typing import Final

BETWEEN_PLACES: Final = "`, `"
"""Each of them is printed as code."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that is done to a gateway."""

    label: str
    done: str
    expected: str
    places: tuple[str, ...]
    points: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return BETWEEN_PLACES.join(self.places)


@dataclass(frozen=True, slots=True)
class Invariant:
    """What has to hold whatever was done, once all has come to rest."""

    label: str
    text: str
    places: tuple[str, ...]

    @property
    def judged_by(self) -> str:
        return BETWEEN_PLACES.join(self.places)


@dataclass(frozen=True, slots=True)
class Untried:
    """What is part of the plan and is not done here, and why."""

    label: str
    text: str
    reason: str
    faults: tuple[str, ...] = ()
