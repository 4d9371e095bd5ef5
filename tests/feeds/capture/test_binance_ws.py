import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from k2_dagster.schemas.refused import VenueIdentity
from proofs.capture_truth import binance_ws
from tests.feeds.capture.support import assert_dense, counts, read_whole, written

FILES = ["spot_btcusdt_20240808", "spot_btcusdt_20240809", "cm_ethusd_perp_20240808", "cm_ethusd_perp_20240809"]
DAYS = ("20240808", "20240809")


@pytest.mark.captures
@pytest.mark.parametrize("name", FILES)
def test_every_line_is_a_row_on_its_day(sample_data: Path, name: str) -> None:
    path = sample_data / "binance_ws" / f"{name}.gz"
    whole, truth = read_whole(path), binance_ws(path)
    found = counts(whole)
    assert (found.rows, found.symbols, found.days) == (truth.rows, truth.symbols, truth.days)
    assert found.digests == truth.digests
    assert whole.inputs == truth.rows.total()
    assert not whole.refusals
    assert not whole.skipped


@pytest.mark.captures
def test_the_file_of_one_day_has_trades_of_the_next_because_the_recorders_clock_is_behind(sample_data: Path) -> None:
    truth = binance_ws(sample_data / "binance_ws" / "spot_btcusdt_20240808.gz")
    assert truth.days["ticks", "2024-08-08"] == 9_738
    assert truth.days["ticks", "2024-08-09"] == 19


@pytest.mark.captures
@pytest.mark.parametrize(("prefix", "exchange"), [("spot_btcusdt", "binance"), ("cm_ethusd_perp", "binance_coinm")])
def test_two_files_across_midnight_are_one_venue_session_without_a_gap(
    sample_data: Path, prefix: str, exchange: str
) -> None:
    wholes = [read_whole(sample_data / "binance_ws" / f"{prefix}_{day}.gz") for day in DAYS]
    assert {whole.exchange for whole in wholes} == {exchange}
    trades, depth, best = (
        pa.concat_tables([whole.stream(dataset, stream) for whole in wholes])
        for dataset, stream in (("ticks", "trade"), ("book", "depth"), ("quotes", "bookTicker"))
    )
    assert_dense(trades)
    assert depth["previous_sequence"][1:].to_pylist() == depth["sequence"][:-1].to_pylist()
    assert (np.diff(best["sequence"].to_numpy()) > 0).all()
    for table in (trades, depth, best):
        assert table["session"].null_count == len(table)


@pytest.mark.captures
def test_rows_are_exact(sample_data: Path) -> None:
    whole = read_whole(sample_data / "binance_ws" / "spot_btcusdt_20240808.gz")
    row = whole.tables["ticks"].slice(0, 1).to_pylist()[0]
    assert {name: row[name] for name in ("symbol", "sequence", "price", "size", "side", "trade_id")} == {
        "symbol": "BTCUSDT", "sequence": 3_735_683_259, "price": 6_183_763_000_000, "size": 2_000_000,
        "side": "sell", "trade_id": "3735683259",
    }  # fmt: skip
    times = whole.tables["ticks"].slice(0, 1).select(["exchange_timestamp", "receive_timestamp"])
    assert [column.cast(pa.int64())[0].as_py() for column in times.columns] == [
        1_723_161_255_342_000,
        1_723_161_254_087_896,
    ]
    assert (row["receive_timestamp_nanos"], row["exchange_timestamp_nanos"]) == (568, None)
    depth = whole.stream("book", "depth").slice(0, 1).to_pylist()[0]
    assert (depth["previous_sequence"], depth["sequence"], depth["action"]) == (50_093_239_188, 50_093_239_202, "delta")
    assert depth["bids"][0] == {"price": 6_173_763_000_000, "size": 0, "orders": None}
    assert len(depth["asks"]) == 9


@pytest.mark.captures
def test_the_recorder_received_before_the_venue_sent_and_both_times_stay(sample_data: Path) -> None:
    trades = read_whole(sample_data / "binance_ws" / "cm_ethusd_perp_20240809.gz").tables["ticks"]
    latency = pc.subtract(trades["receive_timestamp"].cast(pa.int64()), trades["exchange_timestamp"].cast(pa.int64()))
    assert -1_300_000 < pc.min(latency).as_py() < pc.max(latency).as_py() < -1_000_000


@pytest.mark.captures
def test_a_message_without_venue_time_has_the_recorders(sample_data: Path) -> None:
    whole = read_whole(sample_data / "binance_ws" / "spot_btcusdt_20240808.gz")
    for table in (whole.tables["quotes"], whole.stream("book", "depth_snapshot")):
        for suffix in ("timestamp", "timestamp_nanos"):
            assert table[f"exchange_{suffix}"].equals(table[f"receive_{suffix}"])
        assert table["exchange_timestamp_source"].unique().to_pylist() == ["receiver"]
    for table in (whole.tables["ticks"], whole.stream("book", "depth")):
        assert table["exchange_timestamp_source"].null_count == len(table)


@pytest.mark.captures
def test_the_rest_snapshot_takes_the_files_symbol(sample_data: Path) -> None:
    whole = read_whole(sample_data / "binance_ws" / "spot_btcusdt_20240808.gz")
    (row,) = whole.stream("book", "depth_snapshot").to_pylist()
    assert (row["symbol"], row["action"], row["sequence"], row["previous_sequence"]) == (
        "BTCUSDT", "snapshot", 50_093_239_218, None,
    )  # fmt: skip


