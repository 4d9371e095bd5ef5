"""The independent proof that topics and tables agree (DESIGN, promise 1)."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime

from pyiceberg.catalog import Catalog

from k2_dagster.errors import ConfigurationError
from k2_dagster.kafka.registry import Registry
from k2_dagster.kafka.topics import all_watermarks, describe
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.schemas.topics import parse_topic, topic_name
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import require_current
from k2_dagster.verify.partition import Retained
from k2_dagster.verify.records import PinnedTable, known_topics, pin_table
from k2_dagster.verify.report import Report
from k2_dagster.verify.stream import Ground, verify_stream
from k2_dagster.verify.unknown import unknown_exchanges, unknown_streams

# Rows per stream whose values are compared, unless all are asked for: a second of decoding, and a fault in one row of
# a thousand is seen with near certainty.
SAMPLE_MESSAGES = 20_000

Stream = tuple[str, str]


def verify(
    settings: Settings,
    datasets: Sequence[str] | None = None,
    exchanges: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    all_values: bool = False,
) -> Report:
    """Compare topics and tables offset by offset; ingest may be running meanwhile.

    Without `datasets` and `exchanges`, everything that the profiles declare or that ever landed. `since` and `until`
    bound Kafka's record times; the window grows to whole commits. Of the values, a sample is compared, or all.

    Raises ConfigurationError (an unknown name), NotInitialized, VerificationFailed (a table with deleted rows), and
    transient errors. Disagreements are findings of the report, never errors.
    """
    started = time.monotonic()
    profiles = load_profiles(settings.profiles)
    report = Report()
    with (
        closing(Database(settings)) as database,
        closing(Registry(settings)) as registry,
        _catalog(settings) as catalog,
    ):
        require_current(database)
        streams = _streams(database, profiles, datasets, exchanges)
        tables = _pin(catalog, database, streams, report)
        ground = _ground(
            settings, profiles, database, registry, streams, since, until, None if all_values else SAMPLE_MESSAGES
        )
        if since is None and until is None:
            _tell_unknown(tables, known_streams(database, profiles), datasets, exchanges, report)
        for exchange, dataset in streams:
            report.streams.append(verify_stream(ground, tables[dataset], tables["quarantine"], exchange, dataset))
    report.seconds = time.monotonic() - started
    return report


def _streams(
    database: Database, profiles: Profiles, datasets: Sequence[str] | None, exchanges: Sequence[str] | None
) -> list[Stream]:
    known = known_streams(database, profiles)
    _refuse_unknown("dataset", datasets or (), WIRE_DATASETS)
    _refuse_unknown("exchange", exchanges or (), sorted({exchange for exchange, _ in known}))
    return [
        (exchange, dataset)
        for exchange, dataset in known
        if (not datasets or dataset in datasets) and (not exchanges or exchange in exchanges)
    ]


def known_streams(database: Database, profiles: Profiles) -> list[Stream]:
    """Every stream that a profile declares, or that ever landed."""
    declared = [(name, dataset) for name, profile in profiles.exchanges.items() for dataset in profile.datasets]
    landed = [parse_topic(topic) for topic in known_topics(database)]
    return list(dict.fromkeys([*declared, *((exchange, dataset) for dataset, exchange in landed)]))


def _tell_unknown(
    tables: Mapping[str, PinnedTable],
    known: Sequence[Stream],
    datasets: Sequence[str] | None,
    exchanges: Sequence[str] | None,
    report: Report,
) -> None:
    """Rows that no stream's verification would look at. Left out where only some exchanges are asked for."""
    if exchanges:
        return
    for dataset, table in tables.items():
        if dataset != "quarantine":
            report.tables[table.name] += unknown_exchanges(table, {name for name, of in known if of == dataset})
        elif not datasets:
            report.tables[table.name] += unknown_streams(table, set(known))


def _refuse_unknown(what: str, names: Iterable[str], valid: Iterable[str]) -> None:
    for name in names:
        if name not in (known := list(valid)):
            raise ConfigurationError(f"{what} was {name!r}", advice=f"valid: {', '.join(known)}")


def _pin(catalog: Catalog, database: Database, streams: Iterable[Stream], report: Report) -> dict[str, PinnedTable]:
    """The tables, the quarantine table last: see records.py."""
    names = [*dict.fromkeys(dataset for _, dataset in streams), "quarantine"]
    tables = {name: pin_table(catalog, database, name) for name in names}
    report.tables = {table.name: list(table.findings) for table in tables.values()}
    return tables


def _ground(
    settings: Settings,
    profiles: Profiles,
    database: Database,
    registry: Registry,
    streams: Iterable[Stream],
    since: datetime | None,
    until: datetime | None,
    sample_messages: int | None,
) -> Ground:
    topics = describe(settings, [topic_name(dataset, exchange) for exchange, dataset in streams])
    marks = all_watermarks(settings, {name: state.partitions for name, state in topics.items()})
    return Ground(
        settings=settings,
        profiles=profiles,
        database=database,
        registry=registry,
        topics=topics,
        retained={
            topic: {number: Retained(earliest, end) for number, (earliest, end) in found.items()}
            for topic, found in marks.items()
        },
        since=since,
        until=until,
        sample_messages=sample_messages,
    )


@contextmanager
def _catalog(settings: Settings) -> Iterator[Catalog]:
    catalog = open_catalog(settings)
    try:
        yield catalog
    finally:
        close_catalog(catalog)
