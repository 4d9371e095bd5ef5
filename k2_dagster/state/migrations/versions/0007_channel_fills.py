"""What has filled a channel's gap, range by range"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SCHEMA = "k2"


def upgrade() -> None:
    op.create_table(
        "channel_fills",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("gap_id", "first_sequence", "last_sequence")),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("topic_epoch", "kafka_partition")),
        sa.Column("kafka_offset", sa.BigInteger, nullable=False),
        sa.Column("commit_id", sa.String, nullable=False),
        sa.UniqueConstraint("gap_id", "first_sequence"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    op.drop_table("channel_fills", schema=SCHEMA)
