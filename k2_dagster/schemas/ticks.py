"""Trade prints."""

from k2_dagster.schemas.common import POSITION_FIELDS, identity_fields
from k2_dagster.schemas.declaration import MAX_WIRE_LONG, Dataset, Field, FieldType, Rule

KINDS = ("trade", "correction", "bust")
SIDES = ("buy", "sell", "unknown")

TICKS = Dataset(
    name="ticks",
    record="Tick",
    doc="Trade prints: one row per print, correction or bust",
    kinds=KINDS,
    fields=(
        *identity_fields(KINDS),
        Field(100, "trade_id", FieldType.STRING, "The venue's trade id, where it is not the sequence"),
        Field(
            101,
            "price",
            FieldType.PRICE,
            "Price of one unit",
            "quote currency, scale 8",
            required=True,
            rule=Rule("price_positive", minimum=1, maximum=10**18 - 1),
        ),
        Field(
            102,
            "size",
            FieldType.SIZE,
            "Quantity traded",
            "base units, shares or contracts, scale 8",
            required=True,
            rule=Rule("size_positive", minimum=1, maximum=MAX_WIRE_LONG),
        ),
        Field(103, "side", FieldType.STRING, "Aggressor", required=True, rule=Rule("side_known", allowed=SIDES)),
        Field(104, "conditions", FieldType.STRINGS, "Sale conditions, as the venue codes them"),
        *POSITION_FIELDS,
    ),
)
