"""What a duty is: one thing that every adapter owes for every operation of a kind."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loyalty_gateway.conformance.stage import Stage
from loyalty_gateway.conformance.subject import Subject
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS, Operation
from loyalty_gateway.providers.port import Adapter

Applies = Callable[[Subject, Adapter, Operation], bool]
Check = Callable[[Stage, Operation], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Duty:
    """One duty. `meaning` is a sentence about the adapter; `check` raises AssertionError where
    it does not hold, and ProviderError where even the ordinary does not work."""

    name: str
    meaning: str
    applies: Applies
    check: Check


def to_any(subject: Subject, adapter: Adapter, operation: Operation) -> bool:
    """For every operation that the adapter offers."""
    return True


def to_bookings(subject: Subject, adapter: Adapter, operation: Operation) -> bool:
    """For every operation that has an effect."""
    return operation in BOOKING_OPERATIONS


def to_questions(subject: Subject, adapter: Adapter, operation: Operation) -> bool:
    """For everything else: reads, codes and proofs."""
    return operation not in BOOKING_OPERATIONS
