"""What the feed handler saw that no market message says: gaps of channels and what came of them late, sessions,
connections, heartbeats."""

from k2_dagster.schemas.common import POSITION_FIELDS, SEQUENCE_RULE, TIME_RULE, identity_fields
from k2_dagster.schemas.declaration import Dataset, Field, FieldType, Rule

KINDS = ("gap", "session", "connection", "heartbeat", "late")
# The symbol of a control message that concerns no single symbol.
NO_SYMBOL = "*"

CONTROL = Dataset(
    name="control",
    record="Control",
    doc="Feed-handler events: channel gaps and what came late, session changes, connections, heartbeats",
    kinds=KINDS,
    fields=(
        *identity_fields(KINDS),
        Field(100, "dataset", FieldType.STRING, "Dataset concerned; null for the whole feed"),
        Field(
            101,
            "first_sequence",
            FieldType.LONG,
            "First number missing, of a gap; first that came, of late ones",
            rule=SEQUENCE_RULE,
        ),
        Field(
            102,
            "last_sequence",
            FieldType.LONG,
            "Last number missing, of a gap; last that came, of late ones",
            rule=SEQUENCE_RULE,
        ),
        Field(
            103,
            "state",
            FieldType.STRING,
            "started, ended, connected, disconnected",
            rule=Rule("state_known", allowed=("started", "ended", "connected", "disconnected")),
        ),
        Field(104, "reason", FieldType.STRING, "Why, in words"),
        Field(
            105,
            "before_timestamp",
            FieldType.TIMESTAMP,
            "When the message before a gap happened at the venue, where known",
            "UTC microseconds",
            rule=TIME_RULE,
        ),
        Field(
            106,
            "after_timestamp",
            FieldType.TIMESTAMP,
            "When the message that showed a gap happened at the venue, where known",
            "UTC microseconds",
            rule=TIME_RULE,
        ),
        *POSITION_FIELDS,
    ),
)
