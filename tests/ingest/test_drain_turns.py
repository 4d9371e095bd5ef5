"""One run drains all datasets of an exchange in turns: none starves, none that fails keeps the others."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Producer

from k2_dagster.errors import SchemaUnknown, TerminalError
from k2_dagster.ingest import drain as drain_module
from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.drain import DrainReport, drain_exchange
from k2_dagster.kafka.clients import producer_config
from k2_dagster.observability import points
from k2_dagster.settings import Settings
from k2_dagster.state.stream_states import read_states
from tests.dagster_support import Market, make_market
from tests.ingest.helpers import framed

pytestmark = pytest.mark.stack


@pytest.fixture
def market(settings: Settings, tmp_path: Path) -> Iterator[Market]:
    """One exchange with many messages on every topic."""
    made = make_market(settings.model_copy(update={"ingest_batch_rows": 300}), tmp_path)
    made.publish(made.exchange, 15_000)
    yield made
    made.platform.close()
    points.arm(None)


def drain(market: Market, commits: list[CommitReport], **others: Any) -> DrainReport:
    known = {"cap_seconds": 120.0, "stop": threading.Event(), "on_commit": commits.append, **others}
    return drain_exchange(market.settings, market.platform.profiles, market.exchange, **known)


def test_every_dataset_gets_its_turn_before_the_first_is_done(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "TURN_SECONDS", 0.2)
    commits: list[CommitReport] = []
    report = drain(market, commits)
    assert report.caught_up
    order = [one.dataset for one in commits]
    last_of_the_largest = max(range(len(order)), key=lambda at: (order.count(order[at]), at))
    assert {"ticks", "quotes", "book"} <= set(order[:last_of_the_largest])
    changes = sum(one != other for one, other in itertools.pairwise(order))
    assert changes > 4
    assert all(one.lag_messages == 0 for one in {one.dataset: one for one in commits}.values())


def test_the_cap_ends_a_run_behind_the_commits_in_hand(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cap comes when all datasets have had a turn: how long that takes is the machine's business."""
    cap_seconds = 500.0
    ahead_seconds, hurried_at = 0.0, 0
    monkeypatch.setattr(drain_module, "TURN_SECONDS", 0.1)
    monkeypatch.setattr(drain_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead_seconds))
    commits: list[CommitReport] = []

    def hurry(commit: CommitReport) -> None:
        nonlocal ahead_seconds, hurried_at
        commits.append(commit)
        if not hurried_at and {"ticks", "quotes", "book"} <= {one.dataset for one in commits}:
            ahead_seconds, hurried_at = cap_seconds, len(commits)

    report = drain(market, [], cap_seconds=cap_seconds, on_commit=hurry)
    assert not report.caught_up
    assert {one.dataset for one in commits[hurried_at - 1 :]} == {commits[-1].dataset}, "no turn begins behind the cap"
    assert drain(market, commits).caught_up


def test_a_dataset_without_its_schema_does_not_keep_the_others(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "SCHEMA_WAIT_SECONDS", 1.0)
    producer = Producer(producer_config(market.settings))
    producer.produce(f"market.control.{market.exchange}", framed(999_999, b"x"), b"key", 0)
    assert producer.flush(20) == 0
    commits: list[CommitReport] = []
    began = time.monotonic()
    with pytest.raises(SchemaUnknown, match=f"market.control.{market.exchange} partition 0 offset"):
        drain(market, commits)
    assert time.monotonic() - began < 30.0
    assert {"ticks", "quotes", "book"} <= {one.dataset for one in commits}
    (found,) = read_states(market.platform.database).items()
    assert found[0] == (market.exchange, "control")
    assert found[1].condition == "waiting"


def test_an_unexpected_error_is_raised_behind_what_the_others_did(market: Market) -> None:
    raised: list[str] = []

    def break_once(point: str) -> None:
        if point == "files.written" and not raised:
            raised.append(point)
            raise RuntimeError("nobody thought of this")

    points.arm(break_once)
    commits: list[CommitReport] = []
    with pytest.raises(TerminalError, match="unexpected RuntimeError: nobody thought of this"):
        drain(market, commits)
    assert len({one.dataset for one in commits}) >= 2


def test_a_stop_ends_a_run_behind_the_commit_in_hand_and_raises_nothing(market: Market) -> None:
    stop, commits = threading.Event(), []

    def stop_soon(report: CommitReport) -> None:
        commits.append(report)
        if len(commits) == 3:
            stop.set()

    report = drain(market, [], stop=stop, on_commit=stop_soon)
    assert (report.caught_up, report.commits) == (False, 3)
    assert drain(market, []).caught_up
