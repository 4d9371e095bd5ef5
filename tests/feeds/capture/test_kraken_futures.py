from pathlib import Path

import pytest

from proofs.capture_truth import kraken_futures
from tests.feeds.capture.support import assert_dense, counts, read_whole, written

ADDRESS = b"wss://futures.kraken.com/ws/v1 <-> 1626994927.139662"


@pytest.mark.captures
def test_rows_equal_the_independent_count_and_numbers_are_dense(sample_data: Path) -> None:
    path = sample_data / "venues_ws" / "KRAKEN_FUTURES.ws.1.0.gz"
    whole, truth = read_whole(path), kraken_futures(path)
    found = counts(whole)
    assert (found.rows, found.symbols, found.days) == (truth.rows, truth.symbols, truth.days)
    assert found.digests == truth.digests
    assert (truth.gaps, whole.refusals) == ([], [])
    assert_dense(whole.tables["book"])
    assert_dense(whole.tables["ticks"])
    assert set(whole.tables["book"]["action"].unique().to_pylist()) == {"snapshot", "delta"}


def _change(price: bytes, side: bytes = b'"sell"') -> bytes:
    return (
        b'1626994928.037677: {"feed":"book","product_id":"PI_X","side":%s,"seq":7,"price":%s,"qty":4787.0,'
        b'"timestamp":1626994927744}' % (side, price)
    )


@pytest.mark.parametrize(
    ("text", "scaled"), [(b"2004.85", 200_485_000_000), (b"0.00000001", 1), (b"12", 1_200_000_000), (b"1e-8", 1)]
)
def test_json_numbers_are_read_as_written(tmp_path: Path, text: bytes, scaled: int) -> None:
    (row,) = read_whole(written(tmp_path / "x", ADDRESS, _change(text))).tables["book"].to_pylist()
    assert (row["bids"], row["asks"][0]["price"]) == ([], scaled)


@pytest.mark.parametrize("text", [b"0.1000000000000000055", b"null", b"true", b"[1]", b"NaN"])
def test_a_price_that_is_not_exact_is_refused(tmp_path: Path, text: bytes) -> None:
    whole = read_whole(written(tmp_path / "x", ADDRESS, _change(text)))
    assert [one[:3] for one in whole.refusals] == [(2, "book", "PI_X")]


def test_damage_in_shape_is_refused(tmp_path: Path) -> None:
    lines = [_change(b"1", b'"both"'), b"1.5: " + b"[" * 100_000, b'1.5: {"x":1}', b'1.5: {"feed":"trade_snapshot"}']
    whole = read_whole(written(tmp_path / "x", ADDRESS, *lines))
    assert sorted(place for place, _, _, _ in whole.refusals) == [2, 3, 4, 5]
    assert not whole.tables["book"].num_rows


def test_a_trade_snapshot_is_rows_from_the_oldest(tmp_path: Path) -> None:
    trade = (
        '{"uid":"u%d","product_id":"PI_X","side":"buy","type":"fill","seq":%d,"time":1626994887094,"qty":5,"price":9.5}'
    )
    trades = ",".join(trade % (seq, seq) for seq in (3, 2, 1))
    line = b'1.5: {"feed":"trade_snapshot","product_id":"PI_X","trades":[%s]}' % trades.encode()
    rows = read_whole(written(tmp_path / "x", ADDRESS, line)).tables["ticks"].to_pylist()
    assert [(row["sequence"], row["trade_id"]) for row in rows] == [(1, "u1"), (2, "u2"), (3, "u3")]
