"""A request to give past messages again: the wire form of `market.recovery.{exchange}`. It has no table."""

from k2_dagster.schemas.common import NAME_PATTERN, SEQUENCE_RULE, TIME_RULE
from k2_dagster.schemas.declaration import Dataset, Field, FieldType, Rule

RECOVERY_DATASET = "recovery"
# One partition: requests are served in the order in which they were made.
RECOVERY_PARTITIONS = 1

_NAME = Rule("name_format", pattern=NAME_PATTERN)

RECOVERY = Dataset(
    name=RECOVERY_DATASET,
    record="RecoveryRequest",
    doc="A request to give past messages again: numbers of a session that did not come",
    fields=(
        Field(1, "request_id", FieldType.STRING, "Gap and attempt: the same request again has the same", required=True),
        Field(2, "gap_id", FieldType.LONG, "The gap's row in market_data.gaps", required=True),
        Field(3, "attempt", FieldType.INT, "How often it was asked for, this time included, from 1", required=True),
        Field(4, "exchange", FieldType.STRING, "Exchange, as in its profile", required=True, rule=_NAME),
        Field(5, "dataset", FieldType.STRING, "Dataset of the gap; control of a channel's", required=True, rule=_NAME),
        Field(6, "stream", FieldType.STRING, "The venue's stream", required=True, rule=_NAME),
        Field(7, "kind", FieldType.STRING, "What the messages are; null of a channel's, which has any"),
        Field(8, "symbol", FieldType.STRING, "As the venue writes it; * of a channel", required=True, rule=_NAME),
        Field(9, "session", FieldType.STRING, "Session of the venue's numbering; null where it never restarts"),
        Field(10, "channel", FieldType.STRING, "Channel that the numbers belong to; null of a symbol's own"),
        Field(11, "first_sequence", FieldType.LONG, "First number missing", required=True, rule=SEQUENCE_RULE),
        Field(12, "last_sequence", FieldType.LONG, "Last number missing", required=True, rule=SEQUENCE_RULE),
        Field(
            13, "before_timestamp", FieldType.TIMESTAMP, "Of the message before, at the venue", "UTC microseconds",
            rule=TIME_RULE,
        ),
        Field(
            14, "after_timestamp", FieldType.TIMESTAMP, "Of the message behind, at the venue", "UTC microseconds",
            rule=TIME_RULE,
        ),
        Field(15, "level", FieldType.STRING, "warn, page or halt", required=True),
        Field(16, "requested_by", FieldType.STRING, "Who asks", required=True),
        Field(17, "reason", FieldType.STRING, "Why"),
    ),
)  # fmt: skip
