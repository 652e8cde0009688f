"""What Loyalife's ledger does with points, and what it shows of them; no member changes here.

Each verb reads a body that fits the document and says what it does to the books, as a work for
the ledger.
"""

import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from loyalty_gateway.sandbox import exact
from loyalty_gateway.sandbox.book import AlreadyReversed, Book, Card, Effect, Pages
from loyalty_gateway.sandbox.bookings import CarryOut, Entry
from loyalty_gateway.sandbox.exact import MINOR_UNITS_PER_UNIT
from loyalty_gateway.sandbox.faults import Answer
from loyalty_gateway.sandbox.loyalife import wire
from loyalty_gateway.sandbox.loyalife.cards import ACTIVE
from loyalty_gateway.sandbox.loyalife.wire import Speech

Body = dict[str, Any]

# The rule engine: points for each whole unit of money, by product. Without a rule there are none.
RULES: dict[str, int] = {"RETAIL001": 1, "TRAVEL001": 3, "FUEL001": 0}
DIRECT_MERCHANT = "Direct"
GIFT_CARD = 30
# What a deployment keeps of a merchant's name when it keeps less than was sent.
SHORT_NAME_CHARACTERS = 24
QUARTERS = ((3, 31), (6, 30), (9, 30), (12, 31))

_DAY = re.compile(r"\d{4}-\d\d-\d\d")


def redeem(body: Body, speech: Speech, *, keeps_names_whole: bool) -> CarryOut:
    """Take points, all or none; the answer is the number that a reversal needs."""
    merchant = _kept(body["MerchantName"], keeps_names_whole)

    def work(book: Book, entry: Entry) -> Answer:
        card = active_member(book, body["RelationReference"], speech)
        if card.points < body["Points"]:
            raise speech.refusal("301")
        guid = str(uuid.uuid4()).upper()
        book.post(
            card,
            "redeem",
            amount_minor=0,
            points=-body["Points"],
            booked_at_ms=entry.now_ms,
            idempotency_key=entry.key,
            detail={"guid": guid, "merchant": merchant, "loyalty_type": body["LoyaltyTxnType"]},
        )
        return speech.success(guid)

    return work


def redeem_directly(body: Body, speech: Speech) -> CarryOut:
    """The redemption as the product page prints it: three fields, no merchant, no category."""
    full = {
        "RelationReference": body["memberId"],
        "Points": body["points"],
        "MerchantName": DIRECT_MERCHANT,
        "LoyaltyTxnType": GIFT_CARD,
    }
    return redeem(full, speech, keeps_names_whole=True)


def reverse(
    body: Body, speech: Speech, *, keeps_names_whole: bool, reverses_again: bool
) -> CarryOut:
    """Give a redemption's points back, once; member and merchant must be those of it."""
    merchant = _kept(body["MerchantName"], keeps_names_whole)

    def work(book: Book, entry: Entry) -> Answer:
        if book.find_card(body["RelationReference"]) is None:
            raise speech.refusal("103")
        found = _redemption(book, body["ExternalReference"])
        if found is None:
            raise speech.refusal("303")
        is_same = found.detail.get("merchant") == merchant
        if found.card_id != body["RelationReference"] or not is_same:
            raise speech.refusal("304")
        card = book.find_card(found.card_id)
        assert card is not None
        try:
            book.post(
                card,
                "reversal",
                amount_minor=0,
                points=-found.points,
                booked_at_ms=entry.now_ms,
                idempotency_key=entry.key,
                detail={**found.detail, "guid": str(uuid.uuid4()).upper()},
                reverses=found.number,
                may_reverse_again=reverses_again,
            )
        except AlreadyReversed:
            raise speech.refusal("302") from None
        return speech.success(True)

    return work


def insert(body: Body, speech: Speech) -> CarryOut:
    """Hand a purchase in: DR earns what the rules give, CR takes the same back."""
    amount_minor = exact.minor_units(body["amount"])
    is_earning = body["transaction_type"].upper() == "DR"
    points = amount_minor // MINOR_UNITS_PER_UNIT * RULES.get(body["product_code"], 0)

    def work(book: Book, entry: Entry) -> Answer:
        card = book.find_card(body["member_relation_reference"])
        if card is None:
            raise speech.refusal("103")
        if not is_earning and card.points < points:
            raise speech.refusal("301")
        book.post(
            card,
            "earn" if is_earning else "take_back",
            amount_minor=0,
            points=points if is_earning else -points,
            booked_at_ms=entry.now_ms,
            reference=body["transaction_id"],
            idempotency_key=entry.key,
            detail={"product": body["product_code"], "amount_minor": amount_minor},
        )
        return speech.success(True)

    return work


def problems_of_transaction(body: Body) -> list[tuple[str, str]]:
    """What the document says in words about a transaction, as (where, problem)."""
    problems = problems_of_amount(body, "amount")
    if not _DAY.fullmatch(body["transaction_date"]):
        problems.append(("body.transaction_date", "must be YYYY-MM-DD"))
    return problems


