"""`make demo`: real Kafka, registry, PostgreSQL and Dagster from packages; a simulated exchange with planted faults;
a killed ingest run; and a proof that no message is missing and none is there twice.

    DEMO_SECONDS   how long the feed runs (default 90, at least 30); Ctrl-C ends it earlier
    CAPTURE        a capture file to play instead of the simulator (docs/captures.md)
    DEMO_KEEP      0 takes the stack down at the end; so does CI
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from k2_dagster.cli.common import emit
from k2_dagster.cli.init import initialize
from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.stack import Stack
from k2_dagster.errors import K2Error
from k2_dagster.feeds.capture.formats import open_capture
from k2_dagster.query.engine import QueryEngine
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings, load_settings
from k2_dagster.verify.proof import verify
from k2_dagster.verify.report import Report
from proofs.demo.plan import KILL, SHORTEST_SECONDS, TIMELINE, closing_table, feed_options, read_truth
from proofs.demo.state import Watch
from proofs.demo.view import View, closing

HOME = Path(".k2")
EXCHANGE = "sim_crypto"
RATE_MESSAGES_PER_SECOND = 4_000
DEFAULT_SECONDS = 90
# The demo looks fresher than production's 60 s: a run starts when its oldest message is this old.
FRESHNESS_SECONDS = 5
DRAIN_MIN_ROWS = 20_000
REFRESH_SECONDS = 0.5
# After the feed has ended, every message must be in a table within this.
CATCH_UP_SECONDS = 120.0
FEED_STOP_SECONDS = 30.0

QUERY = (
    "SELECT symbol, count(*) AS trades, sum(price * volume) / sum(volume) AS vwap "
    "FROM market_data.ticks GROUP BY symbol ORDER BY trades DESC LIMIT 5"
)


@dataclass
class Demo:
    """What one demo works with."""

    stack: Stack
    dagster: DagsterParts
    settings: Settings
    profiles: Profiles
    exchange: str
    seconds: float
    capture: Path | None
    truth: Path


def main() -> int:
    """Run the demo. Returns the exit code: 0 when found is what was planted and the proof is clean."""
    seconds = max(SHORTEST_SECONDS, float(os.environ.get("DEMO_SECONDS", DEFAULT_SECONDS)))
    capture = Path(os.environ["CAPTURE"]) if os.environ.get("CAPTURE") else None
    keep = os.environ.get("DEMO_KEEP", "1") != "0" and not os.environ.get("CI")
    click.echo("The first run downloads 154 MB (Kafka, registry) beside the Python packages: about a minute.")
    stack = Stack(HOME)
    dagster: DagsterParts | None = None
    try:
        stack.up(_say)
        settings = load_settings({**_demo_environment(), **stack.settings_environment()})
        profiles = load_profiles(settings.profiles)
        exchange = open_capture(capture).exchange if capture else EXCHANGE
        emit(initialize(settings, profiles, (exchange,)), as_json=False)
        dagster = DagsterParts(HOME, settings)
        dagster.up(_say)
        with tempfile.TemporaryDirectory() as folder:
            truth = Path(folder) / "truth.jsonl"
            holds = _run(Demo(stack, dagster, settings, profiles, exchange, seconds, capture, truth))
    except K2Error as error:
        click.echo(f"\n{error}", err=True)
        holds = False
    finally:
        if not keep:
            if dagster is not None:
                dagster.down(purge=True)
            stack.down(purge=True)
    if keep:
        click.echo("\nThe stack stays up: `make down` stops it and removes its data.")
    return 0 if holds else 1


def _run(demo: Demo) -> bool:
    watch = Watch(demo.settings, demo.profiles, demo.exchange)
    feed = _start_feed(demo)
    try:
        with View(f"K2: {demo.exchange} through Kafka, Dagster and Iceberg") as view:
            _watch_feed(demo, feed, watch, view)
            caught_up = _catch_up(watch, view)
            view.event("comparing topics and tables offset by offset")
            report = verify(demo.settings, exchanges=[demo.exchange])
        return _close(demo, watch, report) and caught_up
    finally:
        _stop_feed(feed)
        watch.close()


def _watch_feed(demo: Demo, feed: "subprocess.Popen[str]", watch: Watch, view: View) -> None:
    view.event("the feed starts" if demo.capture is None else f"playing {demo.capture.name}")
    started = time.monotonic()
    waiting = list(TIMELINE)
    kill_due = False
    try:
        while feed.poll() is None:
            elapsed = time.monotonic() - started
            while waiting and elapsed >= waiting[0].at_seconds:
                moment = waiting.pop(0)
                if moment.fault is None or demo.capture is None:
                    view.event(moment.announcement)
                kill_due = kill_due or moment is KILL
            if kill_due and _kill_run(demo, view):
                kill_due = False
            view.show(watch.read())
            time.sleep(REFRESH_SECONDS)  # the rhythm of the display; nothing waits for it
    except KeyboardInterrupt:
        view.event("Ctrl-C: ending the feed; what it accepted is still delivered")
    _stop_feed(feed)
    if feed.returncode not in (0, 130):
        view.event(f"the feed ended with {feed.returncode}: {(feed.stderr.read() if feed.stderr else '')[-500:]}")


def _kill_run(demo: Demo, view: View) -> bool:
    for worker in _run_workers(demo.dagster):
        worker.kill()
        view.event(f"kill -9 {worker.pid}: the ingest run is gone; the next one goes on from the fence")
        return True
    return False


def _run_workers(dagster: DagsterParts) -> list[psutil.Process]:
    """Processes of runs: the children that the code server spawned (not its resource tracker)."""
    server = dagster.code_server.find()
    if server is None:
        return []
    try:
        return [one for one in server.children() if any("spawn_main" in part for part in one.cmdline())]
    except psutil.NoSuchProcess:
        return []


def _catch_up(watch: Watch, view: View) -> bool:
    view.event("the feed has ended; waiting until every message is in a table")
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while time.monotonic() < deadline:
        totals = watch.read()
        view.show(totals)
        if totals.lag_messages == 0:
            return True
        time.sleep(REFRESH_SECONDS)  # the rhythm of the display, with a deadline around it
    view.event(f"{watch.read().lag_messages:,} messages are still not in a table")
    return False


def _close(demo: Demo, watch: Watch, report: Report) -> bool:
    totals = watch.read()
    truth = read_truth(demo.truth.read_text().splitlines()) if demo.truth.exists() else []
    lines = closing_table(truth, watch.gaps(), totals.reasons, report.count("missing"), report.count("extra"))
    view = View("")
    view.console.print(closing(lines))
    click.echo(f"\nk2 verify: {'clean' if report.clean else 'NOT CLEAN'}: {totals.messages:,} messages,", nl=False)
    click.echo(f"{totals.rows:,} rows, {totals.quarantined:,} quarantined\n\n{QUERY}")
    with QueryEngine(demo.settings) as engine:
        emit(engine.query(QUERY).to_pylist(), as_json=False)
    click.echo("\nIn the browser:")
    for name, link in _links(demo.dagster.url).items():
        click.echo(f"  {name:32} {link}")
    k2 = Path(sys.executable).with_name("k2")
    where = f"K2_HOME={HOME} {k2.relative_to(Path.cwd()) if k2.is_relative_to(Path.cwd()) else k2}"
    click.echo(f'\nTo copy:\n  {where} query "{QUERY}"\n  {where} verify --exchange {demo.exchange}')
    return report.clean and all(line.holds for line in lines)


def _links(url: str) -> dict[str, str]:
    return {
        "partition grid of ticks": f"{url}/assets/ticks?view=partitions",
        "failing check with its range": f"{url}/assets/ticks?view=checks&checkDetail=sequence_gaps",
        "lineage": f"{url}/assets/ticks?view=lineage",
    }


def _start_feed(demo: Demo) -> "subprocess.Popen[str]":
    k2 = str(Path(sys.executable).with_name("k2"))
    if demo.capture is not None:
        command = [k2, "play", str(demo.capture), "--speed", "original"]
    else:
        options = {
            "--exchange": demo.exchange,
            "--rate": str(RATE_MESSAGES_PER_SECOND),
            "--seconds": str(demo.seconds),
            "--seed": str(int(time.time()) % 10_000),
            "--truth": str(demo.truth),
        }
        command = [k2, "simulate", *(part for pair in options.items() for part in pair), *feed_options(faults=True)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("K2_")}
    return subprocess.Popen(
        command,
        env={**environment, **demo.stack.settings_environment()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _stop_feed(feed: "subprocess.Popen[str]") -> None:
    if feed.poll() is None:
        feed.send_signal(signal.SIGINT)
        feed.wait(FEED_STOP_SECONDS)


def _demo_environment() -> dict[str, str]:
    return {
        "K2_FRESHNESS_TARGET_SECONDS": str(FRESHNESS_SECONDS),
        "K2_DRAIN_MIN_ROWS": str(DRAIN_MIN_ROWS),
    }


def _say(text: str) -> None:
    click.echo(f"  {text}")


if __name__ == "__main__":
    sys.exit(main())
