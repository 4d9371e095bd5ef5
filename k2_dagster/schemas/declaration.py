"""How a dataset is declared: fields with type, unit and rule, from which every schema form derives.

A *wire* field is written by a publisher; an *ingest* field is stamped by K2 when the message lands. Field ids are
Iceberg's and are for ever: a new field takes a new number, and no number is used twice.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

PRICE_SCALE = 8
SIZE_SCALE = 8
PRICE_PRECISION = 18
SIZE_PRECISION = 28
MAX_WIRE_LONG = 2**63 - 1
# Ids of the fields that a dataset adds to the common ones start here.
FIRST_OWN_ID = 100
# Sequences above this are refused as damage: no venue counts that far, and arithmetic on them cannot overflow.
MAX_SEQUENCE = 2**62


class FieldType(Enum):
    """Logical types. On the wire, prices and sizes are scaled longs and times are UTC microseconds."""

    STRING = "string"
    LONG = "long"
    INT = "int"
    TIMESTAMP = "timestamp"
    PRICE = "price"
    SIZE = "size"
    STRINGS = "strings"
    LEVELS = "levels"
    BINARY = "binary"
    HEADERS = "headers"


@dataclass(frozen=True, slots=True)
class Rule:
    """One check on one field of one row. Bounds are inclusive and in wire form (scaled longs, microseconds)."""

    name: str
    minimum: int | None = None
    maximum: int | None = None
    allowed: tuple[str, ...] | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """One column. `required` means never null in a table; a wire field that is not required may be null or missing."""

    id: int
    name: str
    type: FieldType
    doc: str
    unit: str = ""
    required: bool = False
    source: Literal["wire", "ingest"] = "wire"
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset: its table `market_data.{name}`, and its topics `market.{name}.{exchange}` if it has a wire form."""

    name: str
    record: str
    doc: str
    fields: tuple[Field, ...]
    kinds: tuple[str, ...] = ()
    partition_time: str = "exchange_timestamp"
    sort: tuple[str, ...] = ("symbol", "exchange_timestamp", "sequence")
    _index: dict[str, Field] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {one.name: one for one in self.fields})
        if len(self._index) != len(self.fields) or len({one.id for one in self.fields}) != len(self.fields):
            raise ValueError(f"dataset {self.name} declares a field name or id twice")

    @property
    def wire_fields(self) -> tuple[Field, ...]:
        """The fields that a publisher writes, in wire order."""
        return tuple(one for one in self.fields if one.source == "wire")

    @property
    def own_fields(self) -> tuple[Field, ...]:
        """The wire fields that make it this dataset and no other: all but the common ones."""
        return tuple(one for one in self.wire_fields if one.id >= FIRST_OWN_ID)

    @property
    def rules(self) -> tuple[tuple[Field, Rule], ...]:
        """Every declared rule with its field."""
        return tuple((one, one.rule) for one in self.fields if one.rule is not None)

    def __getitem__(self, name: str) -> Field:
        return self._index[name]

    def __contains__(self, name: str) -> bool:
        return name in self._index
