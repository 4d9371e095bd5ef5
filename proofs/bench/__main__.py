"""`python -m proofs.bench [name]`: measure, append one JSON object per figure to build/bench.jsonl, show a table."""

import json
from collections.abc import Callable

import click
from rich.console import Console

from proofs.bench.connect import measure_connect
from proofs.bench.dagster import measure_checks, measure_ticks
from proofs.bench.ingest import ROUNDS, measure_ingest
from proofs.bench.memory import measure_memory
from proofs.bench.results import Measure, save, show
from proofs.bench.sequence import measure_sequence
from proofs.bench.setting import Bench, open_bench
from proofs.bench.stages import measure_stages
from proofs.bench.tables import measure_commits, measure_layout

# Messages (of `commits`, commits; of `ticks`, topics) that each measure takes unless told otherwise: what the project
# promises figures for.
SIZES = {
    "ingest": 12_000_000,
    "connect": 12_000_000,
    "layout": 2_000_000,
    "commits": 2_000,
    "stages": 3_000_000,
    "sequence": 3_000_000,
    "memory": 6_000_000,
    "ticks": 20,
    "checks": 3_000_000,
}


@click.command()
@click.argument("name", required=False, type=click.Choice(list(SIZES)))
@click.option(
    "--size",
    type=click.IntRange(1),
    help="Messages (`commits`: commits; `ticks`: topics); default: docs/performance.md",
)
@click.option(
    "--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1), help="Interleaved rounds of `ingest`."
)
def main(name: str | None, size: int | None, rounds: int) -> None:
    """Run one measure, or all. Ends with one JSON line; exit code 1 when a goal is missed."""
    console = Console(stderr=True)

    def progress(text: str) -> None:
        console.print(text, style="dim", highlight=False)

    measures: list[Measure] = []
    with open_bench(progress) as bench:
        for one in [name] if name else list(SIZES):
            found = _measure(bench, one, size or SIZES[one], rounds, progress)
            save(found)
            show(found, console)
            measures += found
    missed = [one.measure for one in measures if one.holds is False]
    click.echo(json.dumps({"holds": not missed, "measures": len(measures), "missed": missed}))
    raise SystemExit(1 if missed else 0)


def _measure(bench: Bench, name: str, size: int, rounds: int, progress: Callable[[str], None]) -> list[Measure]:
    if name == "ingest":
        return measure_ingest(bench, size, rounds, progress)
    return {
        "connect": measure_connect,
        "layout": measure_layout,
        "commits": measure_commits,
        "stages": measure_stages,
        "sequence": measure_sequence,
        "memory": measure_memory,
        "ticks": measure_ticks,
        "checks": measure_checks,
    }[name](bench, size, progress)


if __name__ == "__main__":
    main()
