"""Incidents: what is wrong, what was to be told of it, and to whom it has been delivered"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA = "k2"


def _text(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String, nullable=False) for name in names]


def _big(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _time(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.DateTime(timezone=True), nullable=nullable) for name in names]


def upgrade() -> None:
    op.create_table(
        "incidents",
        sa.Column("key", sa.String, primary_key=True),
        *_text("severity", "signal_severity", "title", "text", "what_to_do", "runbook", "run_id", "asset", "partition"),
        *_time("opened_at", "updated_at"),
        *_time("absent_since", "resolved_at", nullable=True),
        *_big("occurrences", "transitions"),
        schema=SCHEMA,
    )
    op.create_index(
        "incidents_open", "incidents", ["key"], schema=SCHEMA, postgresql_where=sa.text("resolved_at IS NULL")
    )
    op.create_table(
        "incident_transitions",
        *_text("key"),
        *_big("number"),
        *_text("transition", "severity", "title", "body"),
        *_time("at"),
        sa.PrimaryKeyConstraint("key", "number"),
        sa.ForeignKeyConstraint(["key"], [f"{SCHEMA}.incidents.key"], ondelete="CASCADE"),
        schema=SCHEMA,
    )
    _create_deliveries()


def _create_deliveries() -> None:
    op.create_table(
        "incident_deliveries",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        *_text("key"),
        *_big("number"),
        *_text("target"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        *_time("delivered_at", "given_up_at", nullable=True),
        sa.Column("error", sa.String, nullable=False, server_default=""),
        sa.UniqueConstraint("key", "number", "target"),
        sa.ForeignKeyConstraint(
            ["key", "number"],
            [f"{SCHEMA}.incident_transitions.key", f"{SCHEMA}.incident_transitions.number"],
            ondelete="CASCADE",
        ),
        schema=SCHEMA,
    )
    op.create_index(
        "incident_deliveries_waiting",
        "incident_deliveries",
        ["target", "id"],
        schema=SCHEMA,
        postgresql_where=sa.text("delivered_at IS NULL"),
    )


def downgrade() -> None:
    for name in ("incident_deliveries", "incident_transitions", "incidents"):
        op.drop_table(name, schema=SCHEMA)
