"""`k2 quarantine`: what no data table took, why, and sending it again after the cause is mended."""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import click

from k2_dagster.cli.common import (
    Time,
    emit,
    emit_one,
    json_option,
    refuse_empty_window,
    refuse_unknown_exchange,
    settings,
    to_json,
)
from k2_dagster.errors import QueryRefused
from k2_dagster.ingest.reprocess import republish
from k2_dagster.ingest.selection import Quarantine, Selection
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.quarantine import REASONS

LISTED = ("topic", "kafka_partition", "kafka_offset", "symbol", "reason", "detail", "kafka_timestamp")
# Lines of a listing; `k2 query` answers larger questions.
DEFAULT_LIMIT = 50


@click.group()
def quarantine() -> None:
    """Refused messages, with their original bytes and the reason."""


def _selecting(command: Any) -> Any:
    for option in (
        click.option("--to", "until", type=Time(), help="Only messages that reached Kafka before this time."),
        click.option("--from", "since", type=Time(), help="Only messages that reached Kafka at this time or later."),
        click.option("--reason", type=click.Choice(sorted(REASONS)), help="Only this reason."),
        click.option("--dataset", type=click.Choice(sorted(WIRE_DATASETS)), help="Only this dataset."),
        click.option("--exchange", help="Only this exchange."),
    ):
        command = option(command)
    return command


@quarantine.command("list")
@_selecting
@click.option("--limit", type=click.IntRange(1), default=DEFAULT_LIMIT, show_default=True, help="Most lines.")
@json_option
def list_(limit: int, as_json: bool, **chosen: Any) -> None:
    """List refused messages, the newest first."""
    refuse_empty_window(chosen["since"], chosen["until"])
    with _opened(Selection(**chosen)) as found:
        rows = found.newest(LISTED, limit)
    if not rows:
        refuse_unknown_exchange(settings(), chosen["exchange"])
    if not rows and not as_json:
        click.echo("no message in quarantine is like that")
        return
    emit(rows, as_json, columns=LISTED)


@quarantine.command()
@click.argument("topic")
@click.argument("partition", type=click.IntRange(0))
@click.argument("offset", type=click.IntRange(0))
@json_option
def show(topic: str, partition: int, offset: int, as_json: bool) -> None:
    """Show one refused message whole: reason, detail, key, value and headers.

    Of a topic that was made anew there may be several at one offset, the oldest first; --json is a list then.
    """
    one = Selection(topic=topic, partition=partition, first_offset=offset, last_offset=offset)
    with _opened(one) as found:
        rows = found.whole()
    if not rows:
        raise QueryRefused(
            f"{topic} partition {partition} offset {offset} is not in quarantine",
            advice="`k2 quarantine list` shows what is",
        )
    shown = [{**row, "meaning": REASONS.get(row["reason"], "")} for row in sorted(rows, key=itemgetter("topic_epoch"))]
    if as_json:
        click.echo(to_json(shown if len(shown) > 1 else shown[0]))
        return
    for number, row in enumerate(shown):
        if number:
            click.echo()
        readable = {"value": _hexadecimal(row["value"]), "key": (row["key"] or b"").decode(errors="replace")}
        emit_one({**row, **readable}, as_json)


@quarantine.command()
@_selecting
@click.option("--partition", type=click.IntRange(0), help="Only this partition.")
@click.option("--first-offset", type=click.IntRange(0), help="Only messages at this offset or later.")
@click.option("--last-offset", type=click.IntRange(0), help="Only messages up to this offset, included.")
@json_option
def reprocess(as_json: bool, **chosen: Any) -> None:
    """Publish refused messages again, with their original bytes, after the schema or profile is mended.

    Duplicates are left out: they have landed. Run it twice and the second copies become duplicates. However many there
    are, a few thousand are in memory at once.
    """
    current = settings()
    refuse_empty_window(chosen["since"], chosen["until"])
    catalog = open_catalog(current)
    try:
        count = republish(current, catalog, Selection(**chosen), _progress)
    finally:
        close_catalog(catalog)
    if not count:
        refuse_unknown_exchange(current, chosen["exchange"])
    emit_one({"republished": count}, as_json)


def _progress(sent: int, total: int) -> None:
    click.echo(f"{sent:,} of {total:,} published", err=True)


@contextmanager
def _opened(selection: Selection) -> Iterator[Quarantine]:
    catalog = open_catalog(settings())
    try:
        yield Quarantine(catalog, selection)
    finally:
        close_catalog(catalog)


def _hexadecimal(value: bytes | None) -> str:
    return "" if value is None else value.hex(" ")
