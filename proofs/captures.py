"""Plays the real captures through Kafka into the tables and compares what landed with independent counts.

    python -m proofs.captures

Both Binance symbols across midnight, Coinbase, Kraken, Kraken Futures, IEX and US equities: rows by symbol and by day,
and their values, equal those of parsers that share nothing with K2; no gap is invented, no time is doubted, and a
second playing gives only duplicates. Of the corrupted twins, each planted defect is in one of K2's reports: gap ledger,
quarantine, the check `times`, the days of the commits. Holds and says `skipped` where no captures are.
"""

import platform
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from sqlalchemy import select

from k2_dagster.cli.check import run_checks
from k2_dagster.devstack.stack import Stack
from k2_dagster.feeds.capture.formats import open_capture
from k2_dagster.feeds.capture.player import play
from k2_dagster.ingest.drain import DrainReport, drain_exchange
from k2_dagster.schemas.common import MICROS_PER_SECOND
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.profiles import PACKAGED_PROFILES
from k2_dagster.settings import load_settings
from k2_dagster.state.database import Database
from k2_dagster.state.tables import commits, gaps
from proofs import capture_defects, capture_truth
from proofs.accounting import account, account_twice, table_rows
from proofs.capture_rows import DATASETS, counted
from proofs.capture_truth import Truth
from proofs.common import Lake, Proof, conclude, new_lake, new_token, proof_stack, say, scratch_folder

_SPOT = ("binance_ws/spot_btcusdt_20240808.gz", "binance_ws/spot_btcusdt_20240809.gz")
_COIN_MARGINED = ("binance_ws/cm_ethusd_perp_20240808.gz", "binance_ws/cm_ethusd_perp_20240809.gz")
_TWIN = "binance_csv/test_{}_binance_{}_stream_spot_trxusdt_04-03-2025.csv.gz"
# Datasets and symbols whose values differ that a finding names.
DIFFERING_SHOWN = 10
# The recorder of the twins had the venue's time to the millisecond, and was never more than some tenths behind.
_TWIN_BOUNDS = "clock_skew_seconds = 0.001\nreceive_delay_seconds = 1.0\n"


@dataclass(frozen=True)
class Recording:
    """Files of one feed in order of time, the profile that they are played under, and who counts them."""

    name: str
    profile: str
    files: tuple[str, ...]
    count: Callable[[Sequence[Path]], Truth]


def _each(count: Callable[[Path], Truth]) -> Callable[[Sequence[Path]], Truth]:
    def together(paths: Sequence[Path]) -> Truth:
        truth = Truth()
        for path in paths:
            truth = truth.merged(count(path))
        return truth

    return together


RECORDINGS = (
    Recording("Binance spot across midnight", "binance", _SPOT, lambda paths: capture_truth.binance_ws(*paths)),
    Recording(
        "Binance COIN-M across midnight",
        "binance_coinm",
        _COIN_MARGINED,
        lambda paths: capture_truth.binance_ws(*paths),
    ),
    Recording("Coinbase", "coinbase", ("venues_ws/COINBASE.ws.28.0.gz",), _each(capture_truth.coinbase)),
    Recording("Kraken", "kraken", ("venues_ws/KRAKEN.ws.48.0.gz",), _each(capture_truth.kraken)),
    Recording(
        "Kraken Futures", "kraken_futures", ("venues_ws/KRAKEN_FUTURES.ws.1.0.gz",), _each(capture_truth.kraken_futures)
    ),
    Recording("IEX", "iex", ("iex/TOPS16.pcapng.gz",), _each(capture_truth.iex)),
    Recording(
        "US equities",
        "us_consolidated",
        tuple(f"us_equities/aig_{day}_{what}.zip" for day in (20131007, 20131008) for what in ("trade", "quote")),
        _each(capture_truth.us_equities),
    ),
)


