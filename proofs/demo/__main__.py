"""`make demo`: real Kafka, registry, PostgreSQL and Dagster from packages; a simulated exchange with planted faults;
a killed ingest run; and a proof that no message is missing and none is there twice.

    DEMO_SECONDS   how long the feed runs (default 90, from 30); Ctrl-C ends it earlier
    CAPTURE        a capture file to play instead of the simulator (docs/captures.md)
    DEMO_KEEP      0 takes the stack down at the end; so does CI

Exit status 0: found is what was planted and the proof is clean; 1: not so; 130: interrupted before there was a proof.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from k2_dagster.cli.check import run_checks
from k2_dagster.cli.init import show
from k2_dagster.errors import K2Error
from k2_dagster.feeds.capture.formats import open_capture
from k2_dagster.verify.proof import verify
from proofs.demo.closing import Outcome, ask, point, tell
from proofs.demo.feed import Feed
from proofs.demo.killing import Killer
from proofs.demo.news import News
from proofs.demo.options import Options, read_options
from proofs.demo.plan import EXCHANGE, KILL, TIMELINE, due, seconds_until_told
from proofs.demo.stage import Stage
from proofs.demo.state import Totals, Watch
from proofs.demo.view import View

# A look reads four tables' metadata and asks Kafka; more often, it would slow down what it shows.
REFRESH_SECONDS = 1.0
# While a run is to be killed in the middle of its work, which may be over in two seconds.
HUNT_SECONDS = 0.1
# After the feed has ended, every message must be in a table within this.
CATCH_UP_SECONDS = 120.0
INTERRUPTED = 130


def main() -> int:
    """Run the demo. Returns the exit status."""
    try:
        options = read_options(os.environ)
        # before anything is downloaded for it
        exchange = open_capture(options.capture).exchange if options.capture is not None else EXCHANGE
    except K2Error as error:
        click.echo(str(error), err=True)
        return 1
    stage = Stage(options, exchange, _say)
    try:
        return _run(stage, options)
    except K2Error as error:
        click.echo(f"\n{error}", err=True)
        return 1
    except KeyboardInterrupt:
        click.echo("\ninterrupted before there was anything to prove", err=True)
        return INTERRUPTED
    finally:
        _end(stage)


def _run(stage: Stage, options: Options) -> int:
    what = "the simulator" if options.capture is None else options.capture.name
    click.echo(f"The feed ({what}) runs for {options.seconds:.0f} s (DEMO_SECONDS); Ctrl-C ends it earlier.")
    show(stage.up())
    watch, feed = Watch(stage.settings, stage.profiles, stage.exchange), stage.feed()
    try:
        with View(f"K2: {stage.exchange} through Kafka, Dagster and Iceberg") as view:
            stage.say = view.event
            outcome = Play(stage, watch, feed, view).outcome()
        tell(outcome, view)
        if outcome.totals.rows:
            ask(stage.settings, stage.exchange)
        if options.keep:
            k2 = Path(sys.executable).with_name("k2")
            point(stage.dagster.url, stage.exchange, watch.newest_day(), k2)
    finally:
        stage.say = _say
        feed.close()
        watch.close()
    return INTERRUPTED if outcome.report is None else 0 if outcome.holds() else 1


class Play:
    """The demo from the first message to the verdict. Ctrl-C ends the act it comes in; the closing follows."""

    def __init__(self, stage: Stage, watch: Watch, feed: Feed, view: View) -> None:
        self.stage = stage
        self.watch = watch
        self.feed = feed
        self.view = view
        self.news = News()
        self.killer = Killer()
        self._began: float | None = None

    def outcome(self) -> Outcome:
        """Play it."""
        interrupted = False
        try:
            self._feed()
        except KeyboardInterrupt:
            interrupted = True
            self.view.event("Ctrl-C: ending the feed; what it accepted is still delivered")
        report, caught_up, checks = None, False, []
        try:
            if interrupted:
                self._let_the_gap_be_told()
            self.feed.stop()
            if problem := self.feed.problem():
                self.view.event(problem)
            caught_up = self._catch_up()
            self.view.event("comparing topics and tables, offset by offset")
            report = verify(self.stage.settings, exchanges=[self.stage.exchange])
            checks = self._check()
        except KeyboardInterrupt:
            self.view.event("Ctrl-C: not waiting for the proof")
        return Outcome(
            self.watch.read(), self.watch.gaps(), self.feed.truth(), self.killer, self.news.first_rows_seconds,
            report, caught_up, interrupted, checks,
        )  # fmt: skip

    def _feed(self) -> None:
        self.view.event("the feed starts, while Dagster does")
        waiting = list(TIMELINE)
        while self.feed.runs:
            totals = self._look()
            if self._began is None and totals.messages:
                self._began = time.monotonic()
            elapsed = self._elapsed_seconds()
            for moment in due(waiting, elapsed):
                self.killer.armed = self.killer.armed or moment is KILL
                if moment is KILL or self.feed.plants:
                    self.view.event(moment.announcement)
            if elapsed >= self.stage.options.seconds and not self.feed.plants:
                self.view.event(f"{self.stage.options.seconds:.0f} s of the capture were played")
                return
            self._hunt(REFRESH_SECONDS)

    def _elapsed_seconds(self) -> float:
        """Since the feed's first message."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def _let_the_gap_be_told(self) -> None:
        """One that was planted a moment ago is still within its grace, and would be called not found."""
        if self.feed.plants and seconds_until_told(self._elapsed_seconds()):
            self.view.event("the gap that was planted is within its grace: some seconds more")
            while self.feed.runs and seconds_until_told(self._elapsed_seconds()):
                self._look()
                self._hunt(REFRESH_SECONDS)

    def _catch_up(self) -> bool:
        self.view.event("the feed has ended; waiting until every message is in a table")
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while time.monotonic() < deadline:
            totals = self._look()
            # of a capture, the killed run may have landed the end
            self.killer.nothing_left = totals.lag_messages == 0 and not self.feed.plants
            if totals.lag_messages == 0 and self.stage.check() and not self.killer.at_work:
                return True
            self._hunt(REFRESH_SECONDS)
        self.view.event(f"{self.watch.read().lag_messages:,} messages are still not in a table")
        return False

    def _look(self) -> Totals:
        self.stage.check()
        totals = self.watch.read()
        self.view.show(totals)
        for line in self.news.of(totals, self.watch.gaps(), self.stage.since_start_seconds()):
            self.view.event(line)
        return totals

    def _hunt(self, seconds: float) -> None:
        """Wait for the next look, with the eyes on the run that is to be killed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.killer.armed and not self.killer.done and self.stage.check():
                for line in self.killer.step(self.stage.dagster, self.watch.commits()):
                    self.view.event(line)
            time.sleep(HUNT_SECONDS)  # the rhythm of the display, with a deadline around it

    def _check(self) -> list[dict[str, Any]]:
        """The checks of the newest day of ticks, so that the links show them as they are now."""
        self.view.event("running the checks of ticks")
        day = self.watch.newest_day()
        return list(run_checks(self.stage.settings, "ticks", self.stage.exchange, day)["checks"])


def _end(stage: Stage) -> None:
    try:
        stage.end()
    except K2Error as error:
        click.echo(str(error), err=True)
    except KeyboardInterrupt:
        click.echo("interrupted: `make down` takes down what is still up", err=True)
        return
    if stage.options.keep:
        click.echo("\nThe stack stays up: `make down` stops it and removes its data.")


def _say(text: str) -> None:
    click.echo(f"  {text}")


if __name__ == "__main__":
    sys.exit(main())
