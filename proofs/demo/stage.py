"""What the demo stands on: the development stack, Dagster and an initialized exchange, brought up side by side."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg2

from k2_dagster.cli.init import initialize
from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.downloads import Store
from k2_dagster.devstack.process import wait_until
from k2_dagster.devstack.stack import Stack
from k2_dagster.devstack.state import load_state
from k2_dagster.errors import StackFailed
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings, load_settings
from proofs.demo.feed import Feed
from proofs.demo.options import Options

HOME = Path(".k2")
# Fresher than production's 60 s: below Dagster's tick of 5 s, so that each tick drains what it finds.
DEMO_SETTINGS = {"K2_FRESHNESS_TARGET_SECONDS": "4", "K2_DRAIN_MIN_ROWS": "20000"}
# Dagster needs PostgreSQL alone, which answers seconds before Kafka and the registry do.
POSTGRES_SECONDS = 120.0
# What a megabyte takes on an ordinary line.
SECONDS_PER_MEGABYTE = 0.3


class Stage:
    """Made by `up`; `say` is told of progress, from several threads."""

    settings: Settings
    profiles: Profiles

    def __init__(self, options: Options, exchange: str, say: Callable[[str], None]) -> None:
        self.options = options
        self.exchange = exchange
        self.say = say
        self.stack = Stack(HOME)
        # The installation ended when this process began, or when the last download did
        self.began = float(psutil.Process().create_time())
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dagster")
        self._ended = threading.Event()
        self._dagster: Future[DagsterParts] | None = None

    @property
    def dagster(self) -> DagsterParts:
        """Dagster, once `check` has said that it is up; waits for it."""
        assert self._dagster is not None
        return self._dagster.result()

    def up(self) -> list[dict[str, str]]:
        """Bring the stack up and initialize the exchange, while Dagster starts. Returns what `k2 init` did."""
        megabytes = missing_megabytes(Store())
        if megabytes:
            minutes = max(1.0, megabytes * SECONDS_PER_MEGABYTE / 60)
            self.say(f"downloading {megabytes:.0f} MB first (Kafka, registry): about {minutes:.0f} minute(s)")
        # Where a stack was made before, its ports may be others after it has come up
        fresh = load_state(self.stack.home) is None
        if fresh:
            self._dagster = self._pool.submit(self._start_dagster)
        self.stack.up(self._progress)
        if not fresh:
            self._dagster = self._pool.submit(self._start_dagster)
        self.settings = self._settings()
        self.profiles = load_profiles(self.settings.profiles)
        return initialize(self.settings, self.profiles, (self.exchange,))

    def feed(self) -> Feed:
        """Start the feed."""
        return Feed(self.stack.settings_environment(), self.exchange, self.options.seconds, self.options.capture)

    def check(self) -> bool:
        """Whether Dagster is up. Raises what kept it from coming up."""
        if self._dagster is None or not self._dagster.done():
            return False
        self._dagster.result()
        return True

    def since_start_seconds(self) -> float:
        """Seconds since the end of the installation."""
        return time.time() - self.began

    def end(self) -> None:
        """Take everything down, unless it is kept."""
        self._ended.set()
        self._pool.shutdown()
        if not self.options.keep:
            if load_state(self.stack.home) is not None:
                DagsterParts(HOME, self._settings()).down(purge=True)
            self.stack.down(purge=True)

    def _start_dagster(self) -> DagsterParts:
        if not wait_until(lambda: self._ended.is_set() or self._postgres_answers(), POSTGRES_SECONDS):
            raise StackFailed("PostgreSQL did not answer", advice="see its log, `k2 dev logs postgres`")
        parts = DagsterParts(HOME, self._settings())
        if not self._ended.is_set():
            parts.up(self._progress)
        return parts

    def _postgres_answers(self) -> bool:
        if load_state(self.stack.home) is None:
            return False
        try:
            psycopg2.connect(self.stack.addresses().dagster_uri.replace("+psycopg2", "", 1)).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _settings(self) -> Settings:
        return load_settings({**DEMO_SETTINGS, **self.stack.settings_environment()})

    def _progress(self, text: str) -> None:
        if text.endswith(" MB") or text.startswith(("fetching", "unpacking")):
            self.began = time.time()
        self.say(text)


def missing_megabytes(store: Store) -> float:
    """How much has to be downloaded: what is not in the cache. What is there may still turn out to be damaged."""
    missing = [
        one.bytes
        for one in store.lock
        if not (store.folder / one.set / one.file).exists()
        and not (store.folder / f"{one.set}-{one.sha256[:12]}").exists()
    ]
    return sum(missing) / 1e6