def _trade(**changes: object) -> bytes:
    data = {"e": "trade", "s": "BTCUSDT", "t": 5, "p": "1.5", "q": "2", "T": 1_723_161_255_342, "m": True} | changes
    kept = {key: value for key, value in data.items() if value != "absent"}
    return b"1723161253937085768 " + json.dumps({"stream": "btcusdt@trade", "data": kept}).encode()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (_trade(p="1.123456789"), "data loss"),
        (_trade(p="1e30"), "p"),
        (_trade(q=2.5), "q"),
        (_trade(p=None), "p is null"),
        (_trade(t="absent"), "field 't' is missing"),
        (_trade(t="five"), "t"),
        (_trade(m="x"), "x"),
        (_trade(T=None), "exchange_timestamp is null"),
    ],
)
def test_a_damaged_trade_is_refused_with_its_key_and_the_others_live(tmp_path: Path, bad: bytes, reason: str) -> None:
    whole = read_whole(written(tmp_path / "x", _trade(t=1), _trade(t=2), bad, _trade(t=4)))
    assert whole.tables["ticks"]["sequence"].to_pylist() == [1, 2, 4]
    ((place, dataset, symbol, found),) = whole.refusals
    assert (place, dataset, symbol) == (3, "ticks", "BTCUSDT")
    assert reason in found


@pytest.mark.parametrize("bad", [b"1723161253937085768 {", b"yesterday {}", b"\x00\x00\x00\x00\x01", b"\xff\xfe"])
def test_a_line_that_is_no_message_is_refused_to_the_control_topic(tmp_path: Path, bad: bytes) -> None:
    whole = read_whole(written(tmp_path / "x", _trade(t=1), bad))
    ((place, dataset, symbol, _),) = whole.refusals
    assert (place, dataset, symbol) == (2, "control", "*")


def test_a_snapshot_in_a_file_of_two_symbols_is_refused_rather_than_guessed(tmp_path: Path) -> None:
    snapshot = b'1723161253937085768 {"lastUpdateId":5,"bids":[],"asks":[]}'
    whole = read_whole(written(tmp_path / "x", _trade(), _trade(s="ETHUSDT"), snapshot))
    assert [(place, dataset) for place, dataset, _, _ in whole.refusals] == [(3, "book")]


def _usdm(*streams: str) -> list[bytes]:
    """Lines with the field sets that the venue documents for USD-M futures."""
    lines = {
        "trade": '{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"T":1723161255342,"s":"BTCUSDT",'
        '"t":5200000001,"p":"61837.60","q":"0.020","X":"MARKET","m":true}}',
        "depth": '{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1723161255444,"T":1723161255440,'
        '"s":"BTCUSDT","U":500,"u":520,"pu":498,"b":[["61837.60","3.5"]],"a":[["61837.70","0"]]}}',
        "best": '{"stream":"btcusdt@bookTicker","data":{"e":"bookTicker","u":521,"s":"BTCUSDT","b":"61837.60",'
        '"B":"3.500","a":"61837.70","A":"1.000","T":1723161255450,"E":1723161255455}}',
        "snapshot": '{"lastUpdateId":522,"E":1723161255460,"T":1723161255459,"bids":[["61837.60","3.5"]],"asks":[]}',
        "aggregate": '{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1,"a":1,"s":"BTCUSDT","p":"1","q":"1"}}',
    }
    return [b"%d %s" % (1_723_161_254_000_000_000 + place, lines[one].encode()) for place, one in enumerate(streams)]


def test_usd_margined_futures_are_read_as_futures_in_their_own_exchange(tmp_path: Path) -> None:
    whole = read_whole(written(tmp_path / "x", *_usdm("depth", "trade", "best", "snapshot", "aggregate")))
    assert (whole.format, whole.exchange) == ("binance_usdm_ws", "binance_usdm")
    assert (whole.refusals, whole.skipped) == ([], {"stream aggTrade": 1})
    delta, snapshot = whole.tables["book"].to_pylist()
    assert (delta["previous_sequence"], delta["sequence"]) == (498, 520)
    assert (snapshot["symbol"], snapshot["sequence"], snapshot["action"]) == ("BTCUSDT", 522, "snapshot")
    (trade,) = whole.tables["ticks"].to_pylist()
    assert (trade["trade_id"], trade["conditions"], trade["size"]) == ("5200000001", ["MARKET"], 2_000_000)
    times = [
        table["exchange_timestamp"].cast(pa.int64()).to_pylist()
        for table in (whole.tables["book"], whole.tables["quotes"])
    ]
    assert times == [[1_723_161_255_440_000, 1_723_161_255_459_000], [1_723_161_255_450_000]]
    for table in whole.tables.values():
        assert table["exchange_timestamp_source"].null_count == len(table)


@pytest.mark.parametrize("stream", ["trade", "depth", "best"])
def test_each_stream_of_usd_margined_futures_alone_tells_the_market(tmp_path: Path, stream: str) -> None:
    assert read_whole(written(tmp_path / "x", *_usdm(stream, stream))).format == "binance_usdm_ws"


def test_a_refused_message_tells_what_is_known_of_it(tmp_path: Path) -> None:
    depth = _usdm("depth")[0].replace(b'"3.5"', b'"x"')
    spot = b'1723161254000000009 {"stream":"b@depth","data":{"s":"B","U":500,"u":520,"b":[["x","1"]],"a":[]}}'
    for lines, symbol, numbers in (([depth], "BTCUSDT", (520, 498)), ([spot], "B", (520, 499))):
        (block,) = read_whole(written(tmp_path / "x", *lines)).blocks
        (refusal,) = block.refusals
        assert refusal.identity == VenueIdentity("depth", "book", symbol, None, None, *numbers)
