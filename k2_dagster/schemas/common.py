"""The columns that every dataset has from its first day (adding one later would rewrite the tables)."""

from k2_dagster.schemas.declaration import MAX_SEQUENCE, Field, FieldType, Rule

# Timestamps outside these years are damage, not market data; bounds are UTC microseconds since 1970.
EARLIEST_MICROS = 315_532_800_000_000  # 1980-01-01
LATEST_MICROS = 4_102_444_800_000_000  # 2100-01-01
NAME_PATTERN = r"^[!-~]{1,64}$"
SEQUENCE_RULE = Rule("sequence_range", minimum=0, maximum=MAX_SEQUENCE)
TIME_RULE = Rule("time_range", minimum=EARLIEST_MICROS, maximum=LATEST_MICROS)
NANOS_RULE = Rule("nanos_range", minimum=0, maximum=999)
MICROS_PER_SECOND = 1_000_000
# Whose clock `exchange_timestamp` is from. A row must have a place in time, also where the venue gives none.
VENUE_CLOCK, RECEIVER_CLOCK = "venue", "receiver"
TIME_SOURCE_FIELD = "exchange_timestamp_source"


def identity_fields(kinds: tuple[str, ...]) -> tuple[Field, ...]:
    """Who said it, in which sequence, and when: ids 1 to 17."""
    text, long, int_, time = FieldType.STRING, FieldType.LONG, FieldType.INT, FieldType.TIMESTAMP
    name_rule = Rule("name_format", pattern=NAME_PATTERN)
    return (
        Field(1, "exchange", text, "Exchange, as in its profile", required=True, rule=name_rule),
        Field(
            2,
            "stream",
            text,
            "The venue's stream; its profile declares the sequence domain",
            required=True,
            rule=name_rule,
        ),
        Field(3, "kind", text, "What the message is", required=True, rule=Rule("kind_known", allowed=kinds)),
        Field(4, "symbol", text, "Symbol as the venue writes it", required=True, rule=name_rule),
        Field(5, "session", text, "Session of the venue's numbering; null where it never restarts", rule=name_rule),
        Field(6, "channel", text, "Channel that the sequence belongs to, in the channel domain", rule=name_rule),
        Field(7, "sequence", long, "The venue's sequence number; of a range, its last", rule=SEQUENCE_RULE),
        Field(
            8,
            "previous_sequence",
            long,
            "Number that the venue says came before; of a range, its first minus one",
            rule=Rule("sequence_range", minimum=-1, maximum=MAX_SEQUENCE),
        ),
        Field(9, "publisher_session", text, "Run of the publisher that stamped the next field", rule=name_rule),
        Field(
            10,
            "publisher_sequence",
            long,
            "Dense number from 1, per publisher session, dataset and symbol",
            rule=Rule("publisher_sequence_range", minimum=1, maximum=MAX_SEQUENCE),
        ),
        Field(
            11,
            "exchange_timestamp",
            time,
            "When it happened at the venue",
            "UTC microseconds",
            required=True,
            rule=TIME_RULE,
        ),
        Field(
            12, "exchange_timestamp_nanos", int_, "Nanoseconds beyond the microsecond", "nanoseconds", rule=NANOS_RULE
        ),
        Field(
            13,
            "receive_timestamp",
            time,
            "When the feed handler received it; its clock may run behind the venue's",
            "UTC microseconds",
            rule=TIME_RULE,
        ),
        Field(
            14, "receive_timestamp_nanos", int_, "Nanoseconds beyond the microsecond", "nanoseconds", rule=NANOS_RULE
        ),
        Field(
            15,
            "publish_timestamp",
            time,
            "When the feed handler handed it to Kafka",
            "UTC microseconds",
            rule=TIME_RULE,
        ),
        Field(16, "refers_to", text, "Identity of the message that this one corrects or cancels"),
        Field(
            17,
            TIME_SOURCE_FIELD,
            text,
            "Whose clock exchange_timestamp is from: venue, or receiver where the venue gives no time; null is venue",
            rule=Rule("time_source_known", allowed=(VENUE_CLOCK, RECEIVER_CLOCK)),
        ),
    )


POSITION_FIELDS: tuple[Field, ...] = (
    Field(
        30,
        "kafka_timestamp",
        FieldType.TIMESTAMP,
        "Kafka's record time",
        "UTC microseconds",
        required=True,
        source="ingest",
    ),
    Field(
        31,
        "ingest_timestamp",
        FieldType.TIMESTAMP,
        "When its batch was built",
        "UTC microseconds",
        required=True,
        source="ingest",
    ),
    Field(32, "origin", FieldType.STRING, "live, recovered, reprocessed or restated", required=True, source="ingest"),
    Field(
        33,
        "topic_epoch",
        FieldType.INT,
        "Which incarnation of the topic the offset belongs to",
        required=True,
        source="ingest",
    ),
    Field(34, "kafka_partition", FieldType.INT, "Partition of the message", required=True, source="ingest"),
    Field(35, "kafka_offset", FieldType.LONG, "Offset of the message", required=True, source="ingest"),
    Field(
        36, "schema_id", FieldType.INT, "Registry id of the schema it was written with", required=True, source="ingest"
    ),
    Field(37, "rules_version", FieldType.INT, "Version of the rules that judged it", required=True, source="ingest"),
)
ORIGINS = ("live", "recovered", "reprocessed", "restated")
ORIGIN_HEADER = "k2-origin"
# Of a message that came behind the order of its channel, as its feed handler saw it. Any value.
BEHIND_HEADER = "k2-behind"
# Of a message that comes back from quarantine, `epoch/partition/offset`: where it was refused the last time, and first.
REFUSED_AT_HEADER = "k2-refused-at"
REFUSED_FIRST_HEADER = "k2-refused-first"
