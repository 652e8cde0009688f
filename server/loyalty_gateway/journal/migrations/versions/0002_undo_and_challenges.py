"""Personal parts of orders and answers, undo, vendors' references, and challenges.

New columns may be absent, so replicas of the version before go on writing beside this one. The
index has no row to hold yet, but its making reads the whole table once and keeps writers waiting
meanwhile.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "booking",
        sa.Column(
            "private_sealed",
            sa.LargeBinary(),
            nullable=True,
            comment="AES-GCM; destroyed with account_sealed",
        ),
    )
    op.add_column(
        "booking",
        sa.Column(
            "answer_sealed",
            sa.LargeBinary(),
            nullable=True,
            comment="AES-GCM; the personal part of the answer",
        ),
    )
    op.create_index(
        "booking_original",
        "booking",
        ["tenant", "original_booking"],
        unique=False,
        sqlite_where=sa.text("original_booking <> ''"),
        postgresql_where=sa.text("original_booking <> ''"),
    )
    op.create_table(
        "vendor_reference",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("connection", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column(
            "value", sa.String(length=200), nullable=False, comment="a hash where it is longer"
        ),
        sa.Column(
            "booking_id",
            sa.String(length=36),
            nullable=False,
            comment="the one booking it belongs to",
        ),
        sa.PrimaryKeyConstraint("tenant", "connection", "kind", "value"),
    )
    op.create_table(
        "challenge",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("connection", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column(
            "answer_sealed",
            sa.LargeBinary(),
            nullable=True,
            comment="AES-GCM; what was answered",
        ),
        sa.Column(
            "reason", sa.String(length=40), nullable=False, comment="why it failed, or empty"
        ),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("expire_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "request_id"),
    )
    for statement in _TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)


# A success leaves its state for an undo, and where another booking turned out to have the same
# reference at the vendor: then a person must find out which of the two happened.
_LEAVES_FINAL = (
    "OLD.state IN ('SUCCEEDED', 'DECLINED', 'NOT_EXECUTED', 'REVERSED') AND NEW.state <> OLD.state"
    " AND NOT (OLD.state = 'SUCCEEDED' AND NEW.state IN ('REVERSING', 'NEEDS_REVIEW'))"
)
_TRIGGERS = {
    "sqlite": (
        "DROP TRIGGER booking_final_stays",
        "CREATE TRIGGER booking_final_stays BEFORE UPDATE OF state ON booking"
        f" WHEN {_LEAVES_FINAL}"
        " BEGIN SELECT RAISE(ABORT, 'a final booking does not change its state'); END",
    ),
    "postgresql": (
        "CREATE OR REPLACE TRIGGER booking_final_stays BEFORE UPDATE OF state ON booking"
        f" FOR EACH ROW WHEN ({_LEAVES_FINAL}) EXECUTE FUNCTION"
        " booking_refused('a final booking does not change its state')",
    ),
}
