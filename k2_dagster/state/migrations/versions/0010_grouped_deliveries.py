"""Deliveries told together: what an incident is of, and with which others it was told"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SCHEMA = "k2"


def upgrade() -> None:
    op.add_column("incident_deliveries", sa.Column("kind", sa.String, nullable=False, server_default=""), schema=SCHEMA)
    op.add_column("incident_deliveries", sa.Column("told_with", sa.BigInteger), schema=SCHEMA)
    op.execute(f"""
        UPDATE {SCHEMA}.incident_deliveries SET kind = CASE
            WHEN key LIKE 'check/%%/%%/%%'
            THEN concat_ws('/', 'check', split_part(key, '/', 2), split_part(key, '/', 3))
            ELSE split_part(key, '/', 1) END
    """)
    op.create_index(
        "incident_deliveries_of_kind", "incident_deliveries", ["target", "kind", "delivered_at"], schema=SCHEMA
    )
    op.create_index(
        "incident_deliveries_together",
        "incident_deliveries",
        ["told_with"],
        schema=SCHEMA,
        postgresql_where=sa.text("told_with IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("incident_deliveries_together", "incident_deliveries", schema=SCHEMA)
    op.drop_index("incident_deliveries_of_kind", "incident_deliveries", schema=SCHEMA)
    op.drop_column("incident_deliveries", "told_with", schema=SCHEMA)
    op.drop_column("incident_deliveries", "kind", schema=SCHEMA)
