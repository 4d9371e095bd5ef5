"""Order book, level 2: snapshots and deltas. One message is one row; its levels are lists."""

from k2_dagster.schemas.common import POSITION_FIELDS, identity_fields
from k2_dagster.schemas.declaration import Dataset, Field, FieldType, Rule

KINDS = ("book",)
ACTIONS = ("snapshot", "delta")

BOOK = Dataset(
    name="book",
    record="BookUpdate",
    doc="Order book, level 2: one row per snapshot or delta, a level of size 0 removes that price",
    kinds=KINDS,
    fields=(
        *identity_fields(KINDS),
        Field(
            100,
            "action",
            FieldType.STRING,
            "snapshot replaces the book, delta changes it",
            required=True,
            rule=Rule("action_known", allowed=ACTIONS),
        ),
        Field(101, "bids", FieldType.LEVELS, "Bid levels (price, size, orders), scale 8", required=True),
        Field(102, "asks", FieldType.LEVELS, "Ask levels (price, size, orders), scale 8", required=True),
        Field(103, "checksum", FieldType.LONG, "The venue's checksum of the book after this message"),
        *POSITION_FIELDS,
    ),
)
