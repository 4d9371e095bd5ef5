"""What a simulated exchange says of its symbols, and when."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.simulator.definitions import Definitions, canonical, expiry_micros
from k2_dagster.feeds.simulator.feed import FeedParameters, SimulatedFeed
from k2_dagster.schemas.profiles import load_profiles

# A Monday, before New York opens
START = int(datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()) * 1_000_000
DAY = 86_400_000_000


def definitions(exchange: str, symbols: int = 12) -> tuple[Definitions, SimulatedFeed]:
    parameters = FeedParameters(exchange, symbols, 100.0, 7, START, 1.0)
    feed = SimulatedFeed(load_profiles(), parameters)
    return Definitions(load_profiles().exchange(exchange), feed.instruments, parameters), feed


@pytest.mark.parametrize(
    ("exchange", "openings"),
    [
        # Daylight saving began in New York on 8 March
        ("sim_equity", ["03-02 14:30", "03-03 14:30", "03-09 13:30"]),
        ("sim_crypto", ["03-03 00:00", "03-04 00:00", "03-10 00:00"]),
        ("sim_futures", ["03-03 00:00", "03-04 00:00", "03-10 00:00"]),
    ],
)
def test_definitions_are_due_at_the_start_and_at_each_opening(exchange: str, openings: list[str]) -> None:
    said, _ = definitions(exchange)
    assert list(said.due(START - 1)) == []
    assert list(said.due(START)) == [START]
    assert list(said.due(START + 1)) == []
    found = [f"{datetime.fromtimestamp(one / 1e6, UTC):%m-%d %H:%M}" for one in said.due(START + 8 * DAY)]
    assert [found[0], found[1], found[7]] == openings


@pytest.mark.parametrize("exchange", ["sim_equity", "sim_crypto", "sim_futures"])
def test_they_are_those_of_the_market_and_the_same_each_time(exchange: str) -> None:
    said, feed = definitions(exchange)
    rows = said.rows(START, stamped=True)
    assert rows.equals(definitions(exchange)[0].rows(START, stamped=True))
    table = rows.to_pylist()
    assert [row["symbol"] for row in table] == feed.instruments.names
    assert np.array_equal(rows.column("tick_size").to_numpy(), feed.instruments.tick)
    assert np.array_equal(rows.column("lot_size").to_numpy(), feed.instruments.lot)
    assert {row["publish_timestamp"] for row in table} != {None}
    assert said.rows(START, stamped=False).column("publish_timestamp").null_count == rows.num_rows


def test_prices_and_sizes_are_whole_ticks_and_lots() -> None:
    _, feed = definitions("sim_crypto")
    ticks = dict(zip(feed.instruments.names, feed.instruments.tick.tolist(), strict=True))
    lots = dict(zip(feed.instruments.names, feed.instruments.lot.tolist(), strict=True))
    rows = [row for block in feed.blocks() for one in block.outgoing if one.dataset == "ticks"
            for row in one.rows.select(["symbol", "price", "size"]).to_pylist()]  # fmt: skip
    assert len(rows) > 5
    assert all(row["price"] % ticks[row["symbol"]] == 0 == row["size"] % lots[row["symbol"]] for row in rows)


def test_names_that_people_know_are_what_they_know() -> None:
    assert canonical("crypto", "BTCUSDT") == "BTC-USDT"
    assert canonical("equities", "AAPL") == "AAPL"
    assert canonical("futures", "NK225Z6") is None
    (row, *_) = definitions("sim_futures")[0].rows(START, stamped=True).to_pylist()
    assert (row["symbol"], row["contract_multiplier"], row["contract_unit"]) == ("NK225Z6", 1000 * 10**8, "JPY")
    assert row["expiry"] == row["valid_to"] == datetime(2026, 12, 11, tzinfo=UTC)


@given(st.sampled_from("FGHJKMNQUVXZ"), st.integers(0, 9), st.integers(2000, 2080))
def test_a_contract_expires_on_a_second_friday_of_its_month_within_ten_years(code: str, digit: int, year: int) -> None:
    day = date(1970, 1, 1) + timedelta(microseconds=expiry_micros(code, digit, year))
    assert (day.weekday(), day.month, day.year % 10) == (4, "FGHJKMNQUVXZ".index(code) + 1, digit)
    assert 8 <= day.day <= 14
    assert year <= day.year < year + 10
