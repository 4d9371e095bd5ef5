"""`k2 schemas`: may the declared schemas follow what is registered, and register them."""

from dataclasses import asdict
from pathlib import Path

import click

from k2_dagster.cli.common import emit, json_option, settings
from k2_dagster.kafka.registry import Registry
from k2_dagster.kafka.subjects import as_rows, check_files, check_registered, register_all, write_files
from k2_dagster.schemas.profiles import Profiles, load_profiles

exchange_option = click.option(
    "--exchange", "exchanges", multiple=True, help="Only this exchange; may be given several times. Default: all."
)


@click.group()
def schemas() -> None:
    """Message schemas: check that a change breaks nobody, and register it."""


@schemas.command()
@exchange_option
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Compare with the files DATASET.avsc and DATASET.json of this folder instead of the registry "
    "(for CI; see `export`).",
)
@json_option
@click.pass_context
def check(context: click.Context, exchanges: tuple[str, ...], against: Path | None, as_json: bool) -> None:
    """Compare the declared schemas with the newest ones there are. Exit status 1 on an incompatible change."""
    if against is not None:
        if exchanges:
            raise click.UsageError("--against compares datasets; it does not go with --exchange")
        checks = check_files(against)
    else:
        chosen = settings()
        profiles = load_profiles(chosen.profiles)
        registry = Registry(chosen)
        checks = check_registered(registry, profiles, _chosen(profiles, exchanges))
        registry.close()
    emit(as_rows(checks), as_json)
    incompatible = sum(check.state == "incompatible" for check in checks)
    ignored = sum(len(check.notes) for check in checks)
    note = f"; {ignored} fields that only the registry knows, which readers ignore" if ignored else ""
    click.echo(f"{len(checks)} schemas, {incompatible} incompatible{note}", err=True)
    context.exit(1 if incompatible else 0)


@schemas.command()
@exchange_option
@click.option("--json-schema", is_flag=True, help="The JSON Schema forms too, for publishers that speak JSON.")
@json_option
def register(exchanges: tuple[str, ...], json_schema: bool, as_json: bool) -> None:
    """Register the declared schemas with BACKWARD compatibility, if all of them pass the check. May be repeated.

    Avro forms always; a JSON Schema form where the registry has an older version of it, or all with --json-schema.
    """
    chosen = settings()
    profiles = load_profiles(chosen.profiles)
    outcomes = register_all(chosen, profiles, _chosen(profiles, exchanges), also_json=json_schema)
    emit([{**asdict(one), "notes": [note.field for note in one.notes]} for one in outcomes], as_json)


@schemas.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["avro", "json"]),
    default="avro",
    show_default=True,
    help="Avro (DATASET.avsc) or JSON Schema (DATASET.json).",
)
def export(folder: Path, form: str) -> None:
    """Write the declared schemas into FOLDER: what `check --against` compares a change with."""
    for path in write_files(folder, "JSON" if form == "json" else "AVRO"):
        click.echo(path)


def _chosen(profiles: Profiles, exchanges: tuple[str, ...]) -> tuple[str, ...]:
    return exchanges or tuple(profiles.exchanges)