def run(stack: Stack, folder: Path, data: Path, names: Sequence[str] = ()) -> Proof:
    """The whole proof on a running stack; `names` chooses recordings and twins, all without it."""
    proof = Proof("captures", conditions={"machine": f"{platform.system()} {platform.machine()}"})
    proof.counts |= {"skipped": False, "recordings": {}, "defects_found": {}}
    if not data.is_dir():
        proof.counts["skipped"] = True
        proof.conditions["captures"] = f"none at {data}: set K2_SAMPLE_DATA to the folder that has them"
        return proof
    for recording in RECORDINGS:
        if not names or recording.name in names:
            _recording(stack, folder, data, recording, proof)
    for kind in ("trade", "difference_depth"):
        if not names or f"twins {kind}" in names:
            _twins(stack, folder, data, kind, proof)
    return proof


def _lake_for(stack: Stack, folder: Path, profile: str, more: str = "") -> tuple[Lake, str]:
    """A lake in which the packaged profile has a name of this run's own, and `more` keys."""
    name = f"{profile}_{new_token()}"
    text = PACKAGED_PROFILES.read_text().replace(f"[exchanges.{profile}.", f"[exchanges.{name}.")
    text = text.replace(f"[exchanges.{profile}]\n", f"[exchanges.{name}]\n{more}")
    return new_lake(stack, folder, text, [name]), name


def _play(lake: Lake, exchange: str, paths: Sequence[Path]) -> DrainReport:
    stop = threading.Event()
    play(lake.settings, lake.profiles, [open_capture(path, exchange) for path in paths], speed=None, stop=stop)
    return drain_exchange(lake.settings, lake.profiles, exchange, cap_seconds=None, stop=stop)


def _recording(stack: Stack, folder: Path, data: Path, recording: Recording, proof: Proof) -> None:
    say(recording.name)
    paths = [data / name for name in recording.files]
    truth = recording.count(paths)
    lake, exchange = _lake_for(stack, folder, recording.profile)
    first = _play(lake, exchange, paths)
    found = counted(lake, exchange)
    _compare(recording.name, found, truth, proof)
    proof.expect(f"{recording.name}: times that are doubted", _doubted(lake, exchange, found), [])
    proof.expect(f"{recording.name}: gaps", _gaps(lake, exchange), [])
    proof.expect(f"{recording.name}: gaps of the venue's own numbers", truth.gaps, [])
    proof.expect(f"{recording.name}: quarantined", _reasons(lake, exchange), {})
    # `k2 verify` decodes every duplicate, which takes minutes of two million: so before there are any
    account_twice(lake, [exchange], proof, f"{recording.name}: ")
    again = _play(lake, exchange, paths)
    proof.expect(f"{recording.name}: rows of a second playing", again.rows, 0)
    proof.expect(
        f"{recording.name}: duplicates of a second playing", _reasons(lake, exchange), {"duplicate": first.rows}
    )
    proof.expect(f"{recording.name}: gaps after the second playing", _gaps(lake, exchange), [])
    for example in account(lake, [exchange]).examples:
        proof.object_to(f"{recording.name}, played twice: {example}")
    proof.counts["recordings"][recording.name] = {**found.rows, "days": sorted({day for _, day in found.days})}


def _compare(name: str, found: Truth, truth: Truth, proof: Proof) -> None:
    for what in ("rows", "symbols", "days"):
        proof.expect(f"{name}: {what}", dict(getattr(found, what)), dict(getattr(truth, what)))
    differing = sorted(
        f"{dataset} of {symbol}"
        for dataset, symbol in found.digests.keys() | truth.digests.keys()
        if found.digests[dataset, symbol] != truth.digests[dataset, symbol]
    )
    proof.expect(f"{name}: rows with other values than the file", differing[:DIFFERING_SHOWN], [])


