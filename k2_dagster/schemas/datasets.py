"""Every dataset there is. Adding one is adding a module and a line here."""

from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.book import BOOK
from k2_dagster.schemas.control import CONTROL
from k2_dagster.schemas.declaration import Dataset
from k2_dagster.schemas.instruments import INSTRUMENTS
from k2_dagster.schemas.quarantine import QUARANTINE
from k2_dagster.schemas.quotes import QUOTES
from k2_dagster.schemas.recovery import RECOVERY
from k2_dagster.schemas.ticks import TICKS

# Datasets with a wire form: each has a topic per exchange that lists it.
WIRE_DATASETS: dict[str, Dataset] = {one.name: one for one in (TICKS, QUOTES, BOOK, CONTROL, INSTRUMENTS)}
# Everything that has topics and subjects: datasets, and the requests of recovery, which no table takes.
WIRE_FORMS: dict[str, Dataset] = {**WIRE_DATASETS, RECOVERY.name: RECOVERY}
TABLES: dict[str, Dataset] = {**WIRE_DATASETS, QUARANTINE.name: QUARANTINE}
NAMESPACE = "market_data"

# Part of every row's `rules_version`. Raise it when a rule, a verdict or a default changes meaning, or the form of the
# tracker's state: an older writer cannot go on from a newer state.
RULES_VERSION = 8


def dataset_named(name: str) -> Dataset:
    """Raises ConfigurationError that lists the valid names."""
    if name not in TABLES:
        raise ConfigurationError(
            f"dataset was {name!r}", advice=f"valid datasets: {', '.join(sorted(TABLES))}", dataset=name
        )
    return TABLES[name]


def table_name(dataset: str) -> str:
    """`ticks` -> `market_data.ticks`."""
    return f"{NAMESPACE}.{dataset}"
