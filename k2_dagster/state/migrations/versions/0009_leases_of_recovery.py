"""Leases of more than one kind of work: who ingests an exchange, and who recovers what it missed"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SCHEMA = "k2"


def upgrade() -> None:
    op.add_column("leases", sa.Column("work", sa.String, nullable=False, server_default="ingest"), schema=SCHEMA)
    op.drop_constraint("leases_pkey", "leases", schema=SCHEMA)
    op.create_primary_key("leases_pkey", "leases", ["exchange", "work"], schema=SCHEMA)


def downgrade() -> None:
    op.execute(f"DELETE FROM {SCHEMA}.leases WHERE work <> 'ingest'")
    op.drop_constraint("leases_pkey", "leases", schema=SCHEMA)
    op.create_primary_key("leases_pkey", "leases", ["exchange"], schema=SCHEMA)
    op.drop_column("leases", "work", schema=SCHEMA)