def _twins(stack: Stack, folder: Path, data: Path, kind: str, proof: Proof) -> None:
    """The clean twin lands whole; of the corrupted one, each defect is in a report of K2, and nothing else is."""
    clean, corrupted = (data / _TWIN.format(twin, kind) for twin in ("positive", "negative"))
    say(f"twins of {kind}")
    lake, exchange = _lake_for(stack, folder, "binance", _TWIN_BOUNDS)
    _play(lake, exchange, [clean])
    truth, found = capture_defects.binance_csv(clean), counted(lake, exchange)
    _compare(f"clean {kind}", found, truth, proof)
    reports = _gaps(lake, exchange), _reasons(lake, exchange), _doubted(lake, exchange, found)
    proof.expect(f"clean {kind}: gaps, refusals and doubted times", reports, ([], {}, []))
    days = {day for _, day in truth.days}
    lake, exchange = _lake_for(stack, folder, "binance", _TWIN_BOUNDS)
    _play(lake, exchange, [corrupted])
    account_twice(lake, [exchange], proof, f"corrupted {kind}: ")
    defects = capture_defects.expected_defects(clean, corrupted)
    wanted: dict[str, Any] = {
        "gap": sorted((one.first, one.last) for one in defects if one.found_by == "gap"),
        "quarantined": dict(Counter(_REASONS[one.found_by] for one in defects if one.found_by in _REASONS)),
        "times": sorted(one.micros / MICROS_PER_SECOND for one in defects if one.found_by == "times"),
        "day": sorted(one.day for one in defects if one.found_by == "day"),
    }
    reported = {
        "gap": sorted((first, last) for *_, first, last in _gaps(lake, exchange)),
        "quarantined": _reasons(lake, exchange),
        "times": sorted(_doubted(lake, exchange, counted(lake, exchange))),
        "day": sorted(set(_committed_days(lake, exchange)) - days),
    }
    for report, expected in wanted.items():
        proof.expect(f"corrupted {kind}: {report}", reported[report], expected)
    for defect in defects:
        proof.counts["defects_found"][defect.found_by] = proof.counts["defects_found"].get(defect.found_by, 0) + 1


# What quarantine calls the defects that are found there.
_REASONS = {"duplicate": "duplicate", "rule": "rule_violated"}


def _doubted(lake: Lake, exchange: str, found: Truth) -> list[float]:
    """Of the rows that the check `times` doubts in any partition, how late they were received. Raises ValueError when
    it does not show all of them: then the proof could not tell that there are no others."""
    late: list[float] = []
    for dataset, day in sorted(found.days):
        checks = run_checks(lake.settings, dataset, exchange, day)["checks"]
        (times,) = [one for one in checks if one["check"] == "times"]
        told = times["metadata"]
        examples = told.get("examples", [])
        if told["against_sequence"] or len(examples) != told["beyond_bounds"]:
            raise ValueError(f"{exchange} {dataset} {day}: {times['summary']}, examples {examples}")
        late += [one["received_late_seconds"] for one in examples]
    return late


def _committed_days(lake: Lake, exchange: str) -> list[str]:
    """Days into which the commits of data say that they wrote, as materializations show them."""
    database = Database(lake.settings)
    with database.begin() as connection:
        query = select(commits.c.days).where(
            commits.c.exchange == exchange, commits.c.table_name.in_([table_name(one) for one in DATASETS])
        )
        found = connection.execute(query).scalars().all()
    database.close()
    return [day for days in found for day in days]


def _gaps(lake: Lake, exchange: str) -> list[tuple[Any, ...]]:
    """Gaps of the ledger, those among them that the feed handler told of channels."""
    names = ("dataset", "symbol", "numbering", "first_sequence", "last_sequence")
    database = Database(lake.settings)
    with database.begin() as connection:
        ledger = connection.execute(select(*(gaps.c[name] for name in names)).where(gaps.c.exchange == exchange)).all()
    database.close()
    return [tuple(row) for row in ledger]


def _reasons(lake: Lake, exchange: str) -> dict[str, int]:
    return dict(Counter(table_rows(lake, "quarantine", exchange, ("reason",))["reason"].to_pylist()))


@click.command()
@click.option("--only", multiple=True, help="A recording by its name, or `twins trade`, `twins difference_depth`.")
@click.option("--home", type=click.Path(path_type=Path), help="Use the stack of this folder and leave it running.")
def main(only: tuple[str, ...], home: Path | None) -> None:
    """Prove on real recordings that what landed is what was recorded."""
    data = load_settings().sample_data
    if not data.is_dir():
        sys.exit(conclude(run(Stack(Path("none")), Path("none"), data)))
    with proof_stack(home) as stack, scratch_folder() as folder:
        proof = run(stack, folder, data, only)
    sys.exit(conclude(proof))


if __name__ == "__main__":
    main()
