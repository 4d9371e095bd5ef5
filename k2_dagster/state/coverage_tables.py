"""The coverage ledger in the control schema, beside `gaps`.

gap_events  what was tried to get the numbers of a gap, and who goes on without them
coverage    what was received of sessions that are over: many intervals in a row (see intervals.py)
resets      sessions that began, with the one before
connections connections of feeds to their venue, made and lost
holds       intervals in which a partition was halted or symbols deferred
channel_fills numbers that came late, of gaps of channels
breakers    partitions that are not read on since a critical gap, and who let them go on
"""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    func,
    text,
)

from k2_dagster.state.tables import metadata

# `metadata` is given on: whoever takes it from here has every table in it.
__all__ = ["breakers", "channel_fills", "connections", "coverage", "gap_events", "holds", "metadata", "resets"]

_NOW = func.now()
_Time = DateTime(timezone=True)

gap_events = Table(
    "gap_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("gap_id", BigInteger, nullable=False),
    Column("event", String, nullable=False),
    Column("by", String, nullable=False),
    Column("note", String, nullable=False),
    Column("at", _Time, nullable=False, server_default=_NOW),
    # null of what belongs to no attempt
    Column("attempt", Integer),
    # the venue is not asked again before, where it said so
    Column("due", _Time),
    Index("gap_events_by_gap", "gap_id"),
    Index(
        "gap_events_of_attempts",
        "gap_id",
        "attempt",
        "event",
        unique=True,
        postgresql_where=text("attempt IS NOT NULL"),
    ),
)

channel_fills = Table(
    "channel_fills",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("gap_id", BigInteger, nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("topic_epoch", Integer, nullable=False),
    Column("kafka_partition", Integer, nullable=False),
    Column("kafka_offset", BigInteger, nullable=False),
    Column("commit_id", String, nullable=False),
    UniqueConstraint("gap_id", "first_sequence"),
)

coverage = Table(
    "coverage",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("dataset", String, nullable=False),
    Column("exchange", String, nullable=False),
    Column("numbering", String, nullable=False),
    Column("intervals", Integer, nullable=False),
    Column("from_time", _Time, nullable=False),
    Column("to_time", _Time, nullable=False),
    Column("frame", LargeBinary, nullable=False),
    Column("commit_id", String, nullable=False),
    Index("coverage_by_stream", "exchange", "dataset", "to_time"),
)

resets = Table(
    "resets",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("dataset", String, nullable=False),
    Column("exchange", String, nullable=False),
    Column("numbering", String, nullable=False),
    Column("stream", String, nullable=False),
    Column("channel", String, nullable=False),
    # null: the first that a feed handler named, no reset
    Column("previous_session", String),
    Column("session", String, nullable=False),
    Column("first_sequence", BigInteger),
    Column("topic_epoch", Integer, nullable=False),
    Column("kafka_partition", Integer, nullable=False),
    Column("kafka_offset", BigInteger, nullable=False),
    Column("at", _Time, nullable=False),
    Column("commit_id", String, nullable=False),
    UniqueConstraint("dataset", "exchange", "topic_epoch", "kafka_partition", "kafka_offset", "numbering"),
    Index("resets_by_stream", "exchange", "dataset", "numbering", "stream", "channel", "id"),
)

connections = Table(
    "connections",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("exchange", String, nullable=False),
    Column("stream", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("topic_epoch", Integer, nullable=False),
    Column("kafka_partition", Integer, nullable=False),
    Column("kafka_offset", BigInteger, nullable=False),
    Column("at", _Time, nullable=False),
    Column("commit_id", String, nullable=False),
    UniqueConstraint("exchange", "topic_epoch", "kafka_partition", "kafka_offset"),
)

holds = Table(
    "holds",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("exchange", String, nullable=False),
    Column("dataset", String, nullable=False),
    Column("topic_epoch", Integer, nullable=False),
    Column("kafka_partition", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("from_offset", BigInteger, nullable=False),
    Column("from_time", _Time, nullable=False),
    # of the first row behind it, and the venue's time of that row; null until one lands
    Column("to_offset", BigInteger),
    Column("to_time", _Time),
    Column("reason", String, nullable=False),
    Column("commit_id", String, nullable=False),
    Column("recorded_at", _Time, nullable=False, server_default=_NOW),
    UniqueConstraint("exchange", "dataset", "topic_epoch", "kafka_partition", "kind", "from_offset"),
)

breakers = Table(
    "breakers",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("exchange", String, nullable=False),
    Column("dataset", String, nullable=False),
    Column("topic_epoch", Integer, nullable=False),
    Column("kafka_partition", Integer, nullable=False),
    # of the message that showed the gap: the last one that was taken
    Column("kafka_offset", BigInteger, nullable=False),
    Column("numbering", String, nullable=False),
    Column("stream", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("session", String, nullable=False),
    Column("symbol", String, nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("missing", BigInteger, nullable=False),
    Column("event_time", _Time, nullable=False),
    Column("commit_id", String, nullable=False),
    Column("opened_at", _Time, nullable=False, server_default=_NOW),
    # null while the partition is halted
    Column("acknowledged_at", _Time),
    Column("acknowledged_by", String),
    Column("acknowledged_reason", String),
    Column("through_offset", BigInteger),
    UniqueConstraint("exchange", "dataset", "topic_epoch", "kafka_partition", "kafka_offset"),
)
