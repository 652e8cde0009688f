"""Every duty of every adapter, in the order in which they are tried and listed."""

from typing import Final

from loyalty_gateway.conformance.duties import (
    answers,
    bookings,
    credentials,
    reads,
    recovery,
    table,
    transport,
)
from loyalty_gateway.conformance.duties.duty import Duty

DUTIES: Final[tuple[Duty, ...]] = (
    *table.DUTIES,
    *bookings.DUTIES,
    *reads.DUTIES,
    *answers.DUTIES,
    *transport.DUTIES,
    *credentials.DUTIES,
    *recovery.DUTIES,
)

__all__ = ["DUTIES", "Duty"]
