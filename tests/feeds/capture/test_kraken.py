from pathlib import Path

import pytest

from proofs.capture_truth import kraken
from tests.feeds.capture.support import counts, read_whole, written

ADDRESS = b"wss://ws.kraken.com <-> 1618678132.368463"


@pytest.mark.captures
def test_rows_equal_the_independent_count(sample_data: Path) -> None:
    path = sample_data / "venues_ws" / "KRAKEN.ws.48.0.gz"
    whole, truth = read_whole(path), kraken(path)
    found = counts(whole)
    assert (found.rows, found.symbols, found.days) == (truth.rows, truth.symbols, truth.days)
    assert found.digests == truth.digests
    assert truth.rows["ticks"] == 10
    assert whole.tables["control"]["kind"].to_pylist().count("heartbeat") == 30
    assert whole.tables["ticks"]["sequence"].null_count == 10
    assert not whole.refusals


def test_a_message_of_two_trades_is_two_rows_that_only_the_publisher_pair_tells_apart(tmp_path: Path) -> None:
    line = (
        b'1618678150.8565571: [993,[["354.04000000","0.28245396","1618678150.826417","s","m",""],'
        b'["354.04000000","0.28245396","1618678150.826417","s","m",""]],"trade","XMR/USD"]'
    )
    first, second = read_whole(written(tmp_path / "x", ADDRESS, line)).tables["ticks"].to_pylist()
    assert (first["price"], first["size"], first["side"], first["conditions"]) == (
        35_404_000_000, 28_245_396, "sell", ["m"],
    )  # fmt: skip
    assert first["exchange_timestamp"].isoformat() == "2021-04-17T16:49:10.826417+00:00"
    assert first == second
    assert (first["exchange_timestamp_nanos"], first["receive_timestamp_nanos"]) == (None, 100)


def test_books_and_spreads(tmp_path: Path) -> None:
    whole = read_whole(
        written(
            tmp_path / "x",
            ADDRESS,
            b'1.5: [0,{"as":[["5.1","1.0","1534614248.1"]],"bs":[["5.0","2.0","1534614248.2"]]},"book-10","X/Y"]',
            b'1.6: [0,{"a":[["5.2","0.0","1534614249.1"]]},{"b":[["5.0","3.0","1534614249.0"]],"c":"974942666"},'
            b'"book-10","X/Y"]',
            b'1.7: [0,["5.0","5.1","1534614250.123456","2.0","1.0"],"spread","X/Y"]',
        )
    )
    snapshot, delta = whole.tables["book"].to_pylist()
    assert (snapshot["action"], snapshot["checksum"]) == ("snapshot", None)
    assert (delta["action"], delta["checksum"], len(delta["bids"]), len(delta["asks"])) == ("delta", 974_942_666, 1, 1)
    (quote,) = whole.tables["quotes"].to_pylist()
    assert (quote["bid_price"], quote["ask_size"]) == (500_000_000, 100_000_000)


@pytest.mark.parametrize("bad", [b"1.5: 7", b'1.5: {"event":[]}', b"1.5: [1]", b'1.5: [0,{"a":1},"book-10","X/Y"]'])
def test_damage_is_refused(tmp_path: Path, bad: bytes) -> None:
    assert [place for place, _, _, _ in read_whole(written(tmp_path / "x", ADDRESS, bad)).refusals] == [2]
