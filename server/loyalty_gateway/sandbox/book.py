"""What a vendor's books hold and how an entry is made in them; it must never commit.

Double entry: what a booking does to a card it does to the programme with the opposite sign.
Amounts are whole minor units, checked once more by the tables themselves. A card is whatever the
vendor calls an account. What only one vendor knows stands as JSON in `detail` or in a `thing`.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, TypeVar

FIRST_EFFECT_NUMBER = 90_001
PROGRAMME = "programme"
MONEY, POINTS = "money", "points"

Detail = Mapping[str, Any]
Result = TypeVar("Result")


class AlreadyReversed(Exception):
    """The effect has been undone; a second time would give back what was never taken."""


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the till behind an effect."""

    description: str
    quantity: int
    unit_price_minor: int


@dataclass(frozen=True, slots=True)
class PastEffect:
    """A booking of the till from before the sandbox was opened; signs as the card sees them."""

    kind: str
    amount_minor: int
    points: int
    booked_at_s: int
    items: tuple[Item, ...] = ()
    detail: Detail = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CardSeed:
    """A card as it is at the start; the history has to add up to the balances."""

    card_id: str
    holder: str
    balance_minor: int
    points: int
    history: tuple[PastEffect, ...]
    is_blocked: bool = False
    detail: Detail = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Card:
    """A card as it is now."""

    card_id: str
    holder: str
    is_blocked: bool
    balance_minor: int
    points: int
    detail: Detail


@dataclass(frozen=True, slots=True)
class Effect:
    """One booking; amounts are signed as the card sees them: what leaves it is negative.

    `reverses` is the number of the effect that this one undoes.
    """

    number: int
    card_id: str
    kind: str
    amount_minor: int
    points: int
    balance_after_minor: int
    points_after: int
    booked_at_ms: int
    reference: str | None
    idempotency_key: str | None
    detail: Detail
    reverses: int | None

    @property
    def booked_at_s(self) -> int:
        return self.booked_at_ms // 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """The first completed answer under an idempotency key, kept to be replayed."""

    idempotency_key: str
    fingerprint: str
    body_hash: str
    status: int
    body: bytes
    content_type: str
    stored_at_s: int


_EFFECT_COLUMNS = (
    "number, card_id, kind, amount_minor, points, balance_after_minor, points_after, booked_at_ms,"
    " reference, idempotency_key, detail, reverses"
)
_CARD_COLUMNS = "card_id, holder, is_blocked, balance_minor, points, detail"


