"""How much of a gap turned out to be in quarantine; which losses have been gone behind"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "k2"


def upgrade() -> None:
    op.add_column("gaps", sa.Column("quarantined", sa.BigInteger, nullable=False, server_default="0"), schema=SCHEMA)
    op.add_column("losses", sa.Column("applied_by", sa.String), schema=SCHEMA)
    op.create_index(
        "losses_pending", "losses", ["table_name"], schema=SCHEMA, postgresql_where=sa.text("applied_by IS NULL")
    )


def downgrade() -> None:
    op.drop_index("losses_pending", "losses", schema=SCHEMA)
    op.drop_column("losses", "applied_by", schema=SCHEMA)
    op.drop_column("gaps", "quarantined", schema=SCHEMA)
