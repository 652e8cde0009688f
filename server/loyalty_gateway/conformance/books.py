"""What a booking did to the played vendor's books, by comparing them; it never writes there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from loyalty_gateway.domain.amounts import Amount, Money
from loyalty_gateway.domain.operations import CREATE_OPERATIONS, UNDO_OPERATIONS, Operation
from loyalty_gateway.sandbox.book import Effect
from loyalty_gateway.sandbox.ledger import Ledger

STATE_OPERATIONS: Final = frozenset(
    {
        Operation.UPDATE_CARD,
        Operation.UPDATE_WALLET,
        Operation.LINK_ACCOUNT,
        Operation.ACTIVATE_GIFT_CARD,
    }
)
"""Bookings that bring an account into a state: done twice they have done no more than once."""


@dataclass(frozen=True, slots=True)
class Books:
    """The vendor's books at one moment, without what was seeded."""

    effects: Mapping[int, Effect]
    accounts: Mapping[str, str]
    """What each account says of itself beside its balances."""
    things: tuple[tuple[str, str, str], ...]
    """The vendor's other records, links and orders for example."""

    def effects_since(self, before: "Books") -> list[Effect]:
        """The entries that were made since, oldest first."""
        return [it for number, it in sorted(self.effects.items()) if number not in before.effects]

    def moved_since(self, before: "Books") -> tuple[int, int]:
        """What the entries since have moved in all, in minor units and in points."""
        new = self.effects_since(before)
        return sum(it.amount_minor for it in new), sum(it.points for it in new)

    def count_since(self, before: "Books", operation: Operation) -> int:
        """How often the operation had its effect since.

        A reversal counts for an undo, and against what it reverses: an effect that is undone
        is none.
        """
        if operation in CREATE_OPERATIONS:
            return len(self.accounts) - len(before.accounts)
        if operation in STATE_OPERATIONS:
            return int((self.accounts, self.things) != (before.accounts, before.things))
        new = self.effects_since(before)
        reversals = sum(it.reverses is not None for it in new)
        return reversals if operation in UNDO_OPERATIONS else len(new) - 2 * reversals


def read_books(ledger: Ledger) -> Books:
    """The books as they are now."""
    return Books(
        effects={it.number: it for it in ledger.effects(with_seed=False)},
        accounts={
            it.card_id: json.dumps([it.holder, it.is_blocked, dict(it.detail)], sort_keys=True)
            for it in ledger.cards()
        },
        things=tuple(
            (kind, key, json.dumps(value, sort_keys=True)) for kind, key, value in ledger.things()
        ),
    )


def amount_of(effect: Effect, amount: Amount) -> int:
    """How much an entry moved in the unit of the amount, without its sign.

    An entry that moves points for money keeps the money in its detail.
    """
    if isinstance(amount, Money):
        return abs(effect.amount_minor or int(effect.detail.get("amount_minor", 0)))
    return abs(effect.points)
