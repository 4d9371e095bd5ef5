"""Past trades of the venues' REST interfaces: pages, ids that jump, refusals, and rows that equal those of the feed.

The answers are written by hand in the shapes that the venues document; `local_venue.py` serves them.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from pydantic import SecretStr

from k2_dagster.errors import ConfigurationError, RecoveryRefused, VenueUnavailable
from k2_dagster.feeds.recovery.binance import COINM_MARKET, SPOT_MARKET, USDM_MARKET, BinanceTrades, Market
from k2_dagster.feeds.recovery.coinbase import CoinbaseTrades
from k2_dagster.feeds.recovery.rest import BETWEEN_SECONDS, MOST_PAGES
from k2_dagster.feeds.recovery.source import MissingRange, RecoverySource
from k2_dagster.feeds.recovery_sources import OPENERS, open_source
from k2_dagster.schemas.profile_parts import RecoverySourceName
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings
from tests.feeds.capture.support import read_whole, written
from tests.feeds.recovery.local_venue import MILLIS, Answer, Archive, serving

STOP = threading.Event()
KEYED = Settings(binance_api_key=SecretStr("key-of-a-test"))
Open = Callable[..., RecoverySource]


def missing(first: int, last: int, **values: Any) -> MissingRange:
    given = {
        "exchange": "binance", "dataset": "ticks", "stream": "trade", "session": "", "symbol": "BTCUSDT", "channel": "",
    }  # fmt: skip
    return MissingRange(**{**given, **values}, first=first, last=last)


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens a source of a kind against an archive."""
    with ExitStack() as stack:

        def open_(kind: str, archive: Archive, stop: threading.Event = STOP) -> RecoverySource:
            url = stack.enter_context(serving(archive))
            markets: dict[str, Market] = {"spot": SPOT_MARKET, "usdm": USDM_MARKET, "coinm": COINM_MARKET}
            source: RecoverySource = (
                CoinbaseTrades("coinbase", stop, url, between_seconds=0.0)
                if kind == "coinbase"
                else BinanceTrades(KEYED, "binance", markets[kind], stop, url, between_seconds=0.0)
            )
            stack.callback(source.close)
            return source

        yield open_


KINDS = ("spot", "usdm", "coinm", "coinbase")


def asking(kind: str, first: int, last: int, **values: Any) -> MissingRange:
    own = {"stream": "match", "exchange": "coinbase", "symbol": "BTC-USD"} if kind == "coinbase" else {}
    return missing(first, last, **{**own, **values})


def numbers_of(rows: dict[str, pa.RecordBatch]) -> list[int]:
    return sorted(rows["ticks"].column("sequence").to_pylist()) if rows else []


@pytest.mark.parametrize("kind", KINDS)
def test_a_range_is_given_whole_page_by_page(opened: Open, kind: str) -> None:
    archive = Archive(range(1, 2_600), page=300)
    found = opened(kind, archive).fetch(asking(kind, 500, 1_499, session="s"))
    assert numbers_of(found.rows) == list(range(500, 1_500))
    assert found.exhausted
    assert len(archive.asked) == 4
    assert set(found.rows["ticks"].column("session").to_pylist()) == {"s"}
    assert set(found.rows["ticks"].column("publisher_session").to_pylist()) == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_jump_are_told_as_gone(opened: Open, kind: str) -> None:
    archive = Archive([one for one in range(1, 200) if one % 3], page=7)
    found = opened(kind, archive).fetch(asking(kind, 50, 99))
    assert numbers_of(found.rows) == [one for one in range(50, 100) if one % 3]
    assert (found.exhausted, found.reason) == (True, "the venue has no more of them")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", [range(0), range(1, 50), range(200, 300), range(1, 60)])
def test_what_the_venue_does_not_have_is_gone(opened: Open, kind: str, numbers: range) -> None:
    found = opened(kind, Archive(numbers)).fetch(asking(kind, 50, 99))
    assert numbers_of(found.rows) == [one for one in numbers if 50 <= one <= 99]
    assert found.exhausted


@pytest.mark.parametrize("kind", KINDS)
def test_a_trade_that_cannot_be_read_is_left_out_and_told(opened: Open, kind: str) -> None:
    archive = Archive(range(1, 30), changed={12: {"price": "five"}, 13: {"time": None}})
    found = opened(kind, archive).fetch(asking(kind, 10, 19))
    assert numbers_of(found.rows) == [10, 11, *range(14, 20)]
    assert not found.exhausted
    assert "2 trades cannot be read" in found.reason


@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_never_get_on_come_to_an_end(opened: Open, kind: str) -> None:
    same = json.dumps([{"id": 50, "trade_id": 50}]).encode()
    answer: Answer = (200, same, {})
    archive = Archive(scripted=[answer] * 2 * MOST_PAGES)
    opened(kind, archive).fetch(asking(kind, 40, 99))
    assert len(archive.asked) <= MOST_PAGES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        ((429, b"{}", {"Retry-After": "17"}), 17.0),
        ((418, b"{}", {"Retry-After": "120"}), 120.0),
        ((429, b"{}", {}), 60.0),
        ((429, b"{}", {"Retry-After": "999999"}), 3_600.0),
        ((500, b"oops", {}), None),
        ((503, b"", {}), None),
        ((200, b"<html>", {}), None),
        ((200, b"", {}), None),
        ((200, b'{"id": 1}', {}), None),
        ((200, b"[1]", {}), None),
        ((302, b"", {"Location": "/elsewhere"}), None),
    ],
)
def test_a_venue_that_is_away_or_busy_is_asked_again_later(
    opened: Open, kind: str, answer: Answer, wait: float | None
) -> None:
    archive = Archive(range(1, 100), scripted=[answer])
    source = opened(kind, archive)
    with pytest.raises((VenueUnavailable, RecoveryRefused)) as caught:
        source.fetch(asking(kind, 50, 59))
    assert isinstance(caught.value, RecoveryRefused) is (answer[0] == 302)
    assert caught.value.fields.get("wait_seconds") == wait
    assert numbers_of(source.fetch(asking(kind, 50, 59)).rows) == list(range(50, 60))


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_is_told_in_the_venues_words(opened: Open, kind: str) -> None:
    archive = Archive(scripted=[(400, b'{"code":-1121,"msg":"Invalid symbol."}', {}), (404, b"NotFound", {})])
    source = opened(kind, archive)
    for words in ("Invalid symbol", "NotFound"):
        with pytest.raises(RecoveryRefused, match=words):
            source.fetch(asking(kind, 50, 59))


