"""The cards that CashAssist's sandbox starts with, and why each is there; nothing else."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from loyalty_gateway.sandbox.book import CardSeed, Item, PastEffect
from loyalty_gateway.sandbox.exact import MINOR_UNITS_PER_UNIT
from loyalty_gateway.sandbox.faults import FAULTS


@dataclass(frozen=True, slots=True)
class SandboxCard:
    """One card to play with; `fault` names what every new booking on it does."""

    card_id: str
    holder: str
    balance_minor: int
    points: int
    purpose: str
    is_blocked: bool = False
    is_hidden: bool = False
    fault: str | None = None


CARDS: tuple[SandboxCard, ...] = (
    SandboxCard("10472", "Max Muster", 4250, 1280, "the vendor's own demo card"),
    SandboxCard("10480", "Erika Beispiel", 25000, 3400, "another ordinary card"),
    SandboxCard("10485", "Reto Rappen", 5, 1, "holds the least there is: 0.05 and one point"),
    SandboxCard("10490", "Gerda Gesperrt", 1800, 150, "blocked: refuses bookings", is_blocked=True),
    SandboxCard("10491", "Leo Leer", 0, 0, "empty: refuses withdrawals"),
    SandboxCard("10999", "Promise Proof", 10000, 5000, "proves promises at start", is_hidden=True),
    *(
        SandboxCard(fault.card, "Fault Demo", 10000, 5000, fault.happens, fault=fault.name)
        for fault in FAULTS
    ),
)

_MENU = (
    Item("Espresso", 1, 420),
    Item("Cappuccino", 1, 520),
    Item("Gipfeli", 1, 210),
    Item("Birchermüesli", 1, 780),
    Item("Käsesandwich", 1, 950),
    Item("Apfelschorle", 1, 480),
)
_FIRST_DAY = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


def card_seeds(seed: int) -> list[CardSeed]:
    """The cards with three to five older bookings each; the same seed gives the same past."""
    return [
        CardSeed(
            card_id=card.card_id,
            holder=card.holder,
            balance_minor=card.balance_minor,
            points=card.points,
            history=_past_of(card, random.Random(f"{seed}:{card.card_id}")),
            is_blocked=card.is_blocked,
        )
        for card in CARDS
    ]


def _past_of(card: SandboxCard, chance: random.Random) -> tuple[PastEffect, ...]:
    """A top-up, two purchases, and the points that the purchases leave unexplained."""
    purchases = [_items(chance) for _ in range(2)]
    spent_minor = [sum(i.quantity * i.unit_price_minor for i in items) for items in purchases]
    earned = [amount_minor // MINOR_UNITS_PER_UNIT for amount_minor in spent_minor]
    refill_minor = card.balance_minor + sum(spent_minor)
    unexplained = card.points - sum(earned)
    days = [_FIRST_DAY + timedelta(days=2 * n, minutes=chance.randrange(480)) for n in range(5)]
    when_s = iter(int(moment.timestamp()) for moment in days)

    top_up = Item("Aufladung", 1, refill_minor)
    past = [PastEffect("refill", refill_minor, 0, next(when_s), (top_up,))]
    if unexplained > 0:
        past.append(PastEffect("correction", 0, unexplained, next(when_s)))
    for items, amount_minor, points in zip(purchases, spent_minor, earned, strict=True):
        past.append(PastEffect("purchase", -amount_minor, points, next(when_s), items))
    if unexplained < 0:
        past.append(PastEffect("withdraw", 0, unexplained, next(when_s)))
    return tuple(past)


def _items(chance: random.Random) -> tuple[Item, ...]:
    chosen = chance.sample(_MENU, chance.randint(1, 3))
    return tuple(
        Item(item.description, chance.randint(1, 2), item.unit_price_minor) for item in chosen
    )
