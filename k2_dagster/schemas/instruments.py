"""Definitions of instruments: what a symbol is, as its venue says it. What a venue does not say is null."""

from k2_dagster.schemas.common import POSITION_FIELDS, TIME_RULE, identity_fields
from k2_dagster.schemas.declaration import MAX_WIRE_LONG, Dataset, Field, FieldType, Rule

# `withdrawal`: the venue does not list the symbol any more. It repeats what was last said of it.
KINDS = ("definition", "withdrawal")
# Every exchange has this stream, declared or not. It has no numbers, so the publisher pair is its rows' identity.
STREAM = "instruments"
ASSET_CLASSES = ("equities", "futures", "options", "crypto", "fx")
TYPES = ("spot", "perpetual", "future", "option", "equity", "fund")
# `pending` is not traded yet, `halted` not now, `closed` never again.
STATUSES = ("trading", "halted", "pending", "closed")
CANONICAL_RULE = Rule("canonical_format", pattern=r"^[A-Z0-9.-]{1,64}$")
CURRENCY_RULE = Rule("currency_format", pattern=r"^[!-~]{1,32}$")

INSTRUMENTS = Dataset(
    name="instruments",
    record="Instrument",
    doc="Definitions of instruments: one row each time that a feed is told one, or that one changed",
    kinds=KINDS,
    fields=(
        *identity_fields(KINDS),
        Field(
            100,
            "canonical_symbol",
            FieldType.STRING,
            "One name for the same thing at every venue; null where the symbol's rule cannot tell",
            rule=CANONICAL_RULE,
        ),
        Field(
            101,
            "asset_class",
            FieldType.STRING,
            "What is traded in the end",
            rule=Rule("asset_class_known", allowed=ASSET_CLASSES),
        ),
        Field(
            102,
            "instrument_type",
            FieldType.STRING,
            "How it is traded",
            rule=Rule("instrument_type_known", allowed=TYPES),
        ),
        Field(103, "base_currency", FieldType.STRING, "Asset that is bought, venue's name", rule=CURRENCY_RULE),
        Field(104, "quote_currency", FieldType.STRING, "Currency of its price, venue's name", rule=CURRENCY_RULE),
        Field(105, "settlement_currency", FieldType.STRING, "What a derivative settles in", rule=CURRENCY_RULE),
        Field(
            106,
            "tick_size",
            FieldType.PRICE,
            "Step of prices",
            "quote currency, scale 8",
            rule=Rule("tick_positive", minimum=1, maximum=10**18 - 1),
        ),
        Field(
            107,
            "lot_size",
            FieldType.SIZE,
            "Step of quantities; of equities, the round lot",
            "base units, shares or contracts, scale 8",
            rule=Rule("lot_positive", minimum=1, maximum=MAX_WIRE_LONG),
        ),
        Field(
            108,
            "contract_multiplier",
            FieldType.SIZE,
            "What one contract is worth",
            "contract_unit, scale 8",
            rule=Rule("multiplier_positive", minimum=1, maximum=MAX_WIRE_LONG),
        ),
        Field(109, "contract_unit", FieldType.STRING, "What contract_multiplier counts", rule=CURRENCY_RULE),
        Field(110, "expiry", FieldType.TIMESTAMP, "When a dated one expires", "UTC microseconds", rule=TIME_RULE),
        Field(111, "valid_from", FieldType.TIMESTAMP, "Traded from", "UTC microseconds", rule=TIME_RULE),
        Field(112, "valid_to", FieldType.TIMESTAMP, "Traded until", "UTC microseconds", rule=TIME_RULE),
        Field(113, "status", FieldType.STRING, "Whether it trades", rule=Rule("status_known", allowed=STATUSES)),
        Field(114, "venue_status", FieldType.STRING, "The same in the venue's word"),
        *POSITION_FIELDS,
    ),
)
