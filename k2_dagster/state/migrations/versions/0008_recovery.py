"""Recovery: attempts to get the numbers of a gap"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SCHEMA = "k2"


def upgrade() -> None:
    op.add_column("gap_events", sa.Column("attempt", sa.Integer), schema=SCHEMA)
    op.add_column("gap_events", sa.Column("due", sa.DateTime(timezone=True)), schema=SCHEMA)
    op.create_index(
        "gap_events_of_attempts",
        "gap_events",
        ["gap_id", "attempt", "event"],
        unique=True,
        postgresql_where=sa.text("attempt IS NOT NULL"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    op.drop_index("gap_events_of_attempts", "gap_events", schema=SCHEMA)
    op.drop_column("gap_events", "due", schema=SCHEMA)
    op.drop_column("gap_events", "attempt", schema=SCHEMA)
