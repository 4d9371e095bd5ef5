"""Draining an exchange once: what a Dagster run does, and `k2 ingest --until-caught-up` (DESIGN D7).

Its datasets take turns, so that one with much to do does not keep the others from their freshness.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from k2_dagster.errors import K2Error
from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.driven import Driven
from k2_dagster.ingest.pipeline import OnCommit
from k2_dagster.ingest.stream import StreamDrain
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import Settings

# How long an unknown schema id, or a registry that does not answer, is waited for before the run gives up.
SCHEMA_WAIT_SECONDS = 60.0
# One dataset's turn while others wait; long enough to fill a batch, short enough for the freshness of the others. Under
# a shorter cap each has its share of that: the last one would never be reached otherwise.
TURN_SECONDS = 5.0
# Pause while nothing is left to do but to wait for a schema.
IDLE_SECONDS = 0.25


@dataclass
class DrainReport:
    """What a drain did for one exchange."""

    exchange: str
    commits: int = 0
    rows: int = 0
    quarantined: int = 0
    caught_up: bool = False
    seconds: float = 0.0


def drain_exchange(
    settings: Settings,
    profiles: Profiles,
    exchange: str,
    *,
    datasets: Sequence[str] | None = None,
    cap_seconds: float | None,
    stop: threading.Event,
    run_id: str = "",
    on_commit: OnCommit | None = None,
) -> DrainReport:
    """Drain the datasets of an exchange until all are caught up with the ends seen, or the cap or stop comes.

    A dataset that fails does not keep the others from draining; its error is raised at the end. Nothing is raised for
    what was given up because of the stop.
    """
    started = time.monotonic()
    deadline = None if cap_seconds is None else started + cap_seconds
    report = DrainReport(exchange)
    with Connections.open(settings, profiles, stop) as connections:
        wanted = datasets if datasets is not None else profiles.exchange(exchange).datasets
        streams = [Driven(StreamDrain(connections, exchange, dataset, run_id), f"run {run_id}") for dataset in wanted]
        turn_seconds = TURN_SECONDS if cap_seconds is None else min(TURN_SECONDS, cap_seconds / max(1, len(streams)))
        run = _Run(streams, stop, deadline, turn_seconds, _Counting(report, on_commit))
        try:
            report.caught_up = run.drain()
        finally:
            for one in streams:
                one.stream.close()
    report.seconds = time.monotonic() - started
    for error in run.errors():
        raise error
    return report


class _Run:
    """The streams of one run, in turns."""

    def __init__(
        self,
        streams: Sequence[Driven],
        stop: threading.Event,
        deadline: float | None,
        turn_seconds: float,
        on_commit: OnCommit,
    ) -> None:
        self._streams = streams
        self._open = list(streams)
        self._stop = stop
        self._deadline = deadline
        self._turn_seconds = turn_seconds
        self._on_commit = on_commit

    def drain(self) -> bool:
        """Returns whether every stream is caught up."""
        while self._open and not self._over():
            caught_up = self._round()
            if caught_up.issuperset(self._open):
                return len(self._open) == len(self._streams)
            if all(one in caught_up or one.waits_for_schema for one in self._open):
                self._stop.wait(IDLE_SECONDS)
        return False

    def errors(self) -> list[K2Error]:
        """What keeps streams from draining, unless the run was stopped."""
        return [] if self._stop.is_set() else [one.trouble for one in self._streams if one.trouble is not None]

    def _round(self) -> set[Driven]:
        """A turn for each stream that may have one. Returns those that are caught up."""
        caught_up = set()
        for one in list(self._open):
            if self._over():
                break
            if time.monotonic() < one.ready_at:
                continue
            if one.turn(self._stop, self._turn_ends(), self._on_commit):
                caught_up.add(one)
            elif one.trouble is not None and not self._may_still_come(one):
                self._open.remove(one)
        return caught_up

    def _turn_ends(self) -> float | None:
        if len(self._open) == 1:
            return self._deadline
        ends = time.monotonic() + self._turn_seconds
        return ends if self._deadline is None else min(ends, self._deadline)

    def _may_still_come(self, one: Driven) -> bool:
        return one.waits_for_schema and time.monotonic() - one.troubled_since < SCHEMA_WAIT_SECONDS

    def _over(self) -> bool:
        return self._stop.is_set() or (self._deadline is not None and time.monotonic() > self._deadline)


@dataclass
class _Counting:
    report: DrainReport
    on_commit: OnCommit | None = None

    def __call__(self, commit: CommitReport) -> None:
        self.report.commits += 1
        self.report.rows += commit.rows
        self.report.quarantined += commit.quarantined
        if self.on_commit is not None:
            self.on_commit(commit)
