"""Damage at random places of real captures: nothing crashes, and every line is a row, a refusal or counted."""

import gzip
import random
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.formats import open_capture
from k2_dagster.feeds.encode import AvroEncoder
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS
from tests.feeds.capture.support import Whole, read_whole

pytestmark = pytest.mark.captures
LINES = 400
ROUNDS = 15
# One row per line in these, so that the sum is exact; in the others a line may hold several.
ONE_ROW_PER_LINE = {"binance_ws", "binance_coinm_ws", "coinbase_ws", "binance_trade_csv"}
SAMPLES = [
    "binance_ws/spot_btcusdt_20240808.gz",
    "binance_ws/cm_ethusd_perp_20240808.gz",
    "venues_ws/COINBASE.ws.28.0.gz",
    "venues_ws/KRAKEN.ws.48.0.gz",
    "venues_ws/KRAKEN_FUTURES.ws.1.0.gz",
    "binance_csv/test_positive_binance_trade_stream_spot_trxusdt_04-03-2025.csv.gz",
    "binance_csv/test_positive_binance_difference_depth_stream_spot_trxusdt_04-03-2025.csv.gz",
]


def _damaged(data: bytes, chance: random.Random, start: int) -> bytes:
    out = bytearray(data)
    for _ in range(chance.randint(1, 40)):
        place = chance.randrange(start, len(out))
        if out[place] == 0x0A:
            continue
        out[place] = chance.choice((chance.randrange(256), *b'"{}[],.:-e0123456789n')) or 0x20
        if out[place] == 0x0A:
            out[place] = 0x20
    return bytes(out)


def _assert_publishable(whole: Whole) -> None:
    """Every row can be encoded as it is: nothing that `play` would stop at."""
    for dataset, table in whole.tables.items():
        rows = (
            pa.RecordBatch.from_pylist([], table.schema) if not len(table) else table.combine_chunks().to_batches()[0]
        )
        assert len(AvroEncoder(avro_schema_text(WIRE_DATASETS[dataset]), 1).encode(rows)) == len(table)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_damaged_lines_are_accounted_for(sample_data: Path, tmp_path: Path, name: str, seed: int) -> None:
    with gzip.open(sample_data / name) as stream:
        lines = [line for _, line in zip(range(LINES), stream, strict=False)]
    data = _damaged(b"".join(lines), random.Random(seed), len(lines[0]))
    (tmp_path / "x").write_bytes(data)
    assert open_capture(tmp_path / "x").format.name == open_capture(sample_data / name).format.name
    whole = read_whole(tmp_path / "x")
    header = whole.format.endswith("_csv")
    assert whole.inputs == data.count(b"\n") - header
    rows = sum(len(table) for table in whole.tables.values())
    if whole.format in ONE_ROW_PER_LINE:
        assert whole.inputs == rows + len(whole.refusals) + whole.skipped.total()
    _assert_publishable(whole)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_damaged_us_equities(sample_data: Path, tmp_path: Path, seed: int) -> None:
    with zipfile.ZipFile(sample_data / "us_equities" / "aig_20131007_quote.zip") as archive:
        lines = archive.read(archive.namelist()[0]).split(b"\n")[:LINES]
        name = archive.namelist()[0]
    data = _damaged(b"\n".join(lines), random.Random(seed), 0)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, data)
    whole = read_whole(tmp_path / "x.zip")
    assert whole.inputs == len(lines) == len(whole.tables["quotes"]) + len(whole.refusals) + whole.skipped.total()
    _assert_publishable(whole)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_damaged_network_capture_is_refused_by_packet_or_as_a_whole(
    sample_data: Path, tmp_path: Path, seed: int
) -> None:
    with gzip.open(sample_data / "iex" / "TOPS16.pcapng.gz") as stream:
        data = stream.read(60_000)
    (tmp_path / "x").write_bytes(_damaged(data, random.Random(seed), 24))
    refused = ""
    try:
        whole = read_whole(tmp_path / "x")
    except CaptureInvalid as error:
        refused = str(error)
    if refused:
        assert str(tmp_path) in refused
    else:
        assert whole.inputs > 0
        _assert_publishable(whole)
