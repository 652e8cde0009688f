"""The journal's tables; every key and index begins with the tenant, every time is in
microseconds since 1970 UTC and every amount in minor units or whole points."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from loyalty_gateway.domain.booking import OUTCOMES, State
from loyalty_gateway.domain.operations import UNDO_OPERATIONS

REVISION = "0002"
"""The migration that a journal must stand at; the newest file in migrations/versions."""

metadata = MetaData()

_STATES = ", ".join(f"'{state}'" for state in State)
_OPEN_STATES = ", ".join(
    f"'{state}'" for state in (State.SENDING, State.IN_DOUBT, State.REVERSING, State.RESERVED)
)
IS_OPEN = f"state IN ({_OPEN_STATES})"
IS_UNRESOLVED = "state IN ('SENDING', 'IN_DOUBT', 'REVERSING', 'NEEDS_REVIEW')"
IS_TOMBSTONE = "operation = ''"
HAS_ORIGINAL = "original_booking <> ''"
"""The conditions of the partial indexes. A query must hold them to the letter, without bound
values: else SQLite cannot prove that the index has every row, and reads the whole tenant."""
UNDOES = "({})".format(", ".join(sorted(f"'{it.value}'" for it in UNDO_OPERATIONS)))
"""The operations that a hold on an account does not keep out."""
assert set(OUTCOMES) == set(State), "every state has an outcome"

booking = Table(
    "booking",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("booking_id", String(36), primary_key=True),
    Column("request_id", String(64), nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("operation", String(64), nullable=False, comment="empty for a tombstone"),
    Column("connection", String(40), nullable=False),
    Column("provider", String(40), nullable=False),
    Column("account_hash", LargeBinary, nullable=False),
    Column("account_sealed", LargeBinary, comment="AES-GCM; destroyed after the retention"),
    Column("private_sealed", LargeBinary, comment="AES-GCM; destroyed with account_sealed"),
    Column("account_token", Text, nullable=False),
    Column("masked_id", String(64), nullable=False),
    Column("asked_kind", String(6), nullable=False, comment="money, points or empty"),
    Column("asked_unit", String(40), nullable=False, comment="currency, or the points' unit"),
    Column("asked_value", BigInteger),
    Column("order_content", Text, nullable=False, comment="the rest of the order, as JSON"),
    Column("outbound_id", String(64), comment="our id on the vendor's wire"),
    Column("trace_parent", String(64), nullable=False),
    Column("original_booking", String(48), nullable=False),
    Column("create_time", BigInteger, nullable=False),
    # What follows changes; every change writes all of it and raises the epoch.
    Column("state", String(16), nullable=False),
    Column("intent", String(8), nullable=False),
    Column("target_hash", LargeBinary, nullable=False),
    Column("recovery_mode", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("owner", String(36), nullable=False),
    Column("lease_until", BigInteger),
    Column("attempt_count", Integer, nullable=False),
    Column("doubtful_attempts", Integer, nullable=False),
    Column("attempt_open", Boolean, nullable=False),
    Column("recovery_tries", Integer, nullable=False),
    Column("reason", String(40), nullable=False),
    Column("provider_code", String(64), nullable=False),
    Column("incident", String(120), nullable=False, comment="what a doubt belongs to, or empty"),
    Column("applied_value", BigInteger),
    Column("result_content", Text, nullable=False, comment="references, balances, receipt: JSON"),
    Column("answer_bytes", LargeBinary),
    Column("answer_sha256", LargeBinary),
    Column("answer_sealed", LargeBinary, comment="AES-GCM; the personal part of the answer"),
    Column("status_bytes", LargeBinary),
    Column("first_sent_time", BigInteger),
    Column("sent_time", BigInteger),
    Column("doubt_time", BigInteger),
    Column("settle_time", BigInteger),
    Column("next_attempt_time", BigInteger),
    CheckConstraint(f"state IN ({_STATES})", name="booking_state_known"),
    CheckConstraint(
        "state <> 'SUCCEEDED' OR answer_bytes IS NOT NULL", name="booking_success_has_answer"
    ),
    CheckConstraint(
        "state <> 'SENDING' OR outbound_id IS NOT NULL", name="booking_sending_has_outbound_id"
    ),
    CheckConstraint("doubtful_attempts >= 0", name="booking_doubtful_attempts_sane"),
)

Index("booking_request_id", booking.c.tenant, booking.c.request_id, unique=True)
Index(
    "booking_outbound_id",
    booking.c.tenant,
    booking.c.connection,
    booking.c.outbound_id,
    unique=True,
    sqlite_where=text("outbound_id IS NOT NULL"),
    postgresql_where=text("outbound_id IS NOT NULL"),
)
Index("booking_create_time", booking.c.tenant, booking.c.create_time, booking.c.booking_id)
Index(
    "booking_settle_time",
    booking.c.tenant,
    booking.c.settle_time,
    booking.c.booking_id,
    sqlite_where=text("settle_time IS NOT NULL"),
    postgresql_where=text("settle_time IS NOT NULL"),
)
Index(
    "booking_due",
    booking.c.tenant,
    booking.c.next_attempt_time,
    sqlite_where=text(IS_OPEN),
    postgresql_where=text(IS_OPEN),
)
Index(
    "booking_unresolved",
    booking.c.tenant,
    booking.c.connection,
    booking.c.state,
    sqlite_where=text(IS_UNRESOLVED),
    postgresql_where=text(IS_UNRESOLVED),
)
Index(
    "booking_original",
    booking.c.tenant,
    booking.c.original_booking,
    sqlite_where=text(HAS_ORIGINAL),
    postgresql_where=text(HAS_ORIGINAL),
)
Index(
    "booking_tombstone",
    booking.c.tenant,
    booking.c.create_time,
    sqlite_where=text(IS_TOMBSTONE),
    postgresql_where=text(IS_TOMBSTONE),
)

MUTABLE = tuple(
    column.name
    for column in booking.c
    if list(booking.c.keys()).index(column.name) >= list(booking.c.keys()).index("state")
)
"""The columns that a change rewrites."""

attempt = Table(
    "attempt",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("booking_id", String(36), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("end_time", BigInteger),
    Column("fate", String(12), nullable=False),
    Column("proves", String(14), nullable=False),
    Column("reason", String(40), nullable=False),
    Column("http_status", Integer),
    Column("provider_code", String(64), nullable=False),
    Column("rule", String(80), nullable=False),
    Column("request_text", Text, nullable=False, comment="redacted"),
    Column("answer_text", Text, nullable=False, comment="redacted"),
)

history = Table(
    "history",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("booking_id", String(36), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, comment="the epoch after the move"),
    Column("from_state", String(16), nullable=False),
    Column("to_state", String(16), nullable=False),
    Column("actor", String(80), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
)

account_hold = Table(
    "account_hold",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("connection", String(40), primary_key=True),
    Column("account_hash", LargeBinary, primary_key=True),
    Column("root_booking", String(36), primary_key=True, comment="the booking that holds it"),
    Column("create_time", BigInteger, nullable=False),
)

vendor_reference = Table(
    "vendor_reference",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("connection", String(40), primary_key=True),
    Column("kind", String(40), primary_key=True),
    Column("value", String(200), primary_key=True, comment="a hash where it is longer"),
    Column("booking_id", String(36), nullable=False, comment="the one booking it belongs to"),
)

challenge = Table(
    "challenge",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("request_id", String(64), primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("connection", String(40), nullable=False),
    Column("state", String(16), nullable=False),
    Column("answer_sealed", LargeBinary, comment="AES-GCM; what was answered"),
    Column("reason", String(40), nullable=False, comment="why it failed, or empty"),
    Column("create_time", BigInteger, nullable=False),
    Column("expire_time", BigInteger, nullable=False),
)

promise = Table(
    "promise",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("connection", String(40), primary_key=True),
    Column("name", String(40), primary_key=True),
    Column("target_hash", LargeBinary, nullable=False),
    Column("value", Boolean, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("evidence", Text, nullable=False),
)

deployment = Table(
    "deployment",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
