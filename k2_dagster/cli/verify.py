"""`k2 verify`: the independent proof that topics and tables agree."""

from datetime import datetime

import click
from rich.table import Table

from k2_dagster.cli.common import Time, json_option, refuse_empty_window, settings, text_value, to_json
from k2_dagster.cli.exits import FINDING
from k2_dagster.cli.tables import print_rich
from k2_dagster.observability.printable import printable
from k2_dagster.verify.proof import verify as prove
from k2_dagster.verify.report import FAULTS, Fault, Finding, Report, StreamReport

_NUMBERS = ("consumed", "messages", "rows", "quarantined", "duplicates")
_FAULTS: tuple[Fault, ...] = ("missing", "extra", "duplicated", "wrong_duplicate", "wrong_value")


@click.command()
@click.option("--dataset", "datasets", multiple=True, help="Only these datasets; without it, all.")
@click.option("--exchange", "exchanges", multiple=True, help="Only these exchanges; without it, all.")
@click.option("--from", "since", type=Time(), help="Only messages that reached Kafka at this time or later.")
@click.option("--to", "until", type=Time(), help="Only messages that reached Kafka before this time.")
@click.option("--all-values", is_flag=True, help="Compare every field of every row, not of a sample.")
@json_option
@click.pass_context
def verify(
    context: click.Context,
    datasets: tuple[str, ...],
    exchanges: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    all_values: bool,
    as_json: bool,
) -> None:
    """Compare topics and tables offset by offset, and say what is missing, extra, doubled or wrong.

    Where Kafka still has the messages the proof is by `offsets`; where it has not, by `tiling`: the commits cover every
    offset, and the tables hold what the commits say. Ingest may be running. Exits with 1 when something disagrees.
    """
    refuse_empty_window(since, until)
    report = prove(settings(), datasets or None, exchanges or None, since, until, all_values=all_values)
    if as_json:
        click.echo(to_json(report.as_dict()))
    else:
        _show(report)
    if not report.clean:
        context.exit(FINDING)


def _show(report: Report) -> None:
    shown = [stream for stream in report.streams if not stream.empty]
    if shown:
        print_rich(_table(shown))
    for name, findings in report.tables.items():
        _say(name, findings)
    for stream in shown:
        _say(f"{stream.exchange}/{stream.dataset}", stream.findings)
        for one in stream.partitions:
            _say(f"{stream.exchange}/{stream.dataset} partition {one.partition}", one.findings)
    click.echo(verdict(report))


def verdict(report: Report) -> str:
    """One line: clean, or how many faults of which kind."""
    faults = {fault: report.count(fault) for fault in FAULTS}
    named = ", ".join(f"{fault.replace('_', ' ')} {faults[fault]:,}" for fault in FAULTS if faults[fault])
    compared = (
        f"{report.total('consumed'):,} messages consumed = {report.total('rows'):,} rows + "
        f"{report.total('quarantined'):,} quarantined, {report.total('values_compared'):,} rows compared in full, "
        f"{report.seconds:.1f} s"
    )
    return f"NOT CLEAN: {named}" if named else f"clean: missing 0, extra 0, duplicated 0 ({compared})"


def _table(streams: list[StreamReport]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("exchange", "dataset"):
        table.add_column(name)
    for name in (*_NUMBERS, *_FAULTS):
        table.add_column(_HEADINGS.get(name, name.replace("_", " ")), justify="right")
    table.add_column("proof")
    for stream in streams:
        numbers = [text_value(stream.total(name)) for name in _NUMBERS]
        faults = [text_value(stream.count(fault)) for fault in _FAULTS]
        table.add_row(stream.exchange, stream.dataset, *numbers, *faults, " + ".join(stream.proofs))
    return table


_HEADINGS = {"messages": "in Kafka", "wrong_duplicate": "false duplicate", "wrong_value": "wrong value"}


def _say(where: str, findings: list[Finding]) -> None:
    for one in findings:
        some = ", ".join(str(example) for example in one.examples)
        click.echo(printable(f"{where}: {one.fault.replace('_', ' ')} {one.count:,}: {one.detail} ({some})"))
