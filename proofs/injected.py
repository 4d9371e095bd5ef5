"""Plants every fault of the simulator in every sequence domain and compares what K2 reports with what was planted.

    python -m proofs.injected --seeds 3

Every planted fault must be reported (a gap with its range, a duplicate or a spoiled message with its identity, a late
row, a session), and nothing that was not planted.
"""

import json
import platform
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
from sqlalchemy import select

from k2_dagster.devstack.stack import Stack
from k2_dagster.feeds.simulator.faults import Fault, FaultPlan, FaultType
from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.feeds.simulator.simulation import Simulation, SimulationReport
from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.schemas.profiles import Domain
from k2_dagster.state.database import Database
from k2_dagster.state.tables import gaps
from proofs.accounting import account_twice
from proofs.chaos_feeds import profiles_text
from proofs.common import Lake, Proof, conclude, new_lake, new_token, proof_stack, say, scratch_folder
from proofs.planted import Reported, expected, reported_quarantine, reported_sessions

DATASETS = ("ticks", "quotes", "book")
SYMBOLS = 5
MESSAGES_PER_SECOND = 1_000.0
# No fault begins this close to the end: a gap is told only once the messages of its grace have passed.
MARGIN_SECONDS = 10.0
MOST_MESSAGES = 8
# One of each type is larger, so that gaps of more than one level are told.
LARGE_MESSAGES = 12
BATCH_ROWS = "7000"


