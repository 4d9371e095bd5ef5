"""The spine: topics, baselines, attempts, commits, gaps, losses, leases"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "k2"


def _time(name: str, *, default: bool = True, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        nullable=nullable,
        server_default=sa.func.now() if default else None,
    )


def _text(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String, nullable=nullable) for name in names]


def _big(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _json(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, postgresql.JSONB, nullable=False) for name in names]


def _position(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, sa.Identity(always=True), primary_key=True)


def upgrade() -> None:
    _upgrade_positions()
    _upgrade_commits()
    _upgrade_ledger()


def _upgrade_positions() -> None:
    op.create_table(
        "topics",
        sa.Column("topic_id", sa.String, primary_key=True),
        *_text("topic"),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("partitions", sa.Integer, nullable=False),
        _time("first_seen"),
        sa.UniqueConstraint("topic", "epoch"),
        schema=SCHEMA,
    )
    op.create_table(
        "baselines",
        *_text("table_name", "topic_id"),
        sa.Column("partition", sa.Integer, nullable=False),
        *_big("first_offset"),
        *_text("reason"),
        _time("recorded_at"),
        sa.PrimaryKeyConstraint("table_name", "topic_id", "partition"),
        schema=SCHEMA,
    )
    op.create_table(
        "losses",
        _position("id"),
        *_text("table_name", "topic", "topic_id"),
        sa.Column("partition", sa.Integer, nullable=False),
        *_big("first_offset", "next_offset"),
        *_text("cause", "accepted_by", "reason"),
        _time("accepted_at"),
        schema=SCHEMA,
    )
    op.create_table(
        "refused_schemas",
        sa.Column("schema_id", sa.BigInteger, primary_key=True, autoincrement=False),
        *_text("accepted_by", "reason"),
        _time("accepted_at"),
        schema=SCHEMA,
    )
    op.create_table(
        "leases",
        sa.Column("exchange", sa.String, primary_key=True),
        *_text("holder"),
        _time("acquired_at", default=False),
        _time("heartbeat_at", default=False),
        schema=SCHEMA,
    )


def _upgrade_commits() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.String, primary_key=True),
        *_text("table_name", "exchange", "dataset"),
        _time("created_at"),
        *_text("previous_id", nullable=True),
        *_json("ranges", "counts", "days", "schema_ids", "ledger"),
        sa.Column("state", sa.LargeBinary),
        sa.Column("rules_version", sa.Integer, nullable=False),
        *_text("run_id", "code_version"),
        sa.Index("attempts_by_stream", "table_name", "exchange", "dataset", "created_at"),
        schema=SCHEMA,
    )
    op.create_table(
        "commits",
        _position("position"),
        sa.Column("id", sa.String, nullable=False, unique=True),
        *_text("table_name", "exchange", "dataset"),
        *_big("snapshot_id"),
        _time("stamp", default=False),
        *_json("ranges", "counts", "days", "schema_ids"),
        sa.Column("rules_version", sa.Integer, nullable=False),
        *_text("run_id", "code_version"),
        sa.Column("commit_seconds", sa.Float),
        _time("settled_at"),
        sa.Index("commits_by_stream", "table_name", "exchange", "dataset", "position"),
        sa.Index("commits_by_stamp", "table_name", "stamp"),
        schema=SCHEMA,
    )


def _upgrade_ledger() -> None:
    op.create_table(
        "gaps",
        _position("id"),
        *_text("dataset", "exchange", "stream", "kind", "session", "symbol", "numbering"),
        *_big("first_sequence", "last_sequence", "missing"),
        sa.Column("filled", sa.BigInteger, nullable=False, server_default="0"),
        *_text("level", "cause", "state"),
        sa.Column("topic_epoch", sa.Integer, nullable=False),
        sa.Column("kafka_partition", sa.Integer, nullable=False),
        *_big("opened_offset", "reported_offset"),
        *_text("event_day", "commit_id"),
        _time("changed_at"),
        sa.UniqueConstraint(
            "dataset",
            "exchange",
            "topic_epoch",
            "kafka_partition",
            "numbering",
            "opened_offset",
            "first_sequence",
        ),
        sa.Index("gaps_by_day", "dataset", "exchange", "event_day"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    for name in ("gaps", "commits", "attempts", "leases", "refused_schemas", "losses", "baselines", "topics"):
        op.drop_table(name, schema=SCHEMA)
