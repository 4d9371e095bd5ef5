"""Feeds that tests run: a plan against a local venue, until a report says that it is enough."""

import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro

from k2_dagster.feeds.live.backoff import Backoff
from k2_dagster.feeds.live.feed import feed
from k2_dagster.feeds.live.report import FeedReport
from k2_dagster.feeds.live.serving import FeedPlan
from k2_dagster.feeds.live.venues import VENUES
from k2_dagster.kafka.topics import ensure_topics
from k2_dagster.schemas.avro import avro_schema
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.profiles import PACKAGED_PROFILES, Profiles, load_profiles
from k2_dagster.settings import Settings
from tests.feeds.conftest import Read
from tests.feeds.live.support import LocalVenue

AT_ONCE = Backoff(0.01, 0.01)
# Nobody listens there.
NOWHERE = "http://127.0.0.1:9/depth"
# A bound for a test that fails, not how long it runs.
MOST_SECONDS = 60.0


def profiles_of(settings: Settings, folder: Path, exchange: str) -> tuple[Profiles, str]:
    """Profiles in which the exchange has a name of this test's own, its topics created."""
    name = f"t_{uuid.uuid4().hex[:10]}"
    text = PACKAGED_PROFILES.read_text().replace(f"exchanges.{exchange}.", f"exchanges.{name}.")
    path = folder / f"{name}.toml"
    path.write_text(text.replace(f"exchanges.{exchange}]", f"exchanges.{name}]"))
    profiles = load_profiles(path)
    ensure_topics(settings, profiles, [name])
    return profiles, name


def plan_of(name: str, symbols: str, exchange: str, local: LocalVenue, **changes: Any) -> FeedPlan:
    """A plan against a local venue."""
    plan = FeedPlan(VENUES[name], tuple(symbols.split(",")), exchange, local.url, NOWHERE)
    return replace(plan, **changes)


def run_until(settings: Settings, profiles: Profiles, plan: FeedPlan, done: Callable[[FeedReport], bool]) -> FeedReport:
    """Feed until a report says that it is enough."""
    stop = threading.Event()

    def look(report: FeedReport) -> None:
        if done(report):
            stop.set()

    plan = replace(plan, seconds=MOST_SECONDS)
    report = feed(settings, profiles, plan, stop=stop, on_progress=look, reconnect=AT_ONCE)
    assert report.stopped, f"what the test waits for did not happen: {report}"
    return report


def rows_of(messages: list[Read], dataset: str) -> list[dict[str, Any]]:
    """Rows of a topic; refused input is left out."""
    schema = avro_schema(dataset_named(dataset))
    return [
        fastavro.schemaless_reader(BytesIO(one.value[5:]), schema, None)  # type: ignore[misc]
        for one in messages
        if not one.headers
    ]


def trade(number: int, symbol: str = "BTCUSDT") -> dict[str, Any]:
    """A trade of Binance spot."""
    data = {"e": "trade", "s": symbol, "t": number, "p": "1.5", "q": "2", "T": 1_723_161_255_342, "m": True}
    return {"stream": f"{symbol.lower()}@trade", "data": data}


def depth(first: int, last: int, symbol: str = "BTCUSDT") -> dict[str, Any]:
    """A book update of Binance spot."""
    data = {
        "e": "depthUpdate",
        "E": 1_723_161_255_408,
        "s": symbol,
        "U": first,
        "u": last,
        "b": [["1.5", "2"]],
        "a": [],
    }
    return {"stream": f"{symbol.lower()}@depth@100ms", "data": data}


def snapshot(number: int) -> tuple[int, bytes]:
    """An answer with a book snapshot."""
    return 200, json.dumps({"lastUpdateId": number, "bids": [["1.5", "2"]], "asks": [["1.6", "1"]]}).encode()
