"""Best bid and offer."""

from k2_dagster.schemas.common import POSITION_FIELDS, identity_fields
from k2_dagster.schemas.declaration import MAX_WIRE_LONG, Dataset, Field, FieldType, Rule

KINDS = ("quote",)
# A side that is empty is null, so a price that is there is positive; a size of zero is a venue's way to say "empty".
PRICE_RULE = Rule("price_positive", minimum=1, maximum=10**18 - 1)
SIZE_RULE = Rule("size_not_negative", minimum=0, maximum=MAX_WIRE_LONG)
COUNT_RULE = Rule("count_not_negative", minimum=0, maximum=2**31 - 1)

QUOTES = Dataset(
    name="quotes",
    record="Quote",
    doc="Best bid and offer: one row per update",
    kinds=KINDS,
    fields=(
        *identity_fields(KINDS),
        Field(
            100,
            "bid_price",
            FieldType.PRICE,
            "Best bid; null when there is none",
            "quote currency, scale 8",
            rule=PRICE_RULE,
        ),
        Field(
            101,
            "bid_size",
            FieldType.SIZE,
            "Quantity at the best bid",
            "base units, shares or contracts, scale 8",
            rule=SIZE_RULE,
        ),
        Field(
            102,
            "ask_price",
            FieldType.PRICE,
            "Best offer; null when there is none",
            "quote currency, scale 8",
            rule=PRICE_RULE,
        ),
        Field(
            103,
            "ask_size",
            FieldType.SIZE,
            "Quantity at the best offer",
            "base units, shares or contracts, scale 8",
            rule=SIZE_RULE,
        ),
        Field(104, "bid_count", FieldType.INT, "Orders at the best bid, where given", "orders", rule=COUNT_RULE),
        Field(105, "ask_count", FieldType.INT, "Orders at the best offer, where given", "orders", rule=COUNT_RULE),
        Field(106, "conditions", FieldType.STRINGS, "Quote conditions, as the venue codes them"),
        *POSITION_FIELDS,
    ),
)