class Pages:
    """What can be read in the books, by a player as by a work in its transaction."""

    _connection: sqlite3.Connection

    def find_card(self, card_id: str) -> Card | None:
        row = self._connection.execute(
            f"SELECT {_CARD_COLUMNS} FROM card WHERE card_id = ?", (card_id,)
        ).fetchone()
        return _card_of(row) if row else None

    def cards(self, *, detail: Detail | None = None) -> list[Card]:
        """All cards, or those with these values in their detail."""
        where, values = _where(_detail_wishes(detail))
        rows = self._connection.execute(
            f"SELECT {_CARD_COLUMNS} FROM card WHERE {where} ORDER BY card_id", values
        )
        return [_card_of(row) for row in rows]

    def effects(
        self,
        *,
        card_id: str | None = None,
        idempotency_key: str | None = None,
        kind: str | None = None,
        reference: str | None = None,
        reverses: int | None = None,
        detail: Detail | None = None,
        from_s: float | None = None,
        to_s: float | None = None,
        before_number: int | None = None,
        with_seed: bool = True,
        limit: int = 1_000_000,
    ) -> list[Effect]:
        """Newest first; `from_s` belongs to the interval, `to_s` does not.

        Bookings stand in the books to the millisecond, and so do the ends of the interval.
        `detail` names fields of the detail with the values that they must have.
        """
        where, values = _where(
            [
                ("card_id = ?", card_id),
                ("idempotency_key = ?", idempotency_key),
                ("kind = ?", kind),
                ("reference = ?", reference),
                ("reverses = ?", reverses),
                ("booked_at_ms >= ?", None if from_s is None else round(from_s * 1000)),
                ("booked_at_ms < ?", None if to_s is None else round(to_s * 1000)),
                ("number < ?", before_number),
                ("is_seed = ?", None if with_seed else 0),
                *_detail_wishes(detail),
            ]
        )
        rows = self._connection.execute(
            f"SELECT {_EFFECT_COLUMNS} FROM effect WHERE {where} ORDER BY number DESC LIMIT ?",
            [*values, limit],
        )
        return [_effect_of(row) for row in rows]

    def find_effect(self, number: int) -> Effect | None:
        row = self._connection.execute(
            f"SELECT {_EFFECT_COLUMNS} FROM effect WHERE number = ?", (number,)
        ).fetchone()
        return _effect_of(row) if row else None

    def items(self, effect_number: int) -> list[Item]:
        rows = self._connection.execute(
            "SELECT description, quantity, unit_price_minor FROM item"
            " WHERE effect_number = ? ORDER BY line",
            (effect_number,),
        )
        return [Item(*row) for row in rows]

    def find_thing(self, kind: str, key: str) -> Any:
        """The vendor's record of that kind, as JSON, or None."""
        row = self._connection.execute(
            "SELECT value FROM thing WHERE kind = ? AND key = ?", (kind, key)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def things(self, kind: str | None = None) -> list[tuple[str, str, Any]]:
        """The vendor's records as (kind, key, value), of one kind or all."""
        where, values = _where([("kind = ?", kind)])
        rows = self._connection.execute(
            f"SELECT kind, key, value FROM thing WHERE {where} ORDER BY kind, key", values
        )
        return [(kind_, key, json.loads(value)) for kind_, key, value in rows]

    def find_outcome(self, idempotency_key: str, *, stored_after_s: float) -> Outcome | None:
        """The answer kept under the key, unless it is so old that the vendor forgot it."""
        row = self._connection.execute(
            "SELECT * FROM outcome WHERE idempotency_key = ? AND stored_at_s > ?",
            (idempotency_key, stored_after_s),
        ).fetchone()
        return Outcome(*row) if row else None

    def find_fired(self, idempotency_key: str) -> str | None:
        """The name of the fault that this key has had, or None."""
        row = self._connection.execute(
            "SELECT fault FROM fired_fault WHERE idempotency_key = ?", (idempotency_key,)
        ).fetchone()
        return row[0] if row else None

    def has_fired(self, idempotency_key: str) -> bool:
        return self.find_fired(idempotency_key) is not None


class Book(Pages):
    """The ledger inside one transaction; a work's changes are kept together or not at all."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def post(
        self,
        card: Card,
        kind: str,
        *,
        amount_minor: int,
        points: int,
        booked_at_ms: int,
        reference: str | None = None,
        idempotency_key: str | None = None,
        detail: Detail | None = None,
        reverses: int | None = None,
        may_reverse_again: bool = False,
        is_seed: bool = False,
    ) -> Effect:
        """Book on the card and, with the opposite sign, on the programme.

        The caller looks first whether the card has enough: the table does not let it go below
        zero, and says so as a defect. `may_reverse_again` plays a vendor that undoes twice.

        Raises: AlreadyReversed.
        """
        if reverses is not None and not may_reverse_again and self.effects(reverses=reverses):
            raise AlreadyReversed(f"effect {reverses} has been undone")
        # The balance is read anew: the card may have been fetched before another booking on it.
        now = self.find_card(card.card_id)
        assert now is not None, card
        balance_after_minor, points_after = now.balance_minor + amount_minor, now.points + points
        effect = Effect(
            self._next_number(),
            card.card_id,
            kind,
            amount_minor,
            points,
            balance_after_minor,
            points_after,
            booked_at_ms,
            reference,
            idempotency_key,
            dict(detail or {}),
            reverses,
        )
        run = self._connection.execute
        *plain, _, _ = astuple(effect)
        run(
            f"INSERT INTO effect ({_EFFECT_COLUMNS}, is_seed) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (*plain, _text(effect.detail), reverses, is_seed),
        )
        account = f"card:{card.card_id}"
        for unit, amount in ((MONEY, amount_minor), (POINTS, points)):
            if amount:
                run(
                    "INSERT INTO posting VALUES (?,?,?,?), (?,?,?,?)",
                    (effect.number, account, unit, amount, effect.number, PROGRAMME, unit, -amount),
                )
        run(
            "UPDATE card SET balance_minor = ?, points = ? WHERE card_id = ?",
            (balance_after_minor, points_after, card.card_id),
        )
        return effect

    def attempt(self, work: Callable[["Book"], Result]) -> Result:
        """Run a part of a work so that its exception takes back this part alone."""
        self._connection.execute("SAVEPOINT attempt")
        try:
            result = work(self)
        except BaseException:
            self._connection.execute("ROLLBACK TO attempt")
            self._connection.execute("RELEASE attempt")
            raise
        self._connection.execute("RELEASE attempt")
        return result

    def create_card(
        self, card_id: str, holder: str, *, detail: Detail | None = None, is_blocked: bool = False
    ) -> Card:
        """Open an empty card; the caller looks first whether there is one of that number."""
        card = Card(card_id, holder, is_blocked, 0, 0, dict(detail or {}))
        self._connection.execute(
            "INSERT INTO card VALUES (?,?,?,0,0,?)",
            (card_id, holder, is_blocked, _text(card.detail)),
        )
        return card

    def update_card(
        self,
        card_id: str,
        *,
        holder: str | None = None,
        is_blocked: bool | None = None,
        detail: Detail | None = None,
    ) -> Card:
        """Change what is given; `detail` is put into the card's detail, field by field."""
        card = self.find_card(card_id)
        assert card is not None, card_id
        self._connection.execute(
            "UPDATE card SET holder = ?, is_blocked = ?, detail = ? WHERE card_id = ?",
            (
                card.holder if holder is None else holder,
                card.is_blocked if is_blocked is None else is_blocked,
                _text({**card.detail, **(detail or {})}),
                card_id,
            ),
        )
        changed = self.find_card(card_id)
        assert changed is not None
        return changed

    def update_effect(self, number: int, detail: Detail) -> Effect:
        """Put `detail` into the effect's detail, field by field; its amounts never change."""
        effect = self.find_effect(number)
        assert effect is not None, number
        self._connection.execute(
            "UPDATE effect SET detail = ? WHERE number = ?",
            (_text({**effect.detail, **detail}), number),
        )
        changed = self.find_effect(number)
        assert changed is not None
        return changed

    def put_thing(self, kind: str, key: str, value: Any) -> None:
        """Keep a record of the vendor's, as JSON, in place of the one with that key."""
        self._connection.execute(
            "INSERT OR REPLACE INTO thing VALUES (?,?,?)", (kind, key, _text(value))
        )

    def drop_thing(self, kind: str, key: str) -> bool:
        """Forget a record; whether there was one."""
        done = self._connection.execute("DELETE FROM thing WHERE kind = ? AND key = ?", (kind, key))
        return done.rowcount > 0

    def remember(self, outcome: Outcome) -> None:
        """Keep the answer under its key; an older one is there only when it was forgotten."""
        self._connection.execute(
            "INSERT OR REPLACE INTO outcome VALUES (?,?,?,?,?,?,?)",
            astuple(outcome),
        )

    def note_fault(self, idempotency_key: str, fault: str) -> None:
        """Keep that this key's fault has fired, so that a restart does not fire it again."""
        self._connection.execute(
            "INSERT OR IGNORE INTO fired_fault VALUES (?,?)", (idempotency_key, fault)
        )

    def seed(self, seeds: Iterable[CardSeed]) -> None:
        """Add the cards that are missing, each with its history."""
        for seed in seeds:
            if self.find_card(seed.card_id) is not None:
                continue
            self.create_card(
                seed.card_id, seed.holder, detail=seed.detail, is_blocked=seed.is_blocked
            )
            for past in seed.history:
                self._seed_effect(seed.card_id, past)
            card = self.find_card(seed.card_id)
            assert card is not None
            assert (card.balance_minor, card.points) == (seed.balance_minor, seed.points), seed

    def clear(self) -> None:
        """Forget everything; the numbering starts again."""
        for table in ("posting", "item", "outcome", "fired_fault", "thing", "effect", "card"):
            self._connection.execute(f"DELETE FROM {table}")

    def _next_number(self) -> int:
        """The next number of an effect; a number that was taken back is given again."""
        (last,) = self._connection.execute(
            "SELECT COALESCE(MAX(number), ?) FROM effect", (FIRST_EFFECT_NUMBER - 1,)
        ).fetchone()
        return int(last) + 1

    def _seed_effect(self, card_id: str, past: PastEffect) -> None:
        card = self.find_card(card_id)
        assert card is not None
        effect = self.post(
            card,
            past.kind,
            amount_minor=past.amount_minor,
            points=past.points,
            booked_at_ms=past.booked_at_s * 1000,
            detail=past.detail,
            is_seed=True,
        )
        self._connection.executemany(
            "INSERT INTO item VALUES (?,?,?,?,?)",
            [
                (effect.number, line, item.description, item.quantity, item.unit_price_minor)
                for line, item in enumerate(past.items, start=1)
            ],
        )


def _card_of(row: tuple[str, str, int, int, int, str]) -> Card:
    card_id, holder, is_blocked, balance_minor, points, detail = row
    return Card(card_id, holder, bool(is_blocked), balance_minor, points, json.loads(detail))


def _effect_of(row: tuple[Any, ...]) -> Effect:
    values: list[Any] = [*row[:-2], json.loads(row[-2]), row[-1]]
    return Effect(*values)


def _where(wishes: Iterable[tuple[str, Any]]) -> tuple[str, list[Any]]:
    """The condition of those wishes that have a value, and the values."""
    asked = [(text, value) for text, value in wishes if value is not None]
    return " AND ".join(text for text, _ in asked) or "1", [value for _, value in asked]


def _detail_wishes(detail: Detail | None) -> list[tuple[str, Any]]:
    return [
        (f"json_extract(detail, '$.\"{_name(name)}\"') = ?", value)
        for name, value in (detail or {}).items()
    ]


def _name(name: str) -> str:
    assert name.isidentifier(), f"{name!r} cannot be searched for"
    return name


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
