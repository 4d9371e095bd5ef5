"""Where the measures run: a development stack of their own, and a fresh lake for every round."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg2 import sql

from k2_dagster.devstack.postgres import PostgresServer
from k2_dagster.devstack.process import Progress
from k2_dagster.devstack.stack import Stack
from k2_dagster.devstack.state import load_state
from k2_dagster.kafka.subjects import register_all
from k2_dagster.kafka.topics import ensure_topics
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.lake.tables import ensure_tables
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings, load_settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import upgrade
from proofs.bench.workload import Planted, fill, write_profiles

# Enough to compile, load and touch everything once before a side's clock starts.
WARM_UP_MESSAGES = 30_000
KEPT_STACK = "BENCH_STACK_HOME"


@dataclass(frozen=True)
class Topics:
    """The topic that is measured, and a small one to warm up on. Exchanges of `profiles`."""

    exchange: str
    warm_up: str
    profiles: Path
    planted: Planted


@dataclass(frozen=True)
class Bench:
    """A running stack."""

    stack: Stack
    folder: Path

    def settings(self, **own: str) -> Settings:
        """Settings for the stack, with `own` (names without prefix) over them."""
        return load_settings(
            self.stack.settings_environment() | {f"K2_{name.upper()}": text for name, text in own.items()}
        )

    @contextmanager
    def lake(self, profiles: Path, **own: str) -> Iterator[Settings]:
        """Settings with a new catalog database and warehouse, ready for ingest; both are removed at the end."""
        name = f"bench_{uuid.uuid4().hex[:12]}"
        warehouse = self.folder / name
        settings = self.settings(
            catalog_uri=self.stack.create_database(name),
            warehouse=f"file://{warehouse}",
            profiles=str(profiles),
            log_level="ERROR",
            **own,
        )
        try:
            _initialize(settings)
            yield settings
        finally:
            shutil.rmtree(warehouse, ignore_errors=True)
            self.drop(name)

    def topics(self, messages: int, seed: int) -> Topics:
        """Make and fill the topics of a measure."""
        names = [f"bench_{uuid.uuid4().hex[:8]}" for _ in range(2)]
        path = write_profiles(self.folder / f"{names[0]}.toml", names)
        profiles = load_profiles(path)
        settings = self.settings()
        _make_topics(settings, profiles, names)
        fill(settings, names[1], WARM_UP_MESSAGES, seed + 1)
        return Topics(names[0], names[1], path, fill(settings, names[0], messages, seed))

    def drop(self, name: str) -> None:
        """Remove a database of the stack."""
        state = load_state(self.stack.home)
        if state is None:
            return
        with closing(PostgresServer(self.stack.home, state).connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def open_bench(progress: Progress) -> Iterator[Bench]:
    """A stack for the measures. With BENCH_STACK_HOME set it is that folder's, and is left running."""
    kept = os.environ.pop(KEPT_STACK, None)
    home = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="k2-bench-"))
    stack = Stack(home)
    try:
        stack.up(progress)
        folder = Path(tempfile.mkdtemp(prefix="lakes-", dir=stack.home))
        try:
            yield Bench(stack, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        if not kept:
            stack.down(purge=True)
            shutil.rmtree(home, ignore_errors=True)


def _initialize(settings: Settings) -> None:
    with closing(Database(settings)) as database:
        upgrade(database)
    catalog = open_catalog(settings)
    try:
        ensure_tables(catalog)
    finally:
        close_catalog(catalog)


def _make_topics(settings: Settings, profiles: Profiles, names: list[str]) -> None:
    ensure_topics(settings, profiles, names)
    register_all(settings, profiles, names)
