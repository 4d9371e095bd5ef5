"""Messages that are in no data table, with the bytes they came with and the reason.

A reason is one of `REASONS`. `duplicate` is not damage: its identity is in the table already.
"""

from k2_dagster.schemas.declaration import Dataset, Field, FieldType

REASONS: dict[str, str] = {
    "empty": "the message has no value",
    "refused_by_feed": "the feed handler could make no row of it; the value is the original input, headers tell more",
    "not_framed": "the value does not start with the Confluent header (a zero byte and a schema id)",
    "schema_unknown": "the registry does not know the schema id, and an operator has refused it",
    "schema_not_for_topic": "the schema id is registered, but not as a form of this dataset",
    "undecodable": "the bytes do not decode with the schema that they name",
    "trailing_bytes": "the bytes are longer or shorter than the record that they decode to",
    "missing_field": "a required field is null or not in the writer's schema",
    "not_exact": "a number does not fit the table's type exactly",
    "rule_violated": "a declared rule of a field does not hold; the detail names field, value and rule",
    "wrong_exchange": "the message names another exchange than its topic",
    "stream_unknown": "the exchange profile declares no such stream for this dataset",
    "outside_partitions": "the event day lies outside the days that the tables keep",
    "identity_horizon": "the session was closed longer ago than its numbers are remembered",
    "sequence_jump": "its number is so far beyond the last one that it is believed only when another confirms it",
    "duplicate": "the identity has landed before",
}

QUARANTINE = Dataset(
    name="quarantine",
    record="Quarantined",
    doc="Messages that no data table took, with their original bytes, position and reason",
    partition_time="kafka_timestamp",
    sort=("topic", "kafka_partition", "kafka_offset"),
    fields=(
        Field(1, "exchange", FieldType.STRING, "Exchange of the topic", required=True, source="ingest"),
        Field(2, "dataset", FieldType.STRING, "Dataset of the topic", required=True, source="ingest"),
        Field(3, "topic", FieldType.STRING, "Topic of the message", required=True, source="ingest"),
        Field(4, "symbol", FieldType.STRING, "Symbol, if the message told one", source="ingest"),
        Field(5, "reason", FieldType.STRING, "Reason code", required=True, source="ingest"),
        Field(6, "detail", FieldType.STRING, "Field, value and what would be valid", required=True, source="ingest"),
        Field(
            7,
            "first_offset",
            FieldType.LONG,
            "Of a duplicate: offset of the message that landed, if known",
            source="ingest",
        ),
        Field(8, "key", FieldType.BINARY, "Original key", source="ingest"),
        Field(9, "value", FieldType.BINARY, "Original value; null for a duplicate with equal bytes", source="ingest"),
        Field(10, "headers", FieldType.HEADERS, "Original headers", source="ingest"),
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
        Field(36, "schema_id", FieldType.INT, "Registry id that the message names, if it names one", source="ingest"),
        Field(
            37, "rules_version", FieldType.INT, "Version of the rules that judged it", required=True, source="ingest"
        ),
    ),
)
