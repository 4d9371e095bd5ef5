"""`k2 breaker`: partitions that are halted at a critical gap, and letting them go on."""

import getpass
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import click

from k2_dagster.cli.common import emit, emit_one, json_option, refuse_unknown_exchange, settings
from k2_dagster.ingest.halted import is_pressing
from k2_dagster.kafka.topics import watermarks
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from k2_dagster.state.breakers import acknowledge_breaker, find_breaker, list_breakers
from k2_dagster.state.database import Database

LISTED = (
    *("id", "exchange", "dataset", "kafka_partition", "kafka_offset", "symbol", "first_sequence", "last_sequence"),
    *("missing", "opened_at", "pressing", "acknowledged_at", "acknowledged_by", "acknowledged_reason"),
)


@click.group()
def breaker() -> None:
    """Partitions that are not read on since a critical gap, until somebody says that they may be."""


@breaker.command("list")
@click.option("--exchange", help="Only this exchange.")
@click.option("--dataset", type=click.Choice(sorted(WIRE_DATASETS)), help="Only this dataset.")
@click.option("--all", "show_all", is_flag=True, help="Also those that were acknowledged.")
@json_option
def list_(exchange: str | None, dataset: str | None, show_all: bool, as_json: bool) -> None:
    """List open breakers, oldest first. `pressing`: half of Kafka's retention has passed, then what waits is lost."""
    chosen = settings()
    with closing(Database(chosen)) as database:
        found = list_breakers(database, exchange, dataset, only_open=not show_all)
    if not found:
        refuse_unknown_exchange(chosen, exchange)
    rows = [{**one, "pressing": _pressing(one, chosen)} for one in found]
    if not rows and not as_json:
        click.echo("no partition is halted")
        return
    emit(rows, as_json, columns=LISTED)


@breaker.command()
@click.argument("breaker_id", metavar="ID", type=click.IntRange(1))
@click.option("--by", "acknowledged_by", default=getpass.getuser, show_default="the user", help="Who acknowledges.")
@click.option("--reason", required=True, help="Why; it stays on record.")
@click.option(
    "--through-end",
    is_flag=True,
    help="Acknowledge also the critical gaps that messages show which are in the partition now: of one outage, each "
    "symbol has its own.",
)
@json_option
def acknowledge(breaker_id: int, acknowledged_by: str, reason: str, through_end: bool, as_json: bool) -> None:
    """Let a halted partition go on. The gap stays on record, and may still be filled.

    Runs and processes notice within seconds. Acknowledging again changes nothing.
    """
    chosen = settings()
    with closing(Database(chosen)) as database:
        through = _last_offset(chosen, find_breaker(database, breaker_id)) if through_end else None
        done = acknowledge_breaker(
            database, breaker_id, acknowledged_by=acknowledged_by, reason=reason, through_offset=through
        )
    emit_one(done, as_json)


def _pressing(row: Mapping[str, Any], chosen: Settings) -> bool:
    is_open = row["acknowledged_at"] is None
    return is_open and is_pressing(row["opened_at"], chosen.kafka_retention_hours, datetime.now(UTC))


def _last_offset(chosen: Settings, row: Mapping[str, Any]) -> int:
    partition = int(row["kafka_partition"])
    found = watermarks(chosen, topic_name(row["dataset"], row["exchange"]), partition + 1)
    return found[partition][1] - 1
