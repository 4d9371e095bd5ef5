"""What the commands share: settings, options, and output as a table or as JSON."""

import json
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from k2_dagster.cli.tables import print_rich
from k2_dagster.errors import ConfigurationError
from k2_dagster.observability.logs import configure_logs
from k2_dagster.observability.printable import printable, printable_json
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings, load_settings

json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable, one document.")


class Time(click.ParamType[datetime]):
    """ISO 8601; a time without an offset is UTC."""

    name = "time"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ARG002  (the signature is the library's)
        """Fails with an example."""
        if isinstance(value, datetime):
            return value
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time; valid: 2026-03-01, 2026-03-01T12:30:00 or 2026-03-01T12:30:00+01:00")
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


class Finite(click.FloatRange):
    """A number within bounds, and no infinity or not-a-number, which pass any comparison."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Fails with what would be valid."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def start() -> None:
    """Before every command: logs as the settings say. A wrong setting is left to the command, so `--help` works."""
    try:
        chosen = load_settings()
    except ConfigurationError:
        return
    configure_logs(chosen)


def settings() -> Settings:
    """The settings. Raises ConfigurationError, which ends the command with its message."""
    return load_settings()


def refuse_empty_window(since: datetime | None, until: datetime | None) -> None:
    """Nothing lies between these times: an answer about it would say that all is well. Raises click.UsageError."""
    if since is not None and until is not None and since >= until:
        raise click.UsageError(f"--from {since.isoformat()} is not before --to {until.isoformat()}")


def refuse_unknown_exchange(chosen: Settings, exchange: str | None) -> None:
    """For a listing that found nothing, which a misspelt name must not look like: what is on record of an exchange that
    the profiles declare no more is found. Raises ConfigurationError."""
    if exchange is not None:
        load_profiles(chosen.profiles).exchange(exchange)


def emit(rows: Sequence[Mapping[str, Any]], as_json: bool, *, columns: Iterable[str] = ()) -> None:
    """Write rows to standard output: a JSON array of objects, or a table.

    `columns` chooses and orders the table's columns; without it they are the keys of the first row.
    """
    if as_json:
        click.echo(to_json([dict(row) for row in rows]))
        return
    names = list(columns) or list(rows[0] if rows else ())
    table = Table(*names, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        # As Text: what is between brackets in a value is not markup
        table.add_row(*(Text(printable(text_value(row.get(name)))) for name in names))
    print_rich(table)


def emit_one(document: Mapping[str, Any], as_json: bool) -> None:
    """Write one object to standard output: as JSON, or as a line per key."""
    if as_json:
        click.echo(to_json(dict(document)))
        return
    width = max((len(key) for key in document), default=0)
    for key, value in document.items():
        shown = printable(text_value(value), lines=True).replace("\n", f"\n{'':{width}}  ")
        click.echo(f"{key:{width}}  {shown}")


def to_json(document: Any) -> str:
    """As every command writes it."""
    return printable_json(json.dumps(document, indent=2, default=json_value, ensure_ascii=False))


def json_value(value: Any) -> Any:
    """For values that JSON has no form for: ISO 8601, exact decimals and paths as text, bytes as base64."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def text_value(value: Any) -> str:
    """For a cell of a table: nothing for null, whole numbers grouped, containers as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, default=json_value, ensure_ascii=False)
    return value if isinstance(value, str) else str(json_value(value))
