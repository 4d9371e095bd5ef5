"""What sequence tracking and the coverage ledger cost, as a share of the processor time of ingest.

Counted is everything that would not be done without them: the tracker's input, its verdicts, what they say to the
ledger, the tracker's state as bytes, and the fold into PostgreSQL. The wrapping is that of `stages`.
"""

import json
import sys
import time
from typing import Any

from k2_dagster.devstack.process import Progress
from k2_dagster.settings import load_settings
from proofs.bench.results import Measure, conditions
from proofs.bench.setting import Bench
from proofs.bench.stages import StageTimes, drain, run_apart

_INGEST = "k2_dagster.ingest"
PARTS: dict[str, tuple[str, ...]] = {
    "input": (f"{_INGEST}.batch:BatchJudge._input",),
    "verdicts": (f"{_INGEST}.tracker:Tracker.judge",),
    "changes": (f"{_INGEST}.batch:BatchJudge._ledger",),
    "state": (f"{_INGEST}.tracker:Tracker.dump",),
    "fold": ("k2_dagster.state.attempts:fold_changes",),
}
MOST_SHARE = 0.10
SEED = 9


def measure_sequence(bench: Bench, messages: int, progress: Progress) -> list[Measure]:
    """The share with either reader, each in a process of its own."""
    topics = bench.topics(messages, seed=SEED)
    out = []
    for reader in ("plain", "native"):
        with bench.lake(topics.profiles, ingest_reader=reader) as settings:
            found = run_apart("proofs.bench.sequence", settings, topics)
        spent = sum(found["seconds"].values())
        share = spent / found["cpu_seconds"]
        progress(f"{reader}: {share:.1%} of {1e9 * found['cpu_seconds'] / found['messages']:,.0f} ns per message")
        nanoseconds = {name: round(1e9 * one / found["messages"], 1) for name, one in found["seconds"].items()}
        facts = conditions(
            messages=found["messages"], reader=reader, cpu_seconds=found["cpu_seconds"], parts=nanoseconds
        )
        out.append(
            Measure(
                f"sequence and ledger, {reader}", 1e9 * spent / found["messages"], "ns/row", "all of ingest", share,
                f"<= {MOST_SHARE:.0%} of ingest", share <= MOST_SHARE, facts,
            )
        )  # fmt: skip
    return out


def account(exchange: str, warm_up: str) -> dict[str, Any]:
    """Drain a topic under the wrappers: CPU seconds of each part, beside messages and CPU seconds of the process."""
    settings, times = load_settings(), StageTimes()
    times.install(PARTS)
    drain(settings, warm_up)
    times.reset()
    cpu = time.process_time()
    messages = drain(settings, exchange)
    cpu = time.process_time() - cpu
    seconds = {name: times.seconds.get(name, 0.0) for name in PARTS}
    never = [name for name in PARTS if name not in times.seconds]
    if never:
        # what is not measured would count as free
        raise RuntimeError(f"these were never called: {', '.join(never)}")
    return {"messages": messages, "cpu_seconds": cpu, "seconds": seconds}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(account(*sys.argv[1:3])) + "\n")