def run(stack: Stack, folder: Path, seeds: int, first_seed: int, seconds: float) -> Proof:
    """The whole proof on a running stack."""
    proof, planted = Proof("injected"), Counter[str]()
    for seed in range(first_seed, first_seed + seeds):
        _run_seed(stack, folder, seed, seconds, proof, planted)
    proof.counts["planted"] = dict(sorted(planted.items()))
    for domain in Domain:
        for kind in FaultType:
            if not planted[f"{kind.value} in {domain.value}"]:
                proof.object_to(f"{kind.value} was never planted in the domain {domain.value}")
    proof.conditions |= {
        "seeds": [first_seed, first_seed + seeds - 1],
        "seconds_of_feed": seconds,
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return proof


def _run_seed(stack: Stack, folder: Path, seed: int, seconds: float, proof: Proof, planted: Counter[str]) -> None:
    # Two exchanges of three streams speak six domains; each seed deals them out differently
    chance, token = random.Random(seed), new_token()
    domains = chance.sample([one.value for one in Domain], len(Domain))
    streams = {
        f"inj_a_{token}": (domains[0], domains[1], domains[2]),
        f"inj_b_{token}": (domains[3], domains[4], domains[5]),
    }
    lake = new_lake(stack, folder, profiles_text(streams), list(streams), K2_INGEST_BATCH_ROWS=BATCH_ROWS)
    for exchange in streams:
        say(f"seed {seed}: {exchange} speaks {', '.join(streams[exchange])}")
        truth, simulated = _simulated(lake, exchange, seed, seconds, chance)
        for fault in simulated.unplanted:
            proof.object_to(f"seed {seed} {exchange}: asked for and not planted: {fault}")
        profile, late = lake.profiles.exchange(exchange), Counter[str]()

        def count_late(report: CommitReport, late: Counter[str] = late) -> None:
            late[report.dataset] += int(report.counts["late"])

        drain_exchange(
            lake.settings, lake.profiles, exchange, cap_seconds=None, stop=threading.Event(), on_commit=count_late
        )
        for line in truth:
            planted[f"{line['type']} in {line['domain']}"] += 1
        wanted = expected(truth, profile, simulated.publisher_session)
        _compare(lake, exchange, seed, wanted, truth, late, proof)
    account_twice(lake, list(streams), proof, f"seed {seed}: ")


def _simulated(
    lake: Lake, exchange: str, seed: int, seconds: float, chance: random.Random
) -> tuple[list[dict[str, Any]], SimulationReport]:
    """Publish a run with every type of fault in every stream; returns its ground truth and its report."""
    latest = seconds - MARGIN_SECONDS
    faults = [
        Fault(
            kind,
            1 if kind.of_stream else count,
            at_seconds=chance.uniform(1.0, latest),
            dataset=dataset,
        )
        for dataset in DATASETS
        for kind in FaultType
        for count in ((2,) if kind.of_stream else (chance.randint(2, MOST_MESSAGES), LARGE_MESSAGES))
    ]
    start = time.time_ns() // 1000 - int(seconds * 1_000_000)
    parameters = FeedParameters(
        exchange, SYMBOLS, MESSAGES_PER_SECOND, seed, start, seconds, plan=FaultPlan(tuple(faults), seed=seed)
    )
    path = lake.folder / f"{exchange}.jsonl"
    simulation = Simulation(lake.settings, lake.profiles, parameters, flat_out=True, stop=threading.Event(), truth=path)
    report = simulation.run()
    return [json.loads(line) for line in path.read_text().splitlines()], report


def _compare(
    lake: Lake,
    exchange: str,
    seed: int,
    wanted: Reported,
    truth: list[dict[str, Any]],
    late: Counter[str],
    proof: Proof,
) -> None:
    in_ledger, of_channels = _reported_gaps(lake, exchange)
    proof.expect(f"seed {seed} {exchange}: channel gaps in the ledger", of_channels, wanted.channel_gaps)
    found = Reported(
        gaps=in_ledger,
        late=+late,
        quarantined=reported_quarantine(lake, exchange, truth),
        **reported_sessions(lake, exchange),
    )
    for name in ("gaps", "late", "quarantined", "channel_gaps", "sessions", "schema_versions"):
        there, planted = getattr(found, name), getattr(wanted, name)
        for missing in (planted - there).items():
            proof.object_to(f"seed {seed} {exchange}: {name}: planted and not reported: {missing}")
        for invented in (there - planted).items():
            proof.object_to(f"seed {seed} {exchange}: {name}: reported and not planted: {invented}")
        key = f"reported_{name}"
        proof.counts[key] = proof.counts.get(key, 0) + there.total()


def _reported_gaps(lake: Lake, exchange: str) -> tuple[Counter[tuple[Any, ...]], Counter[tuple[Any, ...]]]:
    """Gaps of symbols, and those of channels (by channel, session, first and last number)."""
    names = ("dataset", "numbering", "session", "symbol", "first_sequence", "last_sequence", "level", "state")
    of_channel = select(gaps.c.channel, gaps.c.session, gaps.c.first_sequence, gaps.c.last_sequence)
    database = Database(lake.settings)
    with database.begin() as connection:
        mine, is_channel = gaps.c.exchange == exchange, gaps.c.numbering == "channel"
        rows = connection.execute(select(*(gaps.c[name] for name in names)).where(mine, ~is_channel)).all()
        told = connection.execute(of_channel.where(mine, is_channel)).all()
    database.close()
    return Counter(tuple(row) for row in rows), Counter(tuple(row) for row in told)


@click.command()
@click.option("--seeds", default=3, show_default=True, help="How many runs, each with its domains dealt out anew.")
@click.option("--seed", "first_seed", default=1, show_default=True, help="The first of them.")
@click.option(
    "--seconds", default=90.0, show_default=True, help="Length of each feed in event time, published flat out."
)
@click.option("--home", type=click.Path(path_type=Path), help="Use the stack of this folder and leave it running.")
def main(seeds: int, first_seed: int, seconds: float, home: Path | None) -> None:
    """Prove that every planted fault is reported, and none is invented."""
    with proof_stack(home) as stack, scratch_folder() as folder:
        proof = run(stack, folder, seeds, first_seed, seconds)
    sys.exit(conclude(proof))


if __name__ == "__main__":
    main()
