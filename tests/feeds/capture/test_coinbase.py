from pathlib import Path

import pytest

from proofs.capture_truth import coinbase
from tests.feeds.capture.support import assert_dense, counts, read_whole, written

ADDRESS = b"wss://ws-feed.pro.coinbase.com <-> 1618677816.8434298"


@pytest.mark.captures
def test_rows_equal_the_independent_count(sample_data: Path) -> None:
    path = sample_data / "venues_ws" / "COINBASE.ws.28.0.gz"
    whole, truth = read_whole(path), coinbase(path)
    found = counts(whole)
    assert (found.rows, found.symbols, found.days) == (truth.rows, truth.symbols, truth.days)
    assert found.digests == truth.digests
    assert (truth.rows["ticks"], truth.gaps, whole.refusals) == (107, [], [])
    assert_dense(whole.tables["ticks"])
    assert whole.inputs == truth.rows.total() + whole.skipped.total() + 1  # the connection
    assert whole.tables["control"]["kind"].to_pylist() == ["connection"]


def test_the_aggressor_is_not_the_maker_whose_side_the_venue_gives(tmp_path: Path) -> None:
    match = (
        b'1618677817.0797620: {"type":"match","trade_id":881613,"side":"sell","size":"0.04","price":"14.7775",'
        b'"product_id":"BAND-GBP","sequence":333938798,"time":"2021-04-17T16:43:30.244075Z"}'
    )
    whole = read_whole(written(tmp_path / "x", ADDRESS, match))
    (row,) = whole.tables["ticks"].to_pylist()
    assert (row["side"], row["sequence"], row["price"], row["size"]) == ("buy", 881_613, 1_477_750_000, 4_000_000)
    assert row["exchange_timestamp"].isoformat() == "2021-04-17T16:43:30.244075+00:00"
    assert (row["trade_id"], row["conditions"]) == ("881613", ["sequence=333938798"])
    # The recorder wrote seven digits, the venue six
    assert (row["receive_timestamp_nanos"], row["exchange_timestamp_nanos"]) == (0, None)


def test_a_change_of_both_sides_is_one_row(tmp_path: Path) -> None:
    update = (
        b'1618677817.5: {"type":"l2update","product_id":"X","changes":[["sell","2","1"],["buy","1.5","0"]],'
        b'"time":"2021-04-17T16:43:30Z"}'
    )
    (row,) = read_whole(written(tmp_path / "x", ADDRESS, update)).tables["book"].to_pylist()
    assert [len(row[side]) for side in ("bids", "asks")] == [1, 1]
    assert row["bids"][0] == {"price": 150_000_000, "size": 0, "orders": None}
    assert (row["sequence"], row["action"]) == (None, "delta")


@pytest.mark.parametrize(
    "bad",
    [b"1618677817.5: [1]", b"1618677817.5: {", b"nothing", b'1618677817.5: {"type":["match"]}x'],
)
def test_lines_without_a_message_are_refused(tmp_path: Path, bad: bytes) -> None:
    assert [one[:2] for one in read_whole(written(tmp_path / "x", ADDRESS, bad)).refusals] == [(2, "control")]


def test_a_message_of_another_type_is_counted_and_not_refused(tmp_path: Path) -> None:
    whole = read_whole(written(tmp_path / "x", ADDRESS, b'1618677817.5: {"type":"status"}', b""))
    assert whole.skipped == {"type status": 1, "empty line": 1}
    assert not whole.refusals


def test_an_unknown_side_of_a_change_is_refused(tmp_path: Path) -> None:
    update = (
        b'1618677817.5: {"type":"l2update","product_id":"X","changes":[["hold","2","1"]],"time":"2021-04-17T16:43:30Z"}'
    )
    assert [one[:3] for one in read_whole(written(tmp_path / "x", ADDRESS, update)).refusals] == [(2, "book", "X")]


def test_a_snapshot_has_the_recorders_time_and_says_so(tmp_path: Path) -> None:
    snapshot = b'1618677817.077736: {"type":"snapshot","product_id":"X","asks":[["2","1"]],"bids":[]}'
    update = (
        b'1618677817.5: {"type":"l2update","product_id":"X","changes":[["buy","1.5","0"]],'
        b'"time":"2021-04-17T16:43:30Z"}'
    )
    first, second = read_whole(written(tmp_path / "x", ADDRESS, snapshot, update)).tables["book"].to_pylist()
    assert first["exchange_timestamp"] == first["receive_timestamp"]
    assert (first["exchange_timestamp_source"], second["exchange_timestamp_source"]) == ("receiver", None)
    # Six digits are whole microseconds: nobody has said that the rest is zero
    assert (first["receive_timestamp_nanos"], first["exchange_timestamp_nanos"]) == (None, None)
