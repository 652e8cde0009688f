"""The members that Loyalife's sandbox starts with, and why each is there; nothing else."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from loyalty_gateway.sandbox.book import CardSeed, PastEffect
from loyalty_gateway.sandbox.faults import FAULTS

ACTIVE, SUSPENDED, INACTIVE = 1, 2, 5
FIRST_MEMBER_NUMBER = 12_345

# What every member's password hashes to: the MD5 of "loyalife", as a programme may want it.
PASSWORD_HASH = "eb8b704149f7e7a4488a7d218de6da3e"


@dataclass(frozen=True, slots=True)
class SandboxMember:
    """One member to play with; `fault` names what every new booking on it does."""

    card_id: str
    holder: str
    points: int
    purpose: str
    status: int = ACTIVE
    tier: str = "Silver"
    is_hidden: bool = False
    fault: str | None = None


MEMBERS: tuple[SandboxMember, ...] = (
    SandboxMember("m_8124", "Asha Rao", 4200, "the member of the vendor's own sample", tier="Gold"),
    SandboxMember("m_8125", "Jane Doe", 1500, "another ordinary member"),
    SandboxMember("m_8126", "Irfan Inactive", 900, "not activated: cannot redeem", INACTIVE),
    SandboxMember("m_8127", "Sunita Suspended", 700, "suspended: cannot redeem", SUSPENDED),
    SandboxMember("m_8128", "Leela Less", 5, "holds five points: refuses to redeem more"),
    SandboxMember("10999", "Promise Proof", 5000, "proves promises at start", is_hidden=True),
    *(
        SandboxMember(fault.card, "Fault Demo", 5000, fault.happens, fault=fault.name)
        for fault in FAULTS
    ),
)

_FIRST_DAY = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


def card_seeds(seed: int) -> list[CardSeed]:
    """The members with three older bookings each; the same seed gives the same past."""
    return [
        CardSeed(
            card_id=member.card_id,
            holder=member.holder,
            balance_minor=0,
            points=member.points,
            history=_past_of(member, random.Random(f"{seed}:{member.card_id}")),
            detail=_detail(member, FIRST_MEMBER_NUMBER + place),
        )
        for place, member in enumerate(MEMBERS)
    ]


def shown_cards() -> list[dict[str, Any]]:
    """The members to play with, as JSON."""
    return [
        {
            "card": member.card_id,
            "holder": member.holder,
            "balance_minor": 0,
            "points": member.points,
            "fault": member.fault,
            "purpose": member.purpose,
        }
        for member in MEMBERS
        if not member.is_hidden
    ]


def _detail(member: SandboxMember, number: int) -> dict[str, Any]:
    return {
        "number": number,
        "email_id": f"{member.card_id.replace('_', '')}@example.com",
        "mobile_number": f"+9198765{number:05d}",
        "status": member.status,
        "tier": member.tier,
        "password_hash": PASSWORD_HASH,
        "enrolled": "2026-01-05T09:30:00",
    }


def _past_of(member: SandboxMember, chance: random.Random) -> tuple[PastEffect, ...]:
    """A welcome bonus, a purchase and a redemption that leave what the member has."""
    bonus = min(member.points, 100)
    spent = chance.randrange(10, 60)
    times = [_FIRST_DAY + timedelta(days=9 * n, minutes=chance.randrange(480)) for n in range(3)]
    when_s = [int(moment.timestamp()) for moment in times]
    return (
        PastEffect("bonus", 0, bonus, when_s[0], detail={"narration": "Welcome Bonus"}),
        PastEffect("earn", 0, member.points - bonus + spent, when_s[1]),
        PastEffect(
            "redeem", 0, -spent, when_s[2], detail={"merchant": "Amazon", "loyalty_type": 30}
        ),
    )
