"""What the feed handler saw that no market message says: channel gaps, sessions, connections, heartbeats."""

from k2_dagster.schemas.common import POSITION_FIELDS, SEQUENCE_RULE, identity_fields
from k2_dagster.schemas.declaration import Dataset, Field, FieldType, Rule

KINDS = ("gap", "session", "connection", "heartbeat")
# The symbol of a control message that concerns no single symbol.
NO_SYMBOL = "*"

CONTROL = Dataset(
    name="control",
    record="Control",
    doc="Feed-handler events: channel gaps, session changes, connections, heartbeats",
    kinds=KINDS,
    fields=(
        *identity_fields(KINDS),
        Field(100, "dataset", FieldType.STRING, "Dataset concerned; null for the whole feed"),
        Field(101, "first_sequence", FieldType.LONG, "First number missing, of a gap", rule=SEQUENCE_RULE),
        Field(102, "last_sequence", FieldType.LONG, "Last number missing, of a gap", rule=SEQUENCE_RULE),
        Field(
            103,
            "state",
            FieldType.STRING,
            "started, ended, connected, disconnected",
            rule=Rule("state_known", allowed=("started", "ended", "connected", "disconnected")),
        ),
        Field(104, "reason", FieldType.STRING, "Why, in words"),
        *POSITION_FIELDS,
    ),
)
