"""What the venues' lists say, and what is refused of them."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.listings.listing import Listing, exact, from_iso, from_milliseconds, read_listing, step
from k2_dagster.feeds.capture.listings.told import AsOf, definition_rows
from k2_dagster.feeds.live.venues import VENUES
from k2_dagster.schemas.refused import valid_name
from tests.feeds.capture.listings.answers import ANSWERS, SERVER_MILLISECONDS, binance, body, spot_pair

DAY = 86_400_000_000


def listing_of(venue: str) -> Listing:
    return read_listing(VENUES[venue].listing, body(ANSWERS[venue]))


def told(venue: str, symbol: str, *names: str) -> tuple[Any, ...]:
    found = listing_of(venue).definitions[symbol]
    return tuple(found.get(name) for name in names)


def micros(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


STEPS = ("canonical_symbol", "tick_size", "lot_size", "status", "venue_status")


def test_binance_spot() -> None:
    assert told("binance", "BTCUSDT", *STEPS) == ("BTC-USDT", 10**6, 10**3, "trading", "TRADING")
    assert told("binance", "ETHBTC", "status", "instrument_type", "asset_class") == ("halted", "spot", "crypto")
    assert told("binance", "ETHBTC", "contract_multiplier", "expiry", "valid_from", "valid_to") == (None,) * 4
    assert listing_of("binance").told_micros == SERVER_MILLISECONDS * 1000


def test_binance_futures() -> None:
    dated = ("instrument_type", "expiry", "valid_from", "valid_to", "settlement_currency")
    opened = 1_569_398_400_000_000
    assert told("binance_usdm", "BTCUSDT", *dated) == ("perpetual", None, opened, None, "USDT")
    ends = micros("2026-12-25T08:00:00")
    assert told("binance_usdm", "BTCUSDT_261225", *dated[:4]) == ("future", ends, 1_780_300_800_000_000, ends)
    assert told("binance_usdm", "BTCUSDT_261225", *STEPS) == (
        "BTC-USDT-20261225", None, None, "pending", "PENDING_TRADING",
    )  # fmt: skip
    ending = {**ANSWERS["binance_usdm"]["symbols"][0], "contractType": "", "status": "SETTLING"}
    wound_up = read_listing(VENUES["binance_usdm"].listing, body(binance(ending))).definitions["BTCUSDT"]
    assert (wound_up["instrument_type"], wound_up["expiry"], wound_up["status"]) == (None, None, None)
    # A share is no coin, and what settling means is not said
    assert told("binance_usdm", "TSLAUSDT", "asset_class", "status", "venue_status") == (None, None, "SETTLING")
    assert told("binance_coinm", "BTCUSD_PERP", "contract_multiplier", "contract_unit", "settlement_currency") == (
        100 * 10**8, "USD", "BTC",
    )  # fmt: skip


def test_coinbase() -> None:
    assert told("coinbase", "BTC-USD", *STEPS) == ("BTC-USD", 10**6, 1, "trading", "online")
    assert told("coinbase", "OLD-USD", "status", "venue_status") == ("halted", "online, trading_disabled")
    assert told("coinbase", "GONE-USD", "status") == ("closed",)
    assert listing_of("coinbase").told_micros is None


def test_kraken_spot() -> None:
    assert told("kraken", "XBT/USD", *STEPS) == ("BTC-USD", 10**7, 1, "trading", "online")
    assert told("kraken", "EUR/USD", "asset_class", "tick_size", "status") == ("fx", 10**3, "halted")
    assert told("kraken", "AAPLx/USD", "asset_class", "canonical_symbol") == (None, None)
    assert listing_of("kraken").others == 1


def test_kraken_futures() -> None:
    worth = ("contract_multiplier", "contract_unit", "settlement_currency", "lot_size")
    assert told("kraken_futures", "PI_XBTUSD", *worth) == (10**8, "USD", "XBT", 10**8)
    assert told("kraken_futures", "PF_PEPEUSD", *worth, "status") == (10**8, "PEPE", None, 1000 * 10**8, "halted")
    assert told("kraken_futures", "PF_PEPEUSD", "tick_size") == (1,)
    ends = micros("2026-12-25T16:00:00")
    assert told("kraken_futures", "FF_XBTUSD_261225", "instrument_type", "expiry", "valid_to", "lot_size") == (
        "future", ends, ends, 10**4,
    )  # fmt: skip
    # A step below the eighth decimal fits no column: refused, not rounded
    (bad,) = listing_of("kraken_futures").refused
    assert (bad.symbol, "PF_GOLDUSD" in bad.raw.decode()) == ("PF_GOLDUSD", True)
    assert "tickSize" in bad.reason


@pytest.mark.parametrize("venue", sorted(ANSWERS))
def test_every_definition_is_a_row(venue: str) -> None:
    listing = listing_of(venue)
    rows = definition_rows("x", "definition", list(listing.definitions.values()), AsOf(10**18, listing.told_micros))
    assert rows.num_rows == len(listing.definitions)
    assert set(rows.column("exchange_timestamp_source").to_pylist()) == (
        {None} if listing.told_micros else {"receiver"}
    )


@pytest.mark.parametrize(
    "answer",
    [b"", b"\xff\xfe", b"{", b"null", b"[]", b"{}", b'{"symbols": []}', b'{"symbols": {}}', b'{"symbols": [1, null]}',
     b'{"serverTime": "x", "symbols": [1]}', b"<html>502 Bad Gateway</html>", b"[" * 100_000],
)  # fmt: skip
@pytest.mark.parametrize("venue", sorted(ANSWERS))
def test_what_is_no_list_is_refused_whole(venue: str, answer: bytes) -> None:
    with pytest.raises(CaptureInvalid, match="no list of instruments"):
        read_listing(VENUES[venue].listing, answer)


def test_an_error_in_the_answer_is_told() -> None:
    with pytest.raises(CaptureInvalid, match="EGeneral:Temporary lockout"):
        read_listing(VENUES["kraken"].listing, body({"error": ["EGeneral:Temporary lockout"]}))
    with pytest.raises(CaptureInvalid, match="apiLimitExceeded"):
        read_listing(VENUES["kraken_futures"].listing, body({"result": "error", "error": "apiLimitExceeded"}))


def test_a_bad_item_costs_itself_only() -> None:
    bad: list[Any] = [{"symbol": "A B", "baseAsset": "A", "quoteAsset": "B"}, {"symbol": 7}, {}, "x", None,
           spot_pair("N", "USDT", filters=7), spot_pair("S", "USDT", status=["TRADING"]),
           spot_pair("T", "USDT", filters=[{"filterType": "PRICE_FILTER", "tickSize": "0.000000001"}])]  # fmt: skip
    listing = read_listing(VENUES["binance"].listing, body(binance(*bad, spot_pair("BTC", "USDT"))))
    assert list(listing.definitions) == ["BTCUSDT"]
    assert [one.symbol for one in listing.refused] == [None] * 5 + ["NUSDT", "SUSDT", "TUSDT"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(ANSWERS)), st.data())
def test_whatever_stands_in_a_field_the_rest_is_read_or_refused(venue: str, data: st.DataObject) -> None:
    answer = ANSWERS[venue]
    item = {
        "binance": lambda: answer["symbols"][0], "coinbase": lambda: answer[0],
        "kraken": lambda: answer["result"]["XXBTZUSD"], "kraken_futures": lambda: answer["instruments"][0],
    }[venue.split("_")[0] if venue.startswith("binance") else venue]()  # fmt: skip
    key = data.draw(st.sampled_from(sorted(item)))
    changed = {**item, key: data.draw(JSON)}
    good = {**item, "symbol": "GOOD", "id": "GOOD", "wsname": "GOOD"}
    items = [changed, good]
    whole: Any = {
        "binance": {"serverTime": 1_780_000_000_000, "symbols": items}, "coinbase": items,
        "kraken": {"error": [], "result": dict(zip("ab", items, strict=True))},
        "kraken_futures": {"result": "success", "instruments": items},
    }[venue.split("_")[0] if venue.startswith("binance") else venue]  # fmt: skip
    listing = read_listing(VENUES[venue].listing, body(whole))
    assert "GOOD" in listing.definitions
    assert len(listing.definitions) + len(listing.refused) + listing.others in (1, 2)
    assert all(valid_name(symbol) for symbol in listing.definitions)


@given(st.decimals(0, 92_233_720_368, places=8, allow_nan=False))
def test_numbers_are_exact_or_refused(number: Decimal) -> None:
    assert exact(f"{number:f}", "x") == (int(number * 10**8) or None)
    with pytest.raises(CaptureInvalid):
        exact(f"{number:f}1", "x")


@pytest.mark.parametrize("value", ["x", "", [], {}, "NaN", "Infinity", -1, "1e30", "-0.1"])
def test_what_is_no_step_is_refused(value: Any) -> None:
    with pytest.raises(CaptureInvalid):
        exact(value, "x")


def test_times_beyond_all_messages_are_how_venues_say_never() -> None:
    assert from_milliseconds(4_133_404_800_000) is from_milliseconds(0) is from_milliseconds(None) is None
    assert from_milliseconds(1_780_000_000_123) == 1_780_000_000_123_000
    assert from_iso("1970-01-01T00:00:00Z") is from_iso("9999-12-31T00:00:00Z") is from_iso(None) is None
    assert from_iso("2026-05-28T20:26:40.123Z") == from_iso("2026-05-28T22:26:40.123+02:00") == 1_780_000_000_123_000


def test_a_step_by_its_decimals() -> None:
    assert (step(2, "x"), step(-3, "x"), step(0, "x"), step(None, "x")) == (10**6, 1000 * 10**8, 10**8, None)
    with pytest.raises(CaptureInvalid):
        step(9, "x")
