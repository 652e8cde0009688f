"""The cards that CashAssist's sandbox starts with, and why each is there; nothing else."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from loyalty_gateway.sandbox.book import CardSeed, Item, PastEffect
from loyalty_gateway.sandbox.exact import MINOR_UNITS_PER_UNIT
from loyalty_gateway.sandbox.faults import FAULTS


@dataclass(frozen=True, slots=True)
class SandboxCard:
    """One card to play with; `fault` names what every new booking on it does.

    `phone` is where its codes would go; a number can have several cards.
    """

    card_id: str
    holder: str
    balance_minor: int
    points: int
    purpose: str
    is_blocked: bool = False
    is_hidden: bool = False
    fault: str | None = None
    phone: str | None = None

    @property
    def detail(self) -> dict[str, str]:
        """What the vendor keeps of the holder, in its own words."""
        first, _, last = self.holder.partition(" ")
        names = {"firstName": first, "lastName": last}
        return names if self.phone is None else {**names, "phone": self.phone}


# The document's own example of a number; the others are free to be guessed.
_PHONES = ("+41790000000", "+41790000001", "+41790000002")

CARDS: tuple[SandboxCard, ...] = (
    SandboxCard("10472", "Max Muster", 4250, 1280, "the vendor's own demo card", phone=_PHONES[0]),
    SandboxCard("10480", "Erika Beispiel", 25000, 3400, "another ordinary card", phone=_PHONES[1]),
    SandboxCard(
        "10485",
        "Reto Rappen",
        5,
        1,
        "holds the least there is: 0.05 and one point",
        phone=_PHONES[2],
    ),
    SandboxCard(
        "10490",
        "Gerda Gesperrt",
        1800,
        150,
        "blocked: refuses bookings",
        is_blocked=True,
        phone=_PHONES[2],
    ),
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
            history=past_of(card, seed),
            is_blocked=card.is_blocked,
            detail=card.detail,
        )
        for card in CARDS
    ]


def past_of(card: SandboxCard, seed: int) -> tuple[PastEffect, ...]:
    """A top-up, two purchases, and the points that the purchases leave unexplained.

    Each purchase has a receipt, by which the card can be verified.
    """
    chance = random.Random(f"{seed}:{card.card_id}")
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
        receipt = {"receipt": f"{_FIRST_DAY.year}-{chance.randrange(1_000_000):06}"}
        past.append(PastEffect("purchase", -amount_minor, points, next(when_s), items, receipt))
    if unexplained < 0:
        past.append(PastEffect("withdraw", 0, unexplained, next(when_s)))
    return tuple(past)


def _items(chance: random.Random) -> tuple[Item, ...]:
    chosen = chance.sample(_MENU, chance.randint(1, 3))
    return tuple(
        Item(item.description, chance.randint(1, 2), item.unit_price_minor) for item in chosen
    )
