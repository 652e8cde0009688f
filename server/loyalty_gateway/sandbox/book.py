"""What a vendor's books hold and how an entry is made in them; it must never commit.

Double entry: what a booking does to a card it does to the programme with the opposite sign.
Amounts are whole minor units, checked once more by the tables themselves.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import astuple, dataclass

FIRST_EFFECT_NUMBER = 90_001
PROGRAMME = "programme"
MONEY, POINTS = "CHF", "points"

SCHEMA = """
CREATE TABLE card (
    card_id TEXT PRIMARY KEY, holder TEXT NOT NULL, is_blocked INTEGER NOT NULL,
    balance_minor INTEGER NOT NULL
        CHECK (typeof(balance_minor) = 'integer' AND balance_minor >= 0),
    points INTEGER NOT NULL CHECK (typeof(points) = 'integer' AND points >= 0)
);
CREATE TABLE effect (
    number INTEGER PRIMARY KEY AUTOINCREMENT, card_id TEXT NOT NULL REFERENCES card,
    kind TEXT NOT NULL,
    amount_minor INTEGER NOT NULL CHECK (typeof(amount_minor) = 'integer'),
    points INTEGER NOT NULL CHECK (typeof(points) = 'integer'),
    balance_after_minor INTEGER NOT NULL, points_after INTEGER NOT NULL,
    booked_at_s INTEGER NOT NULL CHECK (typeof(booked_at_s) = 'integer'),
    reference TEXT, idempotency_key TEXT, is_seed INTEGER NOT NULL
);
CREATE INDEX effect_by_card ON effect (card_id, number);
CREATE INDEX effect_by_key ON effect (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TABLE posting (
    effect_number INTEGER NOT NULL REFERENCES effect, account TEXT NOT NULL, unit TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (typeof(amount) = 'integer' AND amount <> 0),
    PRIMARY KEY (effect_number, account, unit)
) WITHOUT ROWID;
CREATE TABLE item (
    effect_number INTEGER NOT NULL REFERENCES effect, line INTEGER NOT NULL,
    description TEXT NOT NULL, quantity INTEGER NOT NULL, unit_price_minor INTEGER NOT NULL,
    PRIMARY KEY (effect_number, line)
) WITHOUT ROWID;
CREATE TABLE outcome (
    idempotency_key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, body_hash TEXT NOT NULL,
    status INTEGER NOT NULL, body BLOB NOT NULL, stored_at_s INTEGER NOT NULL
);
CREATE TABLE fired_fault (idempotency_key TEXT PRIMARY KEY, fault TEXT NOT NULL);
"""


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


@dataclass(frozen=True, slots=True)
class CardSeed:
    """A card as it is at the start; the history has to add up to the balances."""

    card_id: str
    holder: str
    balance_minor: int
    points: int
    history: tuple[PastEffect, ...]
    is_blocked: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """A card as it is now."""

    card_id: str
    holder: str
    is_blocked: bool
    balance_minor: int
    points: int


@dataclass(frozen=True, slots=True)
class Effect:
    """One booking; amounts are signed as the card sees them: what leaves it is negative."""

    number: int
    card_id: str
    kind: str
    amount_minor: int
    points: int
    balance_after_minor: int
    points_after: int
    booked_at_s: int
    reference: str | None
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The first completed answer under an idempotency key, kept to be replayed."""

    idempotency_key: str
    fingerprint: str
    body_hash: str
    status: int
    body: bytes
    stored_at_s: int


EFFECT_COLUMNS = (
    "number, card_id, kind, amount_minor, points, balance_after_minor, points_after, booked_at_s,"
    " reference, idempotency_key"
)
CARD_COLUMNS = "card_id, holder, is_blocked, balance_minor, points"


class Book:
    """The ledger inside one transaction; a work's changes are kept together or not at all."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def find_card(self, card_id: str) -> Card | None:
        return find_card(self._connection, card_id)

    def post(
        self,
        card: Card,
        kind: str,
        *,
        amount_minor: int,
        points: int,
        booked_at_s: int,
        reference: str | None = None,
        idempotency_key: str | None = None,
        is_seed: bool = False,
    ) -> Effect:
        """Book on the card and, with the opposite sign, on the programme."""
        balance_after_minor = card.balance_minor + amount_minor
        points_after = card.points + points
        run = self._connection.execute
        number = run(
            f"INSERT INTO effect ({EFFECT_COLUMNS}, is_seed) VALUES (NULL,?,?,?,?,?,?,?,?,?,?)",
            (
                card.card_id,
                kind,
                amount_minor,
                points,
                balance_after_minor,
                points_after,
                booked_at_s,
                reference,
                idempotency_key,
                is_seed,
            ),
        ).lastrowid
        assert number is not None
        account = f"card:{card.card_id}"
        for unit, amount in ((MONEY, amount_minor), (POINTS, points)):
            if amount:
                run(
                    "INSERT INTO posting VALUES (?,?,?,?), (?,?,?,?)",
                    (number, account, unit, amount, number, PROGRAMME, unit, -amount),
                )
        run(
            "UPDATE card SET balance_minor = ?, points = ? WHERE card_id = ?",
            (balance_after_minor, points_after, card.card_id),
        )
        return Effect(
            number,
            card.card_id,
            kind,
            amount_minor,
            points,
            balance_after_minor,
            points_after,
            booked_at_s,
            reference,
            idempotency_key,
        )

    def remember(self, outcome: Outcome) -> None:
        """Keep the answer under its key; an older one is there only when it was forgotten."""
        self._connection.execute(
            "INSERT OR REPLACE INTO outcome VALUES (?,?,?,?,?,?)",
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
            self._connection.execute(
                "INSERT INTO card VALUES (?,?,?,0,0)", (seed.card_id, seed.holder, seed.is_blocked)
            )
            for past in seed.history:
                self._seed_effect(seed.card_id, past)
            card = self.find_card(seed.card_id)
            assert card is not None
            assert (card.balance_minor, card.points) == (seed.balance_minor, seed.points), seed

    def clear(self) -> None:
        """Forget everything; the numbering starts again."""
        for table in ("posting", "item", "outcome", "fired_fault", "effect", "card"):
            self._connection.execute(f"DELETE FROM {table}")
        self.set_first_number()

    def set_first_number(self) -> None:
        self._connection.execute("DELETE FROM sqlite_sequence WHERE name = 'effect'")
        self._connection.execute(
            "INSERT INTO sqlite_sequence VALUES ('effect', ?)", (FIRST_EFFECT_NUMBER - 1,)
        )

    def _seed_effect(self, card_id: str, past: PastEffect) -> None:
        card = self.find_card(card_id)
        assert card is not None
        effect = self.post(
            card,
            past.kind,
            amount_minor=past.amount_minor,
            points=past.points,
            booked_at_s=past.booked_at_s,
            is_seed=True,
        )
        self._connection.executemany(
            "INSERT INTO item VALUES (?,?,?,?,?)",
            [
                (effect.number, line, item.description, item.quantity, item.unit_price_minor)
                for line, item in enumerate(past.items, start=1)
            ],
        )


def find_card(connection: sqlite3.Connection, card_id: str) -> Card | None:
    row = connection.execute(
        f"SELECT {CARD_COLUMNS} FROM card WHERE card_id = ?", (card_id,)
    ).fetchone()
    return card_of(row) if row else None


def card_of(row: tuple[str, str, int, int, int]) -> Card:
    card_id, holder, is_blocked, balance_minor, points = row
    return Card(card_id, holder, bool(is_blocked), balance_minor, points)
