"""The control schema `k2` in PostgreSQL.

    topics      every incarnation of every topic, with the small epoch that rows carry
    baselines   where a partition's history begins in the tables, and why
    attempts    what a commit was about to say: written before it, immutable, true once the table's head names it
    commits     attempts that landed, in lineage order; everything downstream reads this
    gaps        numbers that did not come within their grace, and how each ended
    losses      ranges that Kafka lost before they landed, accepted by a person
    refused_schemas  schema ids that the registry does not know and an operator has refused
    leases      who drives an exchange as a process, or recovers what it missed
    stream_states    streams that cannot go on: what they met, since when
    totals      sums over `commits` of each stream, kept as commits are settled
    cursors     how far readers of `commits` have come, by table
    incidents   what is or was wrong, a row per key: the outbox of `k2 watch`
    incident_transitions  what was to be told of an incident, in order, as it was written
    incident_deliveries   to whom each of these has been, or is still to be, delivered

The rest of the coverage ledger is in `coverage_tables.py`.

`attempts.state` is the sequence tracker after the batch. Of a stream's landed attempts only the newest is kept.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Float,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA = "k2"
metadata = MetaData(schema=SCHEMA)

_NOW = func.now()
_Time = DateTime(timezone=True)

topics = Table(
    "topics",
    metadata,
    Column("topic_id", String, primary_key=True),
    Column("topic", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("partitions", Integer, nullable=False),
    Column("first_seen", _Time, nullable=False, server_default=_NOW),
    UniqueConstraint("topic", "epoch"),
)

baselines = Table(
    "baselines",
    metadata,
    Column("table_name", String, nullable=False),
    Column("topic_id", String, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("reason", String, nullable=False),
    Column("recorded_at", _Time, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("table_name", "topic_id", "partition"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", String, primary_key=True),
    Column("table_name", String, nullable=False),
    Column("exchange", String, nullable=False),
    Column("dataset", String, nullable=False),
    Column("created_at", _Time, nullable=False, server_default=_NOW),
    Column("previous_id", String),
    Column("ranges", JSONB, nullable=False),
    Column("counts", JSONB, nullable=False),
    Column("days", JSONB, nullable=False),
    Column("schema_ids", JSONB, nullable=False),
    Column("ledger", JSONB, nullable=False),
    Column("state", LargeBinary),
    Column("rules_version", Integer, nullable=False),
    Column("run_id", String, nullable=False),
    Column("code_version", String, nullable=False),
    Index("attempts_by_stream", "table_name", "exchange", "dataset", "created_at"),
)

commits = Table(
    "commits",
    metadata,
    Column("position", BigInteger, Identity(always=True), primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("table_name", String, nullable=False),
    Column("exchange", String, nullable=False),
    Column("dataset", String, nullable=False),
    Column("snapshot_id", BigInteger, nullable=False),
    Column("stamp", _Time, nullable=False),
    Column("ranges", JSONB, nullable=False),
    Column("counts", JSONB, nullable=False),
    Column("days", JSONB, nullable=False),
    Column("schema_ids", JSONB, nullable=False),
    Column("rules_version", Integer, nullable=False),
    Column("run_id", String, nullable=False),
    Column("code_version", String, nullable=False),
    Column("commit_seconds", Float),
    Column("settled_at", _Time, nullable=False, server_default=_NOW),
    Index("commits_by_stream", "table_name", "exchange", "dataset", "position"),
    Index("commits_by_stamp", "table_name", "stamp"),
)

gaps = Table(
    "gaps",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("dataset", String, nullable=False),
    Column("exchange", String, nullable=False),
    Column("stream", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("session", String, nullable=False),
    Column("symbol", String, nullable=False),
    Column("numbering", String, nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("missing", BigInteger, nullable=False),
    Column("filled", BigInteger, nullable=False, server_default="0"),
    Column("quarantined", BigInteger, nullable=False, server_default="0"),
    Column("level", String, nullable=False),
    Column("cause", String, nullable=False),
    Column("state", String, nullable=False),
    Column("topic_epoch", Integer, nullable=False),
    Column("kafka_partition", Integer, nullable=False),
    Column("opened_offset", BigInteger, nullable=False),
    Column("reported_offset", BigInteger, nullable=False),
    Column("event_day", String, nullable=False),
    # venue's times around the hole, and Kafka's of the message that reported it; null where not known
    Column("channel", String, nullable=False, server_default=""),
    Column("from_time", _Time),
    Column("to_time", _Time),
    Column("seen_at", _Time),
    Column("commit_id", String, nullable=False),
    Column("changed_at", _Time, nullable=False, server_default=_NOW),
    UniqueConstraint(
        "dataset", "exchange", "topic_epoch", "kafka_partition", "numbering", "opened_offset", "first_sequence"
    ),
    Index("gaps_by_day", "dataset", "exchange", "event_day"),
)

losses = Table(
    "losses",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("table_name", String, nullable=False),
    Column("topic", String, nullable=False),
    Column("topic_id", String, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("cause", String, nullable=False),
    Column("accepted_by", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("accepted_at", _Time, nullable=False, server_default=_NOW),
    # the commit that went behind it; null until then
    Column("applied_by", String),
    Index("losses_pending", "table_name", postgresql_where=text("applied_by IS NULL")),
)

refused_schemas = Table(
    "refused_schemas",
    metadata,
    Column("schema_id", BigInteger, primary_key=True, autoincrement=False),
    Column("accepted_by", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("accepted_at", _Time, nullable=False, server_default=_NOW),
    Column("withdrawn_at", _Time),
    Column("withdrawn_by", String),
    Column("withdrawn_reason", String),
)

leases = Table(
    "leases",
    metadata,
    Column("exchange", String, nullable=False),
    # `ingest` or `recovery`: see leases.py
    Column("work", String, nullable=False, server_default="ingest"),
    Column("holder", String, nullable=False),
    Column("acquired_at", _Time, nullable=False),
    Column("heartbeat_at", _Time, nullable=False),
    PrimaryKeyConstraint("exchange", "work"),
)

stream_states = Table(
    "stream_states",
    metadata,
    Column("exchange", String, nullable=False),
    Column("dataset", String, nullable=False),
    Column("condition", String, nullable=False),
    Column("error", String, nullable=False),
    Column("message", String, nullable=False),
    Column("advice", String, nullable=False),
    Column("driver", String, nullable=False),
    Column("since", _Time, nullable=False),
    Column("seen_at", _Time, nullable=False),
    PrimaryKeyConstraint("exchange", "dataset"),
)

totals = Table(
    "totals",
    metadata,
    Column("table_name", String, nullable=False),
    Column("exchange", String, nullable=False),
    Column("dataset", String, nullable=False),
    Column("commits", BigInteger, nullable=False),
    Column("consumed", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("quarantined", BigInteger, nullable=False),
    Column("last_stamp", _Time, nullable=False),
    PrimaryKeyConstraint("table_name", "exchange", "dataset"),
)

cursors = Table(
    "cursors",
    metadata,
    Column("reader", String, nullable=False),
    Column("table_name", String, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("moved_at", _Time, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("reader", "table_name"),
)

incidents = Table(
    "incidents",
    metadata,
    Column("key", String, primary_key=True),
    # the worst since it opened
    Column("severity", String, nullable=False),
    # the newest signal
    *(
        Column(name, String, nullable=False)
        for name in ("signal_severity", "title", "text", "what_to_do", "runbook", "run_id", "asset", "partition")
    ),
    Column("opened_at", _Time, nullable=False),
    Column("updated_at", _Time, nullable=False),
    Column("absent_since", _Time),
    Column("resolved_at", _Time),
    Column("occurrences", BigInteger, nullable=False),
    Column("transitions", BigInteger, nullable=False),
    Index("incidents_open", "key", postgresql_where=text("resolved_at IS NULL")),
)

incident_transitions = Table(
    "incident_transitions",
    metadata,
    Column("key", String, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("transition", String, nullable=False),
    Column("severity", String, nullable=False),
    Column("title", String, nullable=False),
    Column("body", String, nullable=False),
    Column("at", _Time, nullable=False),
    PrimaryKeyConstraint("key", "number"),
    ForeignKeyConstraint(["key"], [f"{SCHEMA}.incidents.key"], ondelete="CASCADE"),
)

incident_deliveries = Table(
    "incident_deliveries",
    metadata,
    # in this order to its target
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("key", String, nullable=False),
    Column("number", BigInteger, nullable=False),
    # a name that says nothing secret of the address
    Column("target", String, nullable=False),
    # what it is of, and the first delivery of the group that it is told with: see alerts/grouping.py
    Column("kind", String, nullable=False, server_default=""),
    Column("told_with", BigInteger),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", _Time, nullable=False, server_default=_NOW),
    Column("delivered_at", _Time),
    Column("given_up_at", _Time),
    Column("error", String, nullable=False, server_default=""),
    UniqueConstraint("key", "number", "target"),
    ForeignKeyConstraint(
        ["key", "number"],
        [f"{SCHEMA}.incident_transitions.key", f"{SCHEMA}.incident_transitions.number"],
        ondelete="CASCADE",
    ),
    Index("incident_deliveries_waiting", "target", "id", postgresql_where=text("delivered_at IS NULL")),
    Index("incident_deliveries_of_kind", "target", "kind", "delivered_at"),
    Index("incident_deliveries_together", "told_with", postgresql_where=text("told_with IS NOT NULL")),
)
