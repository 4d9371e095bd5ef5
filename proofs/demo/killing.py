"""`kill -9` of a drain run that is at work, and the evidence that it was one, and that its work went on.

1. wait     for a drain run that Dagster calls STARTED and that has committed (its id is in `k2.commits`)
2. kill     the process that Dagster has noted for this run
3. confirm  Dagster calls the run FAILURE; one that had ended by itself was not killed at work, and the next is tried
4. succeed  another run commits
"""

import psutil

from k2_dagster.devstack.dagster import DagsterParts
from proofs.dagster_live import run_status, runs, worker
from proofs.demo.state import Totals


class Killer:
    """Call `step` again and again once the time has come; it says what happened."""

    def __init__(self) -> None:
        self.armed = False
        self.run: str | None = None
        self.failed = False
        self.successor: str | None = None
        self.nothing_left = False
        self._position = 0

    @property
    def done(self) -> bool:
        """A run was killed at work, and another one has committed since (or found nothing left to land)."""
        return self.failed and (self.successor is not None or self.nothing_left)

    @property
    def at_work(self) -> bool:
        """A run was killed, and the evidence is not there yet."""
        return self.run is not None and not self.done

    def step(self, dagster: DagsterParts, totals: Totals) -> list[str]:
        """One look, with the commits of now."""
        if not self.armed or self.done:
            return []
        if self.run is None:
            return self._kill(dagster, totals)
        lines = [] if self.failed else self._confirm(dagster)
        if self.run is not None and self.successor is None:
            lines += self._succeed(totals)
        return lines

    def _kill(self, dagster: DagsterParts, totals: Totals) -> list[str]:  # Steps 1 and 2
        for one in runs(dagster, "STARTED"):
            run = str(one["runId"])
            if one["jobName"] != "drain" or run not in totals.runs:
                continue
            process = worker(dagster, run)
            if process is None:
                continue
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
            self.run, self._position = run, max(totals.runs.values())
            return [f"kill -9 {process.pid}: ingest run {run[:8]}, in the middle of its work"]
        return []

    def _confirm(self, dagster: DagsterParts) -> list[str]:  # Step 3
        assert self.run is not None
        status = run_status(dagster, self.run)
        if status == "FAILURE":
            self.failed = True
            return [f"Dagster knows that run {self.run[:8]} is gone"]
        if status in ("SUCCESS", "CANCELED"):
            ended, self.run, self.successor = self.run, None, None
            return [f"run {ended[:8]} had just ended by itself: killing the next one"]
        return []

    def _succeed(self, totals: Totals) -> list[str]:  # Step 4
        later = [run for run, position in totals.runs.items() if position > self._position and run != self.run]
        if not later:
            return []
        self.successor = later[0]
        return [f"run {self.successor[:8]} commits: it went on from the fence"]
