"""`k2 settings`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from k2_dagster.cli.common import emit, json_option
from k2_dagster.cli.exits import TERMINAL
from k2_dagster.fields import default_text, type_text, unit_text
from k2_dagster.observability.masking import masked
from k2_dagster.settings import Settings, gather_settings, validate
from k2_dagster.sources import DEFAULT, Gathered, environment_name, refusal

UNKNOWN = "unknown"
COLUMNS = ("name", "value", "source", "type", "default", "unit", "help")


@dataclass(frozen=True)
class Origin:
    """One setting, the place its value came from (`environment`, the stack file's path, or `default`), and what stands
    against it: `error` when it is wrong, `note` when another value was left out."""

    name: str
    value: Any
    source: str
    type: str = UNKNOWN
    default: str = ""
    unit: str = ""
    help: str = ""
    note: str = ""
    error: str = ""


@click.command()
@json_option
@click.pass_context
def settings(context: click.Context, as_json: bool) -> None:
    """Every setting with its value, where the value came from, its type, default, unit and meaning.

    Secrets are masked. Exit status 4 when a name or a value is wrong; the others are shown all the same.
    """
    explained = explain_settings()
    rows = [{**asdict(one), "value": _shown(one.value), "default": masked(one.default)} for one in explained]
    if as_json:
        emit(rows, as_json=True)
    else:
        emit([{**row, "source": f"{row['source']}  WRONG" if row["error"] else row["source"]} for row in rows],
             as_json=False, columns=COLUMNS)  # fmt: skip
    for told in dict.fromkeys(one.note for one in explained if one.note):
        click.echo(f"k2: {told}", err=True)
    wrong = [one.error for one in explained if one.error]
    for told in wrong:
        click.echo(f"k2: {told}", err=True)
    context.exit(TERMINAL if wrong else 0)


def explain_settings(environment: Mapping[str, str] | None = None) -> list[Origin]:
    """Every setting with its value and source, in the order of their declaration, then names that are of no setting.

    What is wrong is marked, and raises nothing. Raises ConfigurationError when the stack's file cannot be read.
    """
    gathered = gather_settings(environment)
    valid, errors = validate(gathered)
    known = [_origin(name, gathered, valid, errors.get(name, "")) for name in Settings.model_fields]
    # A secret under a wrong name is a secret
    unknown = [
        Origin(key, SecretStr(UNKNOWN), source, error=refusal({key: source}, Settings.model_fields).message)
        for key, source in gathered.unknown.items()
    ]
    return known + unknown


def _origin(name: str, gathered: Gathered, valid: Settings, error: str) -> Origin:
    field = Settings.model_fields[name]
    value = getattr(valid, name)
    if error:
        value = SecretStr(gathered.values[name]) if "secret" in type_text(field) else gathered.values[name]
    return Origin(
        name=environment_name(name),
        value=value,
        source=gathered.sources.get(name, DEFAULT),
        type=type_text(field),
        default=default_text(field),
        unit=unit_text(field),
        help=field.description or "",
        note=gathered.why_ignored if name in gathered.ignored else "",
        error=error,
    )


def _shown(value: Any) -> Any:
    """As JSON has it: numbers stay numbers, unset is null."""
    return masked(value) if isinstance(value, SecretStr | str | Path) else value