def problems_of_amount(body: Body, name: str) -> list[tuple[str, str]]:
    """An amount is positive money."""
    try:
        is_right = exact.minor_units(body[name]) > 0
    except ValueError:
        is_right = False
    return [] if is_right else [(f"body.{name}", "must be money above zero")]


# --- what is shown ------------------------------------------------------------------------------


def available(book: Pages, body: Body, speech: Speech) -> Answer:
    """The points that can be redeemed now."""
    return speech.success(active_member(book, body["RelationReference"], speech).points)


def lines(book: Pages, body: Body, speech: Speech, *, is_oldest_first: bool) -> Answer:
    """Some lines of a period, of which both ends belong to it; Count is of all of them."""
    card = member(book, body["RelationReference"], speech)
    found = [effect for effect in _within(book, card, body, speech) if effect.points]
    if is_oldest_first:
        found.reverse()
    first = body["MinimumRange"]
    page = found[first : first + body["MaximumRange"]]
    return speech.success([wire.encode_line(effect, speech) for effect in page], count=len(found))


def summary(book: Pages, body: Body, speech: Speech) -> Answer:
    """The sums of everything, and the balance of now."""
    card = member(book, body["RelationReference"], speech)
    sums = _sums(book.effects(card_id=card.card_id))
    names = ("Bonus", "Spend", "Redeem", "Partner", "Purchased", "OtherAccrued", "ExpiredPoints")
    content = {name: max(sums.get(name, 0), 0) for name in names}
    return speech.success({**content, "PointBalance": card.points})


def by_category(book: Pages, body: Body, speech: Speech) -> Answer:
    """The sums of a period; a category without a line is not there."""
    card = member(book, body["RelationReference"], speech)
    sums = _sums(_within(book, card, body, speech))
    rows = [{"Category": name, "Points": points} for name, points in sums.items() if points > 0]
    return speech.success(rows, count=len(rows))


def expiry(book: Pages, body: Body, speech: Speech) -> Answer:
    """What a quarter earned ends with the same quarter a year later; the oldest is used first."""
    card = member(book, body["RelationReference"], speech)
    earned: dict[tuple[int, int], int] = {}
    used = 0
    for effect in reversed(book.effects(card_id=card.card_id)):
        if effect.kind in ("earn", "bonus"):
            moment = datetime.fromtimestamp(effect.booked_at_s, UTC)
            quarter = (moment.year + 1, (moment.month - 1) // 3)
            earned[quarter] = earned.get(quarter, 0) + effect.points
        else:
            used -= effect.points
    periods = []
    for (year, place), accrued in sorted(earned.items()):
        redeemed = min(max(used, 0), accrued)
        used -= redeemed
        if year == body["Year"]:
            month, day = QUARTERS[place]
            periods.append(
                {
                    "ScheduleDate": f"{year}-{month:02d}-{day:02d}T00:00:00",
                    "AccrualPoints": accrued,
                    "RedeemPoints": redeemed,
                    "BlockedPoints": 0,
                    "TotalAvailablePoints": accrued - redeemed,
                }
            )
    return speech.success({"Period": "Quarterly", "ExpiryPeriod": periods})


def member(book: Pages, reference: str, speech: Speech) -> Card:
    """The member of that number.

    Raises: Refusal.
    """
    card = book.find_card(reference)
    if card is None:
        raise speech.refusal("103")
    return card


def active_member(book: Pages, reference: str, speech: Speech) -> Card:
    """The member of that number, who may redeem.

    Raises: Refusal.
    """
    card = member(book, reference, speech)
    if card.detail["status"] != ACTIVE:
        raise speech.refusal("107")
    return card


def is_reversed(book: Pages, guid: str) -> bool:
    """Whether the redemption of that number was given back."""
    found = _redemption(book, guid)
    return found is not None and bool(book.effects(reverses=found.number, limit=1))


def _kept(name: str, keeps_names_whole: bool) -> str:
    return name if keeps_names_whole else name[:SHORT_NAME_CHARACTERS]


def _redemption(book: Pages, guid: str) -> Effect | None:
    wanted = guid.upper()
    return next(
        (effect for effect in book.effects(kind="redeem") if wire.guid_of(effect) == wanted), None
    )


def _within(book: Pages, card: Card, body: Body, speech: Speech) -> list[Effect]:
    millisecond = 0.001
    return book.effects(
        card_id=card.card_id,
        from_s=speech.seconds(body["DateFrom"]),
        to_s=speech.seconds(body["DateTo"]) + millisecond,
    )


def _sums(effects: Iterable[Effect]) -> dict[str, int]:
    names = {"earn": ("Spend", 1), "take_back": ("Spend", 1), "bonus": ("Bonus", 1)}
    names |= {"redeem": ("Redeem", -1), "reversal": ("Redeem", -1)}
    sums: dict[str, int] = {}
    for effect in effects:
        name, sign = names[effect.kind]
        sums[name] = sums.get(name, 0) + sign * effect.points
    return sums
