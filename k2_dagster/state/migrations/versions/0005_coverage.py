"""Coverage: what was received, how gaps end, sessions, connections and holds"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SCHEMA = "k2"
TABLES = ("gap_events", "coverage", "resets", "connections", "holds")


def _id() -> sa.Column[Any]:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


def _text(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String, nullable=False) for name in names]


def _time(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.DateTime(timezone=True), nullable=nullable) for name in names]


def _now(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


def _position(offset: str = "kafka_offset") -> list[sa.Column[Any]]:
    return [
        sa.Column("topic_epoch", sa.Integer, nullable=False),
        sa.Column("kafka_partition", sa.Integer, nullable=False),
        sa.Column(offset, sa.BigInteger, nullable=False),
    ]


def upgrade() -> None:
    op.add_column("gaps", sa.Column("channel", sa.String, nullable=False, server_default=""), schema=SCHEMA)
    for column in _time("from_time", "to_time", "seen_at", nullable=True):
        op.add_column("gaps", column, schema=SCHEMA)
    op.create_table(
        "gap_events",
        _id(),
        sa.Column("gap_id", sa.BigInteger, nullable=False),
        *_text("event", "by", "note"),
        _now("at"),
        schema=SCHEMA,
    )
    op.create_index("gap_events_by_gap", "gap_events", ["gap_id"], schema=SCHEMA)
    op.create_table(
        "coverage",
        _id(),
        *_text("dataset", "exchange", "numbering"),
        sa.Column("intervals", sa.Integer, nullable=False),
        *_time("from_time", "to_time"),
        sa.Column("frame", sa.LargeBinary, nullable=False),
        *_text("commit_id"),
        schema=SCHEMA,
    )
    op.create_index("coverage_by_stream", "coverage", ["exchange", "dataset", "to_time"], schema=SCHEMA)
    _create_feed_events()
    _create_holds()


def _create_feed_events() -> None:
    op.create_table(
        "resets",
        _id(),
        *_text("dataset", "exchange", "numbering", "stream", "channel"),
        sa.Column("previous_session", sa.String),
        *_text("session"),
        sa.Column("first_sequence", sa.BigInteger),
        *_position(),
        *_time("at"),
        *_text("commit_id"),
        sa.UniqueConstraint("dataset", "exchange", "topic_epoch", "kafka_partition", "kafka_offset", "numbering"),
        schema=SCHEMA,
    )
    by_stream = ["exchange", "dataset", "numbering", "stream", "channel", "id"]
    op.create_index("resets_by_stream", "resets", by_stream, schema=SCHEMA)
    op.create_table(
        "connections",
        _id(),
        *_text("exchange", "stream", "state", "reason"),
        *_position(),
        *_time("at"),
        *_text("commit_id"),
        sa.UniqueConstraint("exchange", "topic_epoch", "kafka_partition", "kafka_offset"),
        schema=SCHEMA,
    )


def _create_holds() -> None:
    op.create_table(
        "holds",
        _id(),
        *_text("exchange", "dataset"),
        *_position("from_offset"),
        *_text("kind"),
        *_time("from_time"),
        sa.Column("to_offset", sa.BigInteger),
        *_time("to_time", nullable=True),
        *_text("reason", "commit_id"),
        _now("recorded_at"),
        sa.UniqueConstraint("exchange", "dataset", "topic_epoch", "kafka_partition", "kind", "from_offset"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    for name in TABLES:
        op.drop_table(name, schema=SCHEMA)
    for name in ("seen_at", "to_time", "from_time", "channel"):
        op.drop_column("gaps", name, schema=SCHEMA)
