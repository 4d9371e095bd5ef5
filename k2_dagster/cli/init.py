"""`k2 init`: everything that ingest needs, made once and confirmed ever after."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from k2_dagster.cli.common import emit, json_option, settings
from k2_dagster.kafka.subjects import SchemaOutcome, register_all, require_compatible
from k2_dagster.kafka.topics import ensure_topics, require_counts
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.lake.tables import ensure_tables, require_addable
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import upgrade

CREATED, CHANGED, CONFIRMED = "created", "changed", "confirmed"
# What the rooms below call the same three.
ACTIONS = {"registered": CREATED, "new version": CHANGED, "columns added": CHANGED, "present": CONFIRMED}


@click.command()
@click.option("--exchange", "exchanges", multiple=True, help="Only these exchanges; without it, all of the profiles.")
@json_option
def init(exchanges: tuple[str, ...], as_json: bool) -> None:
    """Create topics, subjects, tables and the control schema. Repeating it changes nothing and says so.

    The column `action` says created, changed or confirmed; `ahead` of a subject to whose schema others have added
    fields. Those, and topics that are configured otherwise than the settings say, are left as they are, and told.
    """
    chosen = settings()
    profiles = load_profiles(chosen.profiles)
    names = exchanges or tuple(profiles.exchanges)
    for name in names:
        profiles.exchange(name)
    rows = initialize(chosen, profiles, names)
    if as_json:
        emit(rows, as_json=True)
    else:
        show(rows)
    for row in rows:
        for told in row["differences"]:
            click.echo(f"k2: {row['name']}: {told}; it is left as it is", err=True)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """What `initialize` returned, as a table on standard output."""
    emit([{**row, "detail": _detail(row)} for row in rows], False, columns=("what", "name", "action", "detail"))


def initialize(chosen: Settings, profiles: Profiles, exchanges: tuple[str, ...]) -> list[dict[str, Any]]:
    """Do it and say what was done: one row per thing, with `what` it is, its `name`, the `action` and, where they
    apply, `partitions`, `schema_id`, `revision` and `differences`.

    1. Everything that may be refused is looked at: schemas, partition counts, columns. Nothing is made when one is.
    2. Control schema, tables, topics, subjects.

    Raises SchemaIncompatible, PartitionCountChanged, and transient errors of the parts that do not answer.
    """
    # 1.
    require_compatible(chosen, profiles, exchanges)
    require_counts(chosen, profiles, exchanges)
    catalog = open_catalog(chosen)
    try:
        require_addable(catalog)
        # 2.
        rows = [_migrate(chosen)]
        rows += [_row("table", one.table, one.outcome) for one in ensure_tables(catalog)]
    finally:
        close_catalog(catalog)
    topics = ensure_topics(chosen, profiles, exchanges)
    rows += [
        _row("topic", one.topic, one.action, partitions=one.partitions, differences=one.differences) for one in topics
    ]
    subjects = register_all(chosen, profiles, exchanges)
    rows += [
        _row("subject", one.subject, one.action, schema_id=one.schema_id, differences=_added(one)) for one in subjects
    ]
    return rows


def _added(one: SchemaOutcome) -> list[str]:
    return [f"others have added the field {note.field}, which readers here ignore" for note in one.notes]


def _migrate(chosen: Settings) -> dict[str, Any]:
    database = Database(chosen)
    try:
        before, now = upgrade(database)
    finally:
        database.close()
    action = CREATED if before is None else CONFIRMED if before == now else CHANGED
    return _row("control schema", "k2", action, revision=now)


def _row(
    what: str,
    name: str,
    action: str,
    *,
    partitions: int | None = None,
    schema_id: int | None = None,
    revision: str | None = None,
    differences: Sequence[str] = (),
) -> dict[str, Any]:
    return {
        "what": what,
        "name": name,
        "action": ACTIONS.get(action, action),
        "partitions": partitions,
        "schema_id": schema_id,
        "revision": revision,
        "differences": list(differences),
    }


def _detail(row: Mapping[str, Any]) -> str:
    parts = [
        f"{row['partitions']} partitions" if row["partitions"] else "",
        f"schema id {row['schema_id']}" if row["schema_id"] else "",
        f"at {row['revision']}" if row["revision"] else "",
        f"{len(row['differences'])} differences" if row["differences"] else "",
    ]
    return ", ".join(part for part in parts if part)
