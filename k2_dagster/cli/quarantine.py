"""`k2 quarantine`: what no data table took, why, and sending it again after the cause is mended."""

from typing import Any

import click

from k2_dagster.cli.common import emit, emit_one, json_option, settings
from k2_dagster.errors import QueryRefused
from k2_dagster.ingest.reprocess import Selection, republish, select_quarantined
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.quarantine import REASONS

LISTED = ("topic", "kafka_partition", "kafka_offset", "symbol", "reason", "detail", "kafka_timestamp")
# Lines of a listing; `k2 query` answers larger questions.
DEFAULT_LIMIT = 50


@click.group()
def quarantine() -> None:
    """Refused messages, with their original bytes and the reason."""


def _selecting(command: Any) -> Any:
    for option in (
        click.option("--reason", type=click.Choice(sorted(REASONS)), help="Only this reason."),
        click.option("--dataset", help="Only this dataset."),
        click.option("--exchange", help="Only this exchange."),
    ):
        command = option(command)
    return command


@quarantine.command("list")
@_selecting
@click.option("--limit", type=click.IntRange(1), default=DEFAULT_LIMIT, show_default=True, help="Most lines.")
@json_option
def list_(exchange: str | None, dataset: str | None, reason: str | None, limit: int, as_json: bool) -> None:
    """List refused messages."""
    rows = _rows(Selection(exchange, dataset, reason), LISTED, limit)
    emit(rows, as_json, columns=LISTED)


@quarantine.command()
@click.argument("topic")
@click.argument("partition", type=click.IntRange(0))
@click.argument("offset", type=click.IntRange(0))
@json_option
def show(topic: str, partition: int, offset: int, as_json: bool) -> None:
    """Show one refused message whole: reason, detail, key, value and headers."""
    rows = _rows(Selection(topic=topic, partition=partition, offset=offset), ("*",), None)
    if not rows:
        raise QueryRefused(
            f"{topic} partition {partition} offset {offset} is not in quarantine",
            advice="`k2 quarantine list` shows what is",
        )
    for row in rows:
        shown = {**row, "meaning": REASONS.get(row["reason"], "")}
        if not as_json:
            shown["value"] = _hexadecimal(row["value"])
            shown["key"] = (row["key"] or b"").decode(errors="replace")
        emit_one(shown, as_json)


@quarantine.command()
@_selecting
@json_option
def reprocess(exchange: str | None, dataset: str | None, reason: str | None, as_json: bool) -> None:
    """Publish refused messages again, with their original bytes, after the schema or profile is mended.

    Duplicates are left out: they have landed. Run it twice and the second copies become duplicates.
    """
    chosen = settings()
    catalog = open_catalog(chosen)
    try:
        count = republish(chosen, catalog, Selection(exchange, dataset, reason))
    finally:
        close_catalog(catalog)
    emit_one({"republished": count}, as_json)


def _rows(selection: Selection, columns: tuple[str, ...], limit: int | None) -> list[dict[str, Any]]:
    catalog = open_catalog(settings())
    try:
        return select_quarantined(catalog, selection, columns, limit)
    finally:
        close_catalog(catalog)


def _hexadecimal(value: bytes | None) -> str:
    return "" if value is None else value.hex(" ")
