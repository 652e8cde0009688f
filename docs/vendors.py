"""The vendors as the pages tell of them: their tables, their assumptions, what the suite tries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from loyalty_gateway.conformance.subject import Subject
from loyalty_gateway.conformance.suite import open_nowhere
from loyalty_gateway.providers.cashassist.assumptions import ASSUMPTIONS as CASHASSIST
from loyalty_gateway.providers.port import Adapter
from tests.conformance import test_cashassist


@dataclass(frozen=True, slots=True)
class Vendor:
    """One vendor: what its adapter declares, and what our suite is told of it."""

    subject: Subject
    adapter: Adapter
    assumptions: Mapping[str, str]


def _vendor(subject: Subject, assumptions: Mapping[str, str]) -> Vendor:
    return Vendor(subject, open_nowhere(subject), assumptions)


VENDORS: Final[Mapping[str, Vendor]] = {
    "cashassist": _vendor(test_cashassist.SUBJECT, CASHASSIST),
}
"""A new vendor is a line here, too: the pages are made of it."""
