"""Every fault of the simulator in every sequence domain leaves exactly the ledger rows of its ground truth.

    python -m proofs.scenarios --seeds 100 --seed 1

In one process, without Kafka and Iceberg: see docs/proofs.md.
"""

import platform
import sys
import time
from collections import Counter
from typing import Any

import click

from k2_dagster.feeds.simulator.faults import FaultType
from k2_dagster.schemas.profiles import Domain
from k2_dagster.state.database import Database
from proofs.common import Proof, conclude, say
from proofs.scenarios.asked import Scenario, scenario
from proofs.scenarios.database import throwaway_database
from proofs.scenarios.expected import Expected
from proofs.scenarios.ingesting import Ingest, Landed
from proofs.scenarios.reported import reported
from proofs.scenarios.rows import Row
from proofs.scenarios.sending import AGAIN, Run, sent
from proofs.scenarios.wanted import PUBLISHER, landing, touching, views

# Differences of one seed that are spelled out.
SHOWN_PER_SEED = 4
# From so many seeds on, every type must have been planted in every domain.
COVERING_SEEDS = 40
SAID_EVERY = 50


def run(database: Database, seeds: int, first_seed: int) -> Proof:
    """The whole proof on a control database."""
    proof, planted, rows, done = Proof("scenarios"), Counter[str](), Counter[str](), Counter[str]()
    began = time.process_time()
    for seed in range(first_seed, first_seed + seeds):
        _run_seed(database, scenario(seed), proof, planted, rows, done)
        if (seed - first_seed + 1) % SAID_EVERY == 0:
            say(f"{seed - first_seed + 1} of {seeds} seeds: {rows.total()} rows of the ledger")
    covered = [f"{kind.value} in {domain.value}" for domain in Domain for kind in FaultType]
    for name in covered if seeds >= COVERING_SEEDS else ():
        if not planted[name]:
            proof.object_to(f"never planted: {name}")
    proof.counts |= {
        "planted": dict(sorted(planted.items())),
        "ledger_rows": dict(sorted(rows.items())),
        **dict(sorted(done.items())),
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    proof.conditions |= {
        "seeds": [first_seed, first_seed + seeds - 1],
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return proof


def _run_seed(
    database: Database, asked: Scenario, proof: Proof, planted: Counter[str], rows: Counter[str], done: Counter[str]
) -> None:
    feed = sent(asked)
    if _ambiguous(asked, feed):
        done["set_aside"] += 1
        return
    done["seeds_compared"] += 1
    landed = [Ingest(asked, feed.kafka, topic, database).run() for topic in feed.kafka.topics.values()]
    for one in landed:
        done.update(one.done)
    done["messages"] += sum(len(topic.messages) for topic in feed.kafka.topics.values())
    done["unplanted"] += feed.unplanted
    done["brought_again"] += sum(one.state == AGAIN for topic in feed.kafka.topics.values() for one in topic.messages)
    for line in feed.truth:
        planted[f"{line['type']} in {line['domain']}"] += 1
    findings = [*_misplaced(feed, landed)]
    wanted, found = Expected(asked, feed, landed).build(), reported(database, asked.exchange, landed)
    for table in wanted:
        rows.update(_kinds(table, found[table]))
        findings += [f"{table}: planted and not in the ledger: {dict(one)}" for one in wanted[table] - found[table]]
        findings += [f"{table}: in the ledger and not planted: {dict(one)}" for one in found[table] - wanted[table]]
    for finding in findings[:SHOWN_PER_SEED]:
        proof.object_to(f"seed {asked.seed}: {finding}")
    proof.findings += [f"seed {asked.seed}: {one}" for one in findings[SHOWN_PER_SEED:]]


def _kinds(table: str, rows: Counter[Row]) -> Counter[str]:
    """How many rows of each kind a table has, so that a proof of nothing would show."""
    by = {"gaps": ("level", "state"), "holes": ("cause",), "intervals": ("is_open",), "gap_events": ("event",)}
    out: Counter[str] = Counter()
    for one, times in rows.items():
        values = dict(one)
        out[" ".join([table, *(f"{name}={values[name]}" for name in by.get(table, ()))])] += times
    return out


def _ambiguous(asked: Scenario, feed: Run) -> bool:
    grace = asked.profile.gap_grace_messages
    return any(touching(view, feed.truth, grace) for view in views(asked, feed) if view.numbering == PUBLISHER)


def _misplaced(feed: Run, landed: list[Landed]) -> list[str]:
    """Messages that are not exactly where their state says: a row once, or in quarantine once for a fitting reason."""
    by_name = {one.dataset: one for one in landed}
    out, counted = [], Counter[str]()
    refused: dict[str, dict[tuple[int, int], list[str]]] = {}
    for one in landed:
        for (partition, offset, reason), times in one.refused.items():
            refused.setdefault(one.dataset, {}).setdefault((partition, offset), []).extend([reason] * times)
    for dataset, message, reasons in landing(feed.kafka.topics.values()):
        place = message.partition, message.offset
        found: list[Any] = refused.get(dataset, {}).get(place, [])
        rows = by_name[dataset].places[place]
        counted[dataset] += 1
        if (rows, len(found)) != (int(not reasons), int(bool(reasons))) or any(one not in reasons for one in found):
            out.append(f"{dataset} {place} is {message.state}: {rows} rows, in quarantine for {found}")
    more = [one for one in landed if one.places.total() + one.refused.total() != counted[one.dataset]]
    return [*out, *(f"{one.dataset}: more places than the {counted[one.dataset]} messages" for one in more)]


@click.command()
@click.option("--seeds", default=100, show_default=True, type=click.IntRange(1), help="How many scenarios.")
@click.option("--seed", "first_seed", default=1, show_default=True, help="The first of them.")
def main(seeds: int, first_seed: int) -> None:
    """Prove that the ledger says what was planted, and nothing else."""
    with throwaway_database() as database:
        proof = run(database, seeds, first_seed)
    sys.exit(conclude(proof))


if __name__ == "__main__":
    main()
