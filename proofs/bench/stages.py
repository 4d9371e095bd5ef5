"""Where the processor time of the full path goes: its functions are wrapped from outside, the product has no timers.

Time is per thread and exclusive: what a wrapped function spends in another wrapped one counts there only. Other
threads (librdkafka's, Arrow's, Polars', PyIceberg's readers of manifests) are what is left of the process's time.
"""

import functools
import importlib
import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from k2_dagster.devstack.process import Progress
from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.stream import StreamDrain
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.schemas.ticks import TICKS
from k2_dagster.settings import Settings, load_settings
from proofs.bench.results import Measure, conditions
from proofs.bench.setting import Bench, Topics
from proofs.bench.sides import environment_of

# stage -> the functions that are it, as module:attribute. A name that another module imported is wrapped there.
_INGEST = "k2_dagster.ingest"
STAGES: dict[str, tuple[str, ...]] = {
    "read: gather": ("k2_dagster.kafka.exact:ExactReader.read",),
    "read: poll": ("k2_dagster.kafka.plain:PlainClient.poll", "k2_dagster.kafka.native:NativeClient.poll"),
    "read: columns": ("k2_dagster.kafka.plain:_append", "k2_dagster.kafka.native:NativeClient._take"),
    "decode: framing": (f"{_INGEST}.decode:frame",),
    "decode: Avro": (f"{_INGEST}.avro_kernel:read",),
    "decode: arrays": (f"{_INGEST}.avro_decode:read", f"{_INGEST}.avro_decode:AvroDecoder.decode"),
    "decode: project": (f"{_INGEST}.decode:Decoder.decode",),
    "validate: codes": (f"{_INGEST}.rules:encode",),
    "validate: Pandera": (
        f"{_INGEST}.rules:Validator._check_numbers",
        f"{_INGEST}.rules:Validator._check_texts",
        f"{_INGEST}.rules:Validator._check_levels",
    ),
    "validate: the rest": (f"{_INGEST}.rules:Validator.check",),
    "sequence: kernel": (f"{_INGEST}.kernel:judge",),
    "sequence: the rest": (f"{_INGEST}.tracker:Tracker.judge",),
    "build: sort": (f"{_INGEST}.rows:file_order",),
    "build: columns": (f"{_INGEST}.rows:by_day",),
    "account: ranges, digests": (f"{_INGEST}.batch:committed_ranges",),
    "account: ledger, quarantine, state": (
        f"{_INGEST}.batch:ledger_changes",
        f"{_INGEST}.batch:quarantine_table",
        f"{_INGEST}.batch:first_seen",
        f"{_INGEST}.tracker:Tracker.dump",
    ),
    "judge: the rest": (f"{_INGEST}.batch:BatchJudge.judge",),
    "write: Parquet": (f"{_INGEST}.commit:Committer._write",),
    "commit: quarantine": (
        f"{_INGEST}.commit:Committer._commit_quarantine",
        f"{_INGEST}.commit:Committer._write_quarantine",
    ),
    "commit: attempt": (f"{_INGEST}.commit:insert_attempt",),
    "commit: append": (f"{_INGEST}.commit:fenced_append",),
    "commit: settle": (f"{_INGEST}.commit:settle",),
    "commit: expiry": (f"{_INGEST}.commit:Committer._expire",),
    "commit: the rest": (f"{_INGEST}.commit:Committer.commit",),
}
OTHER_THREADS = "other threads (librdkafka, Arrow, Polars, manifests)"


class StageTimes:
    """Exclusive thread time per stage, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._open = threading.local()

    def install(self, stages: dict[str, tuple[str, ...]]) -> None:
        """Wrap the functions of the stages, for the rest of this process."""
        for stage, places in stages.items():
            for place in places:
                module_name, path = place.split(":")
                *owners, name = path.split(".")
                owner = functools.reduce(getattr, owners, importlib.import_module(module_name))
                setattr(owner, name, self._wrapped(stage, getattr(owner, name)))

    def reset(self) -> None:
        """Forget what was measured."""
        with self._lock:
            self.seconds.clear()

    def _wrapped(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            inner: list[float] = getattr(self._open, "inner", None) or []
            self._open.inner = inner
            inner.append(0.0)
            began = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                spent = time.thread_time() - began
                own = spent - inner.pop()
                if inner:
                    inner[-1] += spent
                with self._lock:
                    self.seconds[stage] += own

        return timed


def measure_stages(bench: Bench, messages: int, progress: Progress) -> list[Measure]:
    """CPU nanoseconds per message of each stage, with either reader, each in a process of its own."""
    topics = bench.topics(messages, seed=8)
    out = []
    for reader in ("plain", "native"):
        with bench.lake(topics.profiles, ingest_reader=reader) as settings:
            found = run_apart("proofs.bench.stages", settings, topics)
        cpu = 1e9 * found["cpu_seconds"] / found["messages"]
        progress(f"{reader}: {cpu:,.0f} ns of CPU per message")
        facts = conditions(messages=found["messages"], reader=reader, cpu_nanoseconds=cpu, seconds=found["seconds"])
        out += [
            Measure(f"stages, {reader}: {stage}", spent, "ns/row", "all stages", spent / cpu, conditions=facts)
            for stage, spent in found["nanoseconds"].items()
        ]
    return out


def run_apart(module: str, settings: Settings, topics: Topics) -> dict[str, Any]:
    """What the module says of a drain of the topic, in a process of its own: one JSON object. Raises RuntimeError."""
    done = subprocess.run(
        [sys.executable, "-m", module, topics.exchange, topics.warm_up],
        env=environment_of(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def account(exchange: str, warm_up: str) -> dict[str, Any]:
    """Drain a topic under the wrappers: stage -> CPU nanoseconds per message, beside messages, seconds, CPU seconds."""
    settings = load_settings()
    times = StageTimes()
    times.install(STAGES)
    drain(settings, warm_up)
    times.reset()
    wall, cpu = time.perf_counter(), time.process_time()
    messages = drain(settings, exchange)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    seconds = {stage: times.seconds.get(stage, 0.0) for stage in STAGES}
    seconds[OTHER_THREADS] = cpu - sum(seconds.values())
    return {
        "messages": messages,
        "seconds": wall,
        "cpu_seconds": cpu,
        "nanoseconds": {stage: 1e9 * spent / messages for stage, spent in seconds.items()},
    }


def drain(settings: Settings, exchange: str) -> int:
    """Drain the exchange's ticks; returns how many messages there were."""
    messages = 0

    def note(commit: CommitReport) -> None:
        nonlocal messages
        messages += commit.rows + commit.quarantined

    with Connections.open(settings, load_profiles(settings.profiles)) as connections:
        stream = StreamDrain(connections, exchange, TICKS.name, "")
        try:
            stream.drain(threading.Event(), None, note)
        finally:
            stream.close()
    return messages


if __name__ == "__main__":
    sys.stdout.write(json.dumps(account(*sys.argv[1:3])) + "\n")
