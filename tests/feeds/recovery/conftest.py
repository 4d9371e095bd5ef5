"""An exchange whose gaps can be recovered, on the shared stack."""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka.admin import AdminClient

from k2_dagster.cli import main
from k2_dagster.cli.init import initialize
from k2_dagster.feeds.recovery.deciding import Terms
from k2_dagster.feeds.recovery.source import RecoverySource
from k2_dagster.feeds.recovery.worker import RecoveryReport, Worker
from k2_dagster.kafka.clients import client_config
from k2_dagster.kafka.registry import Registry
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.schemas.topics import subject_name, topic_name
from k2_dagster.settings import Settings, as_environment
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import GapFilter, read_gap, read_gaps
from tests.feeds.recovery.faking import SECOND
from tests.ingest.conftest import TICKS, Exchange, profile_text
from tests.ingest.helpers import START_MICROS


@dataclass
class Recoverable(Exchange):
    """An exchange with dense ticks and a profile that says what recovers them."""

    def numbers_of(self, numbers: list[int], partition: int = 0, **values: Any) -> None:
        """Publish ticks of A, a second each, and land them."""
        at = "exchange_timestamp"
        self.publish(
            [self.tick(sequence=one, **{at: START_MICROS + one * SECOND, **values}) for one in numbers], partition
        )
        self.drain()

    def work_once(self, source: RecoverySource, terms: Terms | None = None) -> RecoveryReport:
        """`k2 recover --once` with this source."""
        report, stop = RecoveryReport(self.name, "fake"), threading.Event()
        with Worker(self.settings, self.profiles, self.name, source, report=report, stop=stop, terms=terms) as worker:
            worker.once()
        return report

    def recover(self, source: RecoverySource, terms: Terms | None = None) -> RecoveryReport:
        """The same, and a drain."""
        report = self.work_once(source, terms)
        self.drain()
        return report

    def gap(self) -> dict[str, Any]:
        """The only gap, with its events."""
        with self.database.begin() as connection:
            (found,) = read_gaps(connection, GapFilter(exchange=self.name))
            gap = read_gap(connection, found["id"])
        assert gap is not None
        return gap

    def events(self) -> list[tuple[str, int | None]]:
        """What was tried for the only gap."""
        return [(one["event"], one["attempt"]) for one in self.gap()["events"]]

    def sequences(self) -> list[int]:
        return sorted(row["sequence"] for row in self.landed())

    def k2(self, *arguments: str, status: int = 0) -> str:
        """Runs `k2 ...`; returns what it says, with what it logs when it fails."""
        done = CliRunner().invoke(main, arguments, env=as_environment(self.settings))
        assert done.exit_code == status, done.output
        return done.output if status else done.stdout


MakeRecoverable = Callable[..., Recoverable]


@pytest.fixture
def make_recoverable(settings: Settings, tmp_path: Path) -> Iterator[MakeRecoverable]:
    """Makes an exchange that nothing else uses, initialised."""
    made: list[Recoverable] = []

    def make(
        stream: str = "ticks_stream",
        source: str = "binance_rest",
        url: str = "http://127.0.0.1:1",
        halt: bool = False,
        domain: str = "dense",
    ) -> Recoverable:
        name = f"t_{uuid.uuid4().hex[:20]}"
        text = profile_text(name, 1, **{stream: domain})
        text = text.replace("mark_stale", "halt") if halt else text
        path = tmp_path / f"{name}.toml"
        path.write_text(f'{text}\n[exchanges.{name}.recovery]\nsource = "{source}"\nurl = "{url}"\n')
        own = settings.model_copy(update={"profiles": path})
        profiles = load_profiles(path)
        initialize(own, profiles, (name,))
        with closing(Registry(own)) as registry:
            schema_id = registry.register(subject_name(topic_name("ticks", name)), avro_schema_text(TICKS))
        made.append(Recoverable(own, profiles, name, open_catalog(own), Database(own), schema_id))
        return made[-1]

    yield make
    for one in made:
        close_catalog(one.catalog)
        one.database.close()
        topics = [topic_name(what, one.name) for what in one.profiles.exchange(one.name).topics]
        admin = AdminClient(client_config(settings))  # its futures end with it
        for deletion in admin.delete_topics(topics).values():
            deletion.exception(20)


@pytest.fixture
def recoverable(make_recoverable: MakeRecoverable) -> Recoverable:
    """One of them."""
    return make_recoverable()


@pytest.fixture
def with_gap(recoverable: Recoverable) -> Recoverable:
    """Numbers 1 to 60 of A without 21 to 40: a gap that pages."""
    recoverable.numbers_of([one for one in range(1, 61) if not 20 < one <= 40])
    assert recoverable.gap()["level"] == "page"
    return recoverable
