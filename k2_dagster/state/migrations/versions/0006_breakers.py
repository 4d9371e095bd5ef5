"""Breakers: partitions that are halted at a critical gap, and their acknowledgements"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA = "k2"


def upgrade() -> None:
    texts = ("numbering", "stream", "kind", "session", "symbol")
    numbers = ("first_sequence", "last_sequence", "missing")
    op.create_table(
        "breakers",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in ("exchange", "dataset")),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("topic_epoch", "kafka_partition")),
        sa.Column("kafka_offset", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in texts),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in numbers),
        sa.Column("event_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("commit_id", sa.String, nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True)),
        *(sa.Column(name, sa.String) for name in ("acknowledged_by", "acknowledged_reason")),
        sa.Column("through_offset", sa.BigInteger),
        sa.UniqueConstraint("exchange", "dataset", "topic_epoch", "kafka_partition", "kafka_offset"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    op.drop_table("breakers", schema=SCHEMA)
