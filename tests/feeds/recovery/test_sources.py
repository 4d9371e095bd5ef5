"""The sources of single trades, and the fake that other tests recover from, under the suite of all sources."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from k2_dagster.errors import VenueUnavailable
from k2_dagster.feeds.recovery.binance import COINM_MARKET, SPOT_MARKET, USDM_MARKET, BinanceTrades, Market
from k2_dagster.feeds.recovery.coinbase import CoinbaseTrades
from k2_dagster.feeds.recovery.source import MissingRange, RecoverySource
from k2_dagster.settings import Settings
from tests.feeds.recovery.faking import SECOND, FakeSource
from tests.feeds.recovery.local_venue import MILLIS, Archive, serving
from tests.feeds.recovery_sources import IDENTITY, RecoverySourceBehaviour, Served
from tests.ingest.helpers import START_MICROS

EXCHANGE, SESSION = "venue", "s"
FIRST, LAST = 100, 160
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# More than a page, so that every range of the suite takes several.
PAGE = 7
MARKETS: dict[str, Market] = {"spot": SPOT_MARKET, "usdm": USDM_MARKET, "coinm": COINM_MARKET}


def row(stream: str, symbol: str, sequence: int, micros: int) -> dict[str, Any]:
    known = {
        "exchange": EXCHANGE, "stream": stream, "kind": "trade", "symbol": symbol, "session": SESSION, "channel": None,
        "sequence": sequence, "exchange_timestamp": EPOCH + timedelta(microseconds=micros),
    }  # fmt: skip
    return {name: known[name] for name in IDENTITY}


class OfRest(Served):
    """A venue's REST interface over loopback, with the trades FIRST to LAST."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        self._kind = kind
        self._archive = Archive(range(FIRST, LAST + 1), page=PAGE)
        self._url = stack.enter_context(serving(self._archive))
        self._stack = stack
        self.first, self.last = FIRST, LAST
        self.stream, self.symbol = ("match", "BTC-USD") if kind == "coinbase" else ("trade", "BTCUSDT")
        self.source = self._opened(self._url)

    def missing(self, first: int, last: int) -> MissingRange:
        return MissingRange(EXCHANGE, "ticks", self.stream, SESSION, self.symbol, "", first, last)

    def truth(self, first: int, last: int) -> dict[str, list[dict[str, Any]]]:
        # the local venue has a trade at the second of its number
        return {
            "ticks": [
                row(self.stream, self.symbol, one, (MILLIS + one * 1_000) * 1_000) for one in range(first, last + 1)
            ]
        }

    def refuse_for(self, seconds: float) -> None:
        self._archive.scripted = [(429, b"{}", {"Retry-After": f"{seconds:.0f}"})]

    def forget_below(self, number: int) -> None:
        self._archive.numbers = range(number, LAST + 1)

    def answer_garbage(self) -> None:
        self._archive.scripted = [(200, b"<html>", {})]

    def go_away(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as gone:
            address = gone.getsockname()
        self.source = self._opened(f"http://{address[0]}:{address[1]}")

    def foreign(self) -> list[MissingRange]:
        here = self.missing(FIRST, FIRST + 1)
        return [
            replace(here, exchange="y"),
            replace(here, stream="aggTrade"),
            replace(here, dataset="book", stream="depth"),
            replace(here, channel="1", symbol=""),
            replace(here, channel="1"),
        ]

    def _opened(self, url: str) -> RecoverySource:
        stop = threading.Event()
        source: RecoverySource = (
            CoinbaseTrades(EXCHANGE, stop, url, between_seconds=0.0)
            if self._kind == "coinbase"
            else BinanceTrades(Settings(), EXCHANGE, MARKETS[self._kind], stop, url, between_seconds=0.0)
        )
        self._stack.callback(source.close)
        return source


class OfFake(Served):
    """The fake: a fake that does what no source does would make the tests that recover from it worthless."""

    def __init__(self) -> None:
        self.first, self.last = FIRST, LAST
        self.source: FakeSource = FakeSource(exchange=EXCHANGE)

    def missing(self, first: int, last: int) -> MissingRange:
        return MissingRange(EXCHANGE, "ticks", "ticks_stream", SESSION, "A", "", first, last)

    def truth(self, first: int, last: int) -> dict[str, list[dict[str, Any]]]:
        return {"ticks": [row("ticks_stream", "A", one, START_MICROS + one * SECOND) for one in range(first, last + 1)]}

    def refuse_for(self, seconds: float) -> None:
        self._raise(VenueUnavailable("busy", wait_seconds=seconds))

    def forget_below(self, number: int) -> None:
        self.source.has = lambda one: one >= number

    def answer_garbage(self) -> None:
        self._raise(VenueUnavailable("no answer"))

    def go_away(self) -> None:
        self._raise(VenueUnavailable("away"))

    def foreign(self) -> list[MissingRange]:
        here = self.missing(FIRST, FIRST + 1)
        return [replace(here, exchange="y"), replace(here, channel="1", symbol=""), replace(here, dataset="book")]

    def _raise(self, error: Exception) -> None:
        def before(_: MissingRange) -> None:
            raise error

        self.source.before = before


class TestRestSources(RecoverySourceBehaviour):
    """Binance's three markets and Coinbase."""

    @pytest.fixture(params=[*MARKETS, "coinbase"])
    def served(self, request: pytest.FixtureRequest) -> Iterator[Served]:
        with ExitStack() as stack:
            yield OfRest(request.param, stack)


class TestFakeSource(RecoverySourceBehaviour):
    """What other tests recover from."""

    @pytest.fixture
    def served(self) -> Served:
        return OfFake()
