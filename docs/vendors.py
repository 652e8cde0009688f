"""The vendors as the pages tell of them: their tables, their assumptions, what the suite tries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from loyalty_gateway.conformance.subject import Subject
from loyalty_gateway.conformance.suite import open_nowhere
from loyalty_gateway.providers.cardsapi.assumptions import ASSUMPTIONS as CARDSAPI
from loyalty_gateway.providers.cashassist.assumptions import ASSUMPTIONS as CASHASSIST
from loyalty_gateway.providers.loyalife.assumptions import ASSUMPTIONS as LOYALIFE
from loyalty_gateway.providers.openloyaltypay.assumptions import ASSUMPTIONS as OPENLOYALTYPAY
from loyalty_gateway.providers.port import Adapter
from tests.conformance import (
    test_cardsapi,
    test_cashassist,
    test_loyalife,
    test_openloyaltypay,
)


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
    "cardsapi": _vendor(test_cardsapi.SUBJECT, CARDSAPI),
    "loyalife": _vendor(test_loyalife.SUBJECT, LOYALIFE),
    "openloyaltypay": _vendor(test_openloyaltypay.SUBJECT, OPENLOYALTYPAY),
}
"""A new vendor is a line here, too: the pages are made of it."""
