"""The levels of an order book, as every form has them: `LEVELS` is a list of these.

Their ids are places: Iceberg's id of one is that of its list times 100, plus the place.
"""

from k2_dagster.schemas.declaration import MAX_WIRE_LONG, Field, FieldType, Rule

LEVEL_FIELDS = (
    Field(
        1,
        "price",
        FieldType.PRICE,
        "Price of the level",
        "quote currency, scale 8",
        required=True,
        rule=Rule("level_price_positive", minimum=1, maximum=10**18 - 1),
    ),
    # A size of zero removes the level
    Field(
        2,
        "size",
        FieldType.SIZE,
        "Quantity at the level; 0 removes it",
        "base units, shares or contracts, scale 8",
        required=True,
        rule=Rule("level_size_not_negative", minimum=0, maximum=MAX_WIRE_LONG),
    ),
    Field(3, "orders", FieldType.INT, "Orders at the level, where given", "orders"),
)
