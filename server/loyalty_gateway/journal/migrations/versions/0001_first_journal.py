"""The first journal: bookings, their attempts and history, promises, the deployment's check.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempt",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("booking_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=False),
        sa.Column("end_time", sa.BigInteger(), nullable=True),
        sa.Column("fate", sa.String(length=12), nullable=False),
        sa.Column("proves", sa.String(length=14), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("provider_code", sa.String(length=64), nullable=False),
        sa.Column("rule", sa.String(length=80), nullable=False),
        sa.Column("request_text", sa.Text(), nullable=False, comment="redacted"),
        sa.Column("answer_text", sa.Text(), nullable=False, comment="redacted"),
        sa.PrimaryKeyConstraint("tenant", "booking_id", "number"),
    )
    op.create_table(
        "booking",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("booking_id", sa.String(length=36), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column(
            "operation", sa.String(length=64), nullable=False, comment="empty for a tombstone"
        ),
        sa.Column("connection", sa.String(length=40), nullable=False),
        sa.Column("provider", sa.String(length=40), nullable=False),
        sa.Column("account_hash", sa.LargeBinary(), nullable=False),
        sa.Column(
            "account_sealed",
            sa.LargeBinary(),
            nullable=True,
            comment="AES-GCM; destroyed after the retention",
        ),
        sa.Column("account_token", sa.Text(), nullable=False),
        sa.Column("masked_id", sa.String(length=64), nullable=False),
        sa.Column(
            "asked_kind", sa.String(length=6), nullable=False, comment="money, points or empty"
        ),
        sa.Column(
            "asked_unit",
            sa.String(length=40),
            nullable=False,
            comment="currency, or the points' unit",
        ),
        sa.Column("asked_value", sa.BigInteger(), nullable=True),
        sa.Column(
            "order_content", sa.Text(), nullable=False, comment="the rest of the order, as JSON"
        ),
        sa.Column(
            "outbound_id",
            sa.String(length=64),
            nullable=True,
            comment="our id on the vendor's wire",
        ),
        sa.Column("trace_parent", sa.String(length=64), nullable=False),
        sa.Column("original_booking", sa.String(length=48), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("intent", sa.String(length=8), nullable=False),
        sa.Column("target_hash", sa.LargeBinary(), nullable=False),
        sa.Column("recovery_mode", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(length=36), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("doubtful_attempts", sa.Integer(), nullable=False),
        sa.Column("attempt_open", sa.Boolean(), nullable=False),
        sa.Column("recovery_tries", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("provider_code", sa.String(length=64), nullable=False),
        sa.Column(
            "incident",
            sa.String(length=120),
            nullable=False,
            comment="what a doubt belongs to, or empty",
        ),
        sa.Column("applied_value", sa.BigInteger(), nullable=True),
        sa.Column(
            "result_content",
            sa.Text(),
            nullable=False,
            comment="references, balances, receipt: JSON",
        ),
        sa.Column("answer_bytes", sa.LargeBinary(), nullable=True),
        sa.Column("answer_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("status_bytes", sa.LargeBinary(), nullable=True),
        sa.Column("first_sent_time", sa.BigInteger(), nullable=True),
        sa.Column("sent_time", sa.BigInteger(), nullable=True),
        sa.Column("doubt_time", sa.BigInteger(), nullable=True),
        sa.Column("settle_time", sa.BigInteger(), nullable=True),
        sa.Column("next_attempt_time", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state <> 'SENDING' OR outbound_id IS NOT NULL", name="booking_sending_has_outbound_id"
        ),
        sa.CheckConstraint(
            "state <> 'SUCCEEDED' OR answer_bytes IS NOT NULL", name="booking_success_has_answer"
        ),
        sa.CheckConstraint(
            "state IN ('RESERVED', 'SENDING', 'IN_DOUBT', 'REVERSING', 'NEEDS_REVIEW',"
            " 'SUCCEEDED', 'DECLINED', 'NOT_EXECUTED', 'REVERSED')",
            name="booking_state_known",
        ),
        sa.CheckConstraint("doubtful_attempts >= 0", name="booking_doubtful_attempts_sane"),
        sa.PrimaryKeyConstraint("tenant", "booking_id"),
    )
    op.create_index(
        "booking_create_time", "booking", ["tenant", "create_time", "booking_id"], unique=False
    )
    op.create_index(
        "booking_due",
        "booking",
        ["tenant", "next_attempt_time"],
        unique=False,
        sqlite_where=sa.text("state IN ('SENDING', 'IN_DOUBT', 'REVERSING', 'RESERVED')"),
        postgresql_where=sa.text("state IN ('SENDING', 'IN_DOUBT', 'REVERSING', 'RESERVED')"),
    )
    op.create_index(
        "booking_outbound_id",
        "booking",
        ["tenant", "connection", "outbound_id"],
        unique=True,
        sqlite_where=sa.text("outbound_id IS NOT NULL"),
        postgresql_where=sa.text("outbound_id IS NOT NULL"),
    )
    op.create_index("booking_request_id", "booking", ["tenant", "request_id"], unique=True)
    op.create_index(
        "booking_settle_time",
        "booking",
        ["tenant", "settle_time", "booking_id"],
        unique=False,
        sqlite_where=sa.text("settle_time IS NOT NULL"),
        postgresql_where=sa.text("settle_time IS NOT NULL"),
    )
    op.create_index(
        "booking_tombstone",
        "booking",
        ["tenant", "create_time"],
        unique=False,
        sqlite_where=sa.text("operation = ''"),
        postgresql_where=sa.text("operation = ''"),
    )
    op.create_index(
        "booking_unresolved",
        "booking",
        ["tenant", "connection", "state"],
        unique=False,
        sqlite_where=sa.text("state IN ('SENDING', 'IN_DOUBT', 'REVERSING', 'NEEDS_REVIEW')"),
        postgresql_where=sa.text("state IN ('SENDING', 'IN_DOUBT', 'REVERSING', 'NEEDS_REVIEW')"),
    )
    op.create_table(
        "deployment",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "history",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("booking_id", sa.String(length=36), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="the epoch after the move"),
        sa.Column("from_state", sa.String(length=16), nullable=False),
        sa.Column("to_state", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "booking_id", "sequence"),
    )
    op.create_table(
        "promise",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("connection", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("target_hash", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.Boolean(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "connection", "name"),
    )
    op.create_table(
        "account_hold",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("connection", sa.String(length=40), nullable=False),
        sa.Column("account_hash", sa.LargeBinary(), nullable=False),
        sa.Column(
            "root_booking",
            sa.String(length=36),
            nullable=False,
            comment="the booking that holds it",
        ),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "connection", "account_hash", "root_booking"),
    )
    # A final state stays final (but for an undo of a success), and an open row is never deleted:
    # the database refuses what a bug in the engine might try.
    for statement in _TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)


_FINAL = "('SUCCEEDED', 'DECLINED', 'NOT_EXECUTED', 'REVERSED')"
_LEAVES_FINAL = (
    f"OLD.state IN {_FINAL} AND NEW.state <> OLD.state"
    " AND NOT (OLD.state = 'SUCCEEDED' AND NEW.state = 'REVERSING')"
)
_TRIGGERS = {
    "sqlite": (
        "CREATE TRIGGER booking_final_stays BEFORE UPDATE OF state ON booking"
        f" WHEN {_LEAVES_FINAL}"
        " BEGIN SELECT RAISE(ABORT, 'a final booking does not change its state'); END",
        "CREATE TRIGGER booking_open_stays BEFORE DELETE ON booking"
        f" WHEN OLD.state NOT IN {_FINAL}"
        " BEGIN SELECT RAISE(ABORT, 'an open booking is never deleted'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION booking_refused() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'check_violation'; END $$",
        "CREATE TRIGGER booking_final_stays BEFORE UPDATE OF state ON booking FOR EACH ROW"
        f" WHEN ({_LEAVES_FINAL}) EXECUTE FUNCTION"
        " booking_refused('a final booking does not change its state')",
        "CREATE TRIGGER booking_open_stays BEFORE DELETE ON booking FOR EACH ROW"
        f" WHEN (OLD.state NOT IN {_FINAL}) EXECUTE FUNCTION"
        " booking_refused('an open booking is never deleted')",
    ),
}
