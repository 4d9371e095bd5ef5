"""`k2 init`: everything that ingest needs, made once and confirmed ever after."""

import click

from k2_dagster.cli.common import emit, json_option, settings
from k2_dagster.kafka.subjects import register_all
from k2_dagster.kafka.topics import ensure_topics
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.lake.tables import ensure_tables
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import upgrade


@click.command()
@click.option("--exchange", "exchanges", multiple=True, help="Only these exchanges; without it, all of the profiles.")
@json_option
def init(exchanges: tuple[str, ...], as_json: bool) -> None:
    """Create topics, subjects, tables and the control schema. Repeating it changes nothing and says so."""
    chosen = settings()
    profiles = load_profiles(chosen.profiles)
    names = exchanges or tuple(profiles.exchanges)
    for name in names:
        profiles.exchange(name)
    emit(initialize(chosen, profiles, names), as_json)


def initialize(chosen: Settings, profiles: Profiles, exchanges: tuple[str, ...]) -> list[dict[str, str]]:
    """Do it and say what was done: one row (what, name, outcome) per thing."""
    rows = [{"what": "control schema", "name": "k2", "outcome": _migrate(chosen)}]
    catalog = open_catalog(chosen)
    try:
        rows += [{"what": "table", "name": one.table, "outcome": one.outcome} for one in ensure_tables(catalog)]
    finally:
        close_catalog(catalog)
    topics = ensure_topics(chosen, profiles, exchanges)
    rows += [{"what": "topic", "name": one.topic, "outcome": f"{one.action} ({one.partitions})"} for one in topics]
    subjects = register_all(chosen, profiles, exchanges)
    rows += [{"what": "subject", "name": one.subject, "outcome": f"{one.action} ({one.schema_id})"} for one in subjects]
    return rows


def _migrate(chosen: Settings) -> str:
    database = Database(chosen)
    try:
        before, now = upgrade(database)
    finally:
        database.close()
    return f"confirmed at {now}" if before == now else f"migrated from {before or 'nothing'} to {now}"
