"""Running for long: states of streams, totals and cursors of commits, withdrawn refusals"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = "k2"


def _text(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String, nullable=False) for name in names]


def _big(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _time(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in names]


def upgrade() -> None:
    op.add_column("refused_schemas", sa.Column("withdrawn_at", sa.DateTime(timezone=True)), schema=SCHEMA)
    for name in ("withdrawn_by", "withdrawn_reason"):
        op.add_column("refused_schemas", sa.Column(name, sa.String), schema=SCHEMA)
    op.create_table(
        "stream_states",
        *_text("exchange", "dataset", "condition", "error", "message", "advice", "driver"),
        *_time("since", "seen_at"),
        sa.PrimaryKeyConstraint("exchange", "dataset"),
        schema=SCHEMA,
    )
    op.create_table(
        "totals",
        *_text("table_name", "exchange", "dataset"),
        *_big("commits", "consumed", "rows", "quarantined"),
        *_time("last_stamp"),
        sa.PrimaryKeyConstraint("table_name", "exchange", "dataset"),
        schema=SCHEMA,
    )
    op.create_table(
        "cursors",
        *_text("reader", "table_name"),
        *_big("position"),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("reader", "table_name"),
        schema=SCHEMA,
    )
    _fill_totals()


def _fill_totals() -> None:
    counts = ", ".join(
        f"coalesce(sum((counts ->> '{name}')::bigint), 0)" for name in ("consumed", "rows", "quarantined")
    )
    op.execute(
        f"insert into {SCHEMA}.totals select table_name, exchange, dataset, count(*), {counts}, max(stamp) "
        f"from {SCHEMA}.commits group by table_name, exchange, dataset"
    )


def downgrade() -> None:
    for name in ("cursors", "totals", "stream_states"):
        op.drop_table(name, schema=SCHEMA)
    for name in ("withdrawn_reason", "withdrawn_by", "withdrawn_at"):
        op.drop_column("refused_schemas", name, schema=SCHEMA)
