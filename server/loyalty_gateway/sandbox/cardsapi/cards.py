"""The passes that CardAPI's sandbox starts with, and why each is there; nothing else."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from loyalty_gateway.sandbox.book import CardSeed, PastEffect
from loyalty_gateway.sandbox.faults import FAULTS

CASHBACK = "CASHBACK"
SERVICE_ID = 3
PAYMENT_METHOD_ID = 2

GROUPS = (1, 2)
STORES = {(12, 65): 1, (13, 70): 2}
"""The group of cards that a point of sale of a store takes, by store and point of sale."""


@dataclass(frozen=True, slots=True)
class SandboxPass:
    """One pass to play with: `number` is its barcode, `card_id` what a person keys.

    `fault` names what every new booking on it does.
    """

    card_id: str
    given_name: str
    family_name: str
    balance_minor: int
    purpose: str
    number: str = ""
    nfc_number: str = ""
    pass_id: str = ""
    type: str = CASHBACK
    group_id: int = 1
    is_hidden: bool = False
    fault: str | None = None

    @property
    def detail(self) -> dict[str, object]:
        """What the ledger keeps of it beside holder and balance; the numbers are made up of the
        card's own where none is given."""
        number = int(self.card_id)
        return {
            "type": self.type,
            "group_id": self.group_id,
            "pass_id": self.pass_id or f"pass_{number:x}",
            "number": self.number or f"37600000{number}",
            "nfc_number": self.nfc_number or f"04A2245B{number:06X}",
            "given_name": self.given_name,
            "family_name": self.family_name,
        }


PASSES: tuple[SandboxPass, ...] = (
    SandboxPass(
        "30001",
        "Camille",
        "Durand",
        654,
        "the vendor's own sample; barcode 3760000000017, NFC 04A2245B6C1D80",
        number="3760000000017",
        nfc_number="04A2245B6C1D80",
        pass_id="pass_8f1c",
    ),
    SandboxPass("30002", "Hugo", "Exemple", 12500, "another ordinary card"),
    SandboxPass("30003", "Inès", "Centime", 1, "holds the least there is: 0.01"),
    SandboxPass("30004", "Victor", "Vide", 0, "empty: every debit is refused"),
    SandboxPass("30005", "Odile", "Autre", 2000, "no cashback pass: not debited", type="VOUCHER"),
    SandboxPass("30006", "Paul", "Ailleurs", 5000, "in group 2, so not in group 1", group_id=2),
    SandboxPass("10999", "Promise", "Proof", 10000, "proves promises at start", is_hidden=True),
    *(
        SandboxPass(fault.card, "Fault", "Demo", 10000, fault.happens, fault=fault.name)
        for fault in FAULTS
    ),
)

_FIRST_DAY = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


def card_seeds(seed: int) -> list[CardSeed]:
    """The passes with a credit and a debit each; the same seed gives the same past."""
    return [
        CardSeed(
            card_id=it.card_id,
            holder=f"{it.given_name} {it.family_name}",
            balance_minor=it.balance_minor,
            points=0,
            history=_past_of(it, random.Random(f"{seed}:{it.card_id}")),
            detail=it.detail,
        )
        for it in PASSES
    ]


def _past_of(it: SandboxPass, chance: random.Random) -> tuple[PastEffect, ...]:
    spent_minor = chance.randrange(100, 3000)
    days = [_FIRST_DAY + timedelta(days=2 * n, minutes=chance.randrange(480)) for n in range(2)]
    first_s, second_s = (int(moment.timestamp()) for moment in days)
    return (
        PastEffect("credit", it.balance_minor + spent_minor, 0, first_s),
        PastEffect("debit", -spent_minor, 0, second_s),
    )
