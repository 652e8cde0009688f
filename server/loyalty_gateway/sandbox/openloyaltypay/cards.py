"""The cards that openLoyaltyPay's sandbox starts with, and why each is there; nothing else."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from loyalty_gateway.sandbox.book import CardSeed, PastEffect
from loyalty_gateway.sandbox.faults import FAULTS


@dataclass(frozen=True, slots=True)
class SandboxCard:
    """One card to play with; `fault` names what every new booking on it does.

    `is_active` is what activation changes; `declines` answers every booking as failed, in the
    vendor's third layer.
    """

    card_id: str
    given_name: str
    family_name: str
    balance_minor: int
    points: int
    purpose: str
    is_active: bool = True
    is_blocked: bool = False
    declines: bool = False
    is_hidden: bool = False
    fault: str | None = None

    @property
    def holder(self) -> str:
        return f"{self.given_name} {self.family_name}".strip()


CARDS: tuple[SandboxCard, ...] = (
    SandboxCard("10472", "Max", "Muster", 4250, 1280, "an ordinary card"),
    SandboxCard("10480", "Erika", "Beispiel", 25000, 3400, "another ordinary card"),
    SandboxCard("914639258868515", "Jon", "Doe", 153410, 53, "the card of the vendor's samples"),
    SandboxCard("10485", "Reto", "Rappen", 5, 1, "holds the least there is: 0.05 and one point"),
    SandboxCard("10490", "Gerda", "Gesperrt", 1800, 150, "blocked for good", is_blocked=True),
    SandboxCard("10491", "Leo", "Leer", 0, 0, "empty: refuses payments"),
    SandboxCard("10492", "Nora", "Nein", 5000, 500, "every booking fails", declines=True),
    SandboxCard("10495", "", "", 0, 0, "new: to be activated first", is_active=False),
    SandboxCard("10496", "", "", 2500, 0, "loaded, to be activated first", is_active=False),
    SandboxCard("10999", "Promise", "Proof", 10000, 5000, "proves promises", is_hidden=True),
    *(
        SandboxCard(fault.card, "Fault", "Demo", 10000, 5000, fault.happens, fault=fault.name)
        for fault in FAULTS
    ),
)

_FIRST_DAY = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


def card_seeds(seed: int) -> list[CardSeed]:
    """The cards with their first bookings; the same seed gives the same past."""
    return [
        CardSeed(
            card_id=card.card_id,
            holder=card.holder,
            balance_minor=card.balance_minor,
            points=card.points,
            history=_past_of(card, random.Random(f"{seed}:{card.card_id}")),
            is_blocked=card.is_blocked,
            detail=_detail_of(card),
        )
        for card in CARDS
    ]


def _detail_of(card: SandboxCard) -> dict[str, Any]:
    detail: dict[str, Any] = {"is_active": card.is_active, "declines": card.declines}
    if card.holder:
        names = {"firstName": card.given_name, "lastName": card.family_name}
        detail["customer"] = {"customerType": "1", **names}
    return detail


def _past_of(card: SandboxCard, chance: random.Random) -> tuple[PastEffect, ...]:
    """A top-up and a payment that leave the balance, and the points in one go."""
    days = [_FIRST_DAY + timedelta(days=2 * n, minutes=chance.randrange(480)) for n in range(3)]
    at_s = [int(moment.timestamp()) for moment in days]
    spent_minor = chance.randrange(100, 2_000) if card.is_active else 0
    loaded_minor = card.balance_minor + spent_minor
    past = []
    if loaded_minor:
        past.append(PastEffect("giftIssuance", loaded_minor, 0, at_s[0]))
    if spent_minor:
        past.append(PastEffect("giftTransaction", -spent_minor, 0, at_s[1]))
    if card.points:
        past.append(PastEffect("loyaltyIssuance", 0, card.points, at_s[2]))
    return tuple(past)