def test_nobody_there(opened: Open) -> None:
    source = BinanceTrades(KEYED, "binance", SPOT_MARKET, STOP, "http://127.0.0.1:1", between_seconds=0.0)
    with pytest.raises(VenueUnavailable, match="did not answer"):
        source.fetch(missing(1, 2))
    source.close()


@pytest.mark.parametrize("answer", [(401, b'{"code":-2014,"msg":"API-key format invalid."}'), (400, b'{"code":-2015}')])
def test_a_key_that_is_not_taken_names_its_setting_and_not_the_key(opened: Open, answer: tuple[int, bytes]) -> None:
    with pytest.raises(ConfigurationError, match="K2_BINANCE_API_KEY") as caught:
        opened("usdm", Archive(scripted=[(*answer, {})])).fetch(missing(1, 2))
    assert "key-of-a-test" not in str(caught.value)


def test_the_key_is_sent_to_the_market(opened: Open) -> None:
    paths = {"spot": "/api/v3/", "usdm": "/fapi/v1/", "coinm": "/dapi/v1/"}
    for kind, path in paths.items():
        archive = Archive(range(1, 10))
        opened(kind, archive).fetch(missing(1, 2))
        ((asked, query),) = archive.asked
        assert asked == f"{path}historicalTrades"
        assert query == {"symbol": "BTCUSDT", "fromId": "1", "limit": "2"}
        assert archive.headers[0]["X-MBX-APIKEY"] == "key-of-a-test"


@pytest.mark.parametrize("kind", KINDS)
def test_only_single_trades_are_given(opened: Open, kind: str) -> None:
    source = opened(kind, Archive())
    with pytest.raises(RecoveryRefused, match="nothing of book/depth"):
        source.fetch(asking(kind, 1, 2, dataset="book", stream="depth"))
    with pytest.raises(RecoveryRefused, match="nothing of control/tops"):
        source.fetch(asking(kind, 1, 2, dataset="control", stream="tops", symbol="", channel="c"))


def test_aggregated_trades_have_other_ids(opened: Open) -> None:
    with pytest.raises(RecoveryRefused, match="whose ids are not those"):
        opened("spot", Archive()).fetch(missing(1, 2, stream="aggTrade"))


def test_a_stop_ends_the_asking(opened: Open) -> None:
    stop = threading.Event()
    stop.set()
    archive = Archive(range(1, 10))
    with pytest.raises(VenueUnavailable, match="asked to stop"):
        opened("coinbase", archive, stop).fetch(asking("coinbase", 1, 2))
    assert archive.asked == []
    assert BETWEEN_SECONDS > 0


def test_rows_of_binance_equal_those_of_the_feed(opened: Open, tmp_path: Path) -> None:
    """But for when they were received."""
    line = json.dumps({
        "stream": "btcusdt@trade",
        "data": {"e": "trade", "E": MILLIS, "s": "BTCUSDT", "t": 7, "p": "5.00000000", "q": "2.00000000",
                 "T": MILLIS + 7_000, "m": True, "M": True},
    })  # fmt: skip
    live = read_whole(written(tmp_path / "x", f"1767225607000000000 {line}".encode()), "binance").tables["ticks"]
    found = opened("spot", Archive([7], changed={7: {"isBuyerMaker": True}})).fetch(missing(7, 7)).rows["ticks"]
    assert without_receipt(found.to_pylist()) == without_receipt(live.to_pylist())


def test_rows_of_coinbase_equal_those_of_the_feed_but_for_its_sequence(opened: Open, tmp_path: Path) -> None:
    address = b"wss://ws-feed.pro.coinbase.com <-> 1618677816.8434298"
    match = (
        b'1767225607.0: {"type":"match","trade_id":7,"side":"sell","size":"2.00000000","price":"5.00000000",'
        b'"product_id":"BTC-USD","sequence":333938798,"time":"2026-01-01T00:00:07.000000Z"}'
    )
    live = read_whole(written(tmp_path / "x", address, match), "coinbase").tables["ticks"].to_pylist()
    found = opened("coinbase", Archive([7])).fetch(asking("coinbase", 7, 7)).rows["ticks"].to_pylist()
    assert live[0]["conditions"] == ["sequence=333938798"]
    assert without_receipt(found) == without_receipt([{**live[0], "conditions": []}])


def without_receipt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if "receive" not in name} for row in rows]


def test_every_source_that_a_profile_may_name_can_be_opened() -> None:
    assert set(get_args(RecoverySourceName)) == set(OPENERS)
    profiles = load_profiles()
    named = [name for name, one in profiles.exchanges.items() if one.recovery is not None]
    assert {"binance", "binance_usdm", "binance_coinm", "coinbase"} <= set(named)
    for name in named:
        open_source(Settings(), profiles, name, STOP).close()
    with pytest.raises(ConfigurationError, match=r"kraken names nothing .*\n.*binance"):
        open_source(Settings(), profiles, "kraken", STOP)
