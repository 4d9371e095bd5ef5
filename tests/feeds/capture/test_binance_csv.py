"""The clean and the corrupted twins: which rows differ, and that normalised rows make each defect findable."""

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from k2_dagster.feeds.capture import source
from k2_dagster.schemas.common import EARLIEST_MICROS
from proofs.capture_defects import Defect, binance_csv, differences, expected_defects
from tests.feeds.capture.support import counts, read_whole, written

KINDS = ("trade", "difference_depth")


def _twins(sample_data: Path, kind: str) -> tuple[Path, Path]:
    clean, corrupted = (
        sample_data / "binance_csv" / f"test_{twin}_binance_{kind}_stream_spot_trxusdt_04-03-2025.csv.gz"
        for twin in ("positive", "negative")
    )
    return clean, corrupted


@pytest.mark.captures
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("twin", [0, 1])
def test_rows_equal_the_independent_count(sample_data: Path, kind: str, twin: int) -> None:
    path = _twins(sample_data, kind)[twin]
    whole, truth = read_whole(path), binance_csv(path)
    found = counts(whole)
    assert (found.rows, found.symbols, found.days) == (truth.rows, truth.symbols, truth.days)
    assert found.digests == truth.digests
    assert not whole.refusals
    assert whole.inputs == 10_000


@pytest.mark.captures
@pytest.mark.parametrize("kind", KINDS)
def test_the_clean_twin_has_no_gap(sample_data: Path, kind: str) -> None:
    truth = binance_csv(_twins(sample_data, kind)[0])
    assert (truth.gaps, truth.duplicates) == ([], [])


@pytest.mark.captures
def test_every_defect_of_the_trades(sample_data: Path) -> None:
    assert expected_defects(*_twins(sample_data, "trade")) == [
        Defect(4, "duplicate", first=348_656_871, last=348_656_871),
        Defect(5, "gap", first=348_656_872, last=348_656_872),
        Defect(10_001, "times", micros=83_454_849_625),
    ]


@pytest.mark.captures
def test_every_defect_of_the_depth(sample_data: Path) -> None:
    assert expected_defects(*_twins(sample_data, "difference_depth")) == [
        Defect(2, "rule"),
        Defect(9, "gap", first=5_434_434_570, last=5_434_434_570),
        Defect(9, "times", micros=-1_001),
        Defect(10, "duplicate", first=5_434_434_571, last=5_434_434_571),
        Defect(10_001, "day", day="2025-03-05"),
    ]


@pytest.mark.captures
@pytest.mark.parametrize("kind", KINDS)
def test_every_differing_line_is_covered(sample_data: Path, kind: str) -> None:
    twins = _twins(sample_data, kind)
    assert set(differences(*twins)) <= {defect.line for defect in expected_defects(*twins)}


@pytest.mark.captures
def test_the_rows_of_the_corrupted_trades_show_the_defects(sample_data: Path) -> None:
    table = read_whole(_twins(sample_data, "trade")[1]).tables["ticks"]
    assert table["sequence"][:4].to_pylist() == [348_656_870, 348_656_871, 348_656_871, 348_656_873]
    assert table["size"][1:3].to_pylist() == [8_390_000_000, 86_500_000_000]
    receive, exchange = (table[f"{name}_timestamp"].cast(pa.int64()) for name in ("receive", "exchange"))
    latency = pc.subtract(receive, exchange).to_pylist()
    assert latency[-1] == 83_454_849_625
    assert 0 <= min(latency[:-1]) <= max(latency[:-1]) < 1_000_000_000


@pytest.mark.captures
def test_the_rows_of_the_corrupted_depth_show_the_defects(sample_data: Path) -> None:
    table = read_whole(_twins(sample_data, "difference_depth")[1]).tables["book"]
    damaged = table.slice(0, 1).to_pylist()[0]
    assert table["exchange_timestamp"].cast(pa.int64())[0].as_py() == 0 < EARLIEST_MICROS
    assert damaged["bids"] == [{"price": -100_000_000, "size": 80_462_770_000_000, "orders": None}]
    chain = list(zip(table["previous_sequence"].to_pylist(), table["sequence"].to_pylist(), strict=True))[1:]
    breaks = [(before[1], after) for before, after in itertools.pairwise(chain) if after[0] != before[1]]
    assert breaks == [
        (5_434_434_569, (5_434_434_570, 5_434_434_571)),
        (5_434_434_571, (5_434_434_570, 5_434_434_571)),
    ]


HEADER = b"TimestampOfReceive,Stream,EventType,EventTime,Symbol,FirstUpdateId,FinalUpdateId,IsAsk,Price,Quantity"


def _level(update: int, price: bytes = b"0.5", ask: bytes = b"0") -> bytes:
    return b"1741046400062959,x@depth@100ms,depthUpdate,1741046400062507,X,%d,%d,%s,%s,10" % (
        update,
        update,
        ask,
        price,
    )


def test_a_message_cut_by_the_end_of_a_block_is_still_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [_level(update, ask=b"%d" % (place % 2)) for update in range(1, 40) for place in range(update % 5 + 1)]
    whole = read_whole(written(tmp_path / "x.csv", HEADER, *lines))
    monkeypatch.setattr(source, "BLOCK_BYTES", 700)
    in_pieces = read_whole(tmp_path / "x.csv")
    assert whole.tables["book"].num_rows == 39
    assert len(in_pieces.blocks) > 3
    assert in_pieces.tables["book"].equals(whole.tables["book"])
    assert in_pieces.inputs == len(lines)


def test_a_message_with_a_bad_level_is_refused_whole(tmp_path: Path) -> None:
    lines = [_level(1), _level(2), _level(2, price=b"0.123456789"), _level(3), b"torn"]
    whole = read_whole(written(tmp_path / "x.csv", HEADER, *lines))
    assert whole.tables["book"]["sequence"].to_pylist() == [1, 3]
    refused = [one for block in whole.blocks for one in block.refusals]
    assert [(one.place, one.raw) for one in refused] == [(3, b"\n".join(lines[1:3])), (6, b"torn")]
