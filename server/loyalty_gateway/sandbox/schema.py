"""The tables of a vendor's books; a change here is a new version, and old files are refused."""

SCHEMA_VERSION = 2

SCHEMA = """
CREATE TABLE card (
    card_id TEXT PRIMARY KEY, holder TEXT NOT NULL, is_blocked INTEGER NOT NULL,
    balance_minor INTEGER NOT NULL
        CHECK (typeof(balance_minor) = 'integer' AND balance_minor >= 0),
    points INTEGER NOT NULL CHECK (typeof(points) = 'integer' AND points >= 0),
    detail TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(detail))
);
CREATE TABLE effect (
    number INTEGER PRIMARY KEY, card_id TEXT NOT NULL REFERENCES card,
    kind TEXT NOT NULL,
    amount_minor INTEGER NOT NULL CHECK (typeof(amount_minor) = 'integer'),
    points INTEGER NOT NULL CHECK (typeof(points) = 'integer'),
    balance_after_minor INTEGER NOT NULL, points_after INTEGER NOT NULL,
    booked_at_ms INTEGER NOT NULL CHECK (typeof(booked_at_ms) = 'integer'),
    reference TEXT, idempotency_key TEXT,
    detail TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(detail)),
    reverses INTEGER REFERENCES effect, is_seed INTEGER NOT NULL
);
CREATE INDEX effect_by_card ON effect (card_id, number);
CREATE INDEX effect_by_key ON effect (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX effect_by_reversed ON effect (reverses) WHERE reverses IS NOT NULL;
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
    status INTEGER NOT NULL, body BLOB NOT NULL, content_type TEXT NOT NULL,
    stored_at_s INTEGER NOT NULL
);
CREATE TABLE fired_fault (idempotency_key TEXT PRIMARY KEY, fault TEXT NOT NULL);
CREATE TABLE thing (
    kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL CHECK (json_valid(value)),
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
"""
