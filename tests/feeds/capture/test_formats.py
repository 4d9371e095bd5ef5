import gzip
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture import source
from k2_dagster.feeds.capture.binance_csv import DEPTH_HEADER
from k2_dagster.feeds.capture.formats import FORMATS, Format, open_capture
from k2_dagster.feeds.capture.source import open_source
from k2_dagster.schemas.profiles import load_profiles
from tests.feeds.capture.support import read_whole, written


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_the_packaged_profiles_declare_every_stream_of_the_format(one: Format) -> None:
    profile = load_profiles().exchange(one.exchange)
    assert [profile.stream(dataset, stream) for dataset, stream in one.streams].count(None) == 0


@pytest.mark.captures
def test_every_sample_is_recognised_and_gives_only_declared_streams(sample_data: Path) -> None:
    seen = set()
    for folder in ("binance_ws", "venues_ws", "binance_csv", "iex"):
        for path in sorted((sample_data / folder).glob("*.gz")):
            capture = open_capture(path)
            seen.add(capture.format.name)
            declared = set(capture.format.streams)
            whole = read_whole(path)
            for dataset in ("ticks", "quotes", "book"):
                streams = whole.tables[dataset]["stream"].unique().to_pylist()
                assert {(dataset, stream) for stream in streams} <= declared
    assert seen == {one.name for one in FORMATS} - {"us_equities", "binance_usdm_ws"}


def test_an_unknown_file_says_what_it_is_and_what_would_be_known(tmp_path: Path) -> None:
    with pytest.raises(CaptureInvalid, match=r"line 1: no known capture format; x starts with b'hello'") as caught:
        open_capture(written(tmp_path / "x", b"hello", b"world"))
    assert all(one.expected in str(caught.value) for one in FORMATS)


def test_an_empty_and_an_absent_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(CaptureInvalid, match="empty"):
        open_capture(tmp_path / "x")
    with pytest.raises(CaptureInvalid, match="No such file"):
        open_capture(tmp_path / "y")


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    line = b'1723161253937085768 {"stream":"x@trade","data":{}}\n'
    whole = gzip.compress(line * 1_000)
    (tmp_path / "x.gz").write_bytes(whole[:-10])
    with pytest.raises(CaptureInvalid, match=r"x\.gz.*cut short"):
        read_whole(tmp_path / "x.gz")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("one", "1")
        archive.writestr("two", "2")
    with pytest.raises(CaptureInvalid, match="2 members"):
        open_capture(tmp_path / "x.zip")


def test_a_file_without_line_ends_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", 10)
    monkeypatch.setattr(source, "MAX_LINE_BYTES", 25)
    (tmp_path / "x").write_bytes(b"short\n" + b"x" * 100)
    with pytest.raises(CaptureInvalid, match="line 2: no line end"):
        list(open_source(tmp_path / "x").lines())


@pytest.mark.parametrize("block_bytes", [1, 3, 1_000])
def test_lines_are_the_same_however_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", block_bytes)
    (tmp_path / "x").write_bytes(b"a\r\nbb\n\nlast")
    blocks = list(open_source(tmp_path / "x").lines())
    assert [line for _, lines in blocks for line in lines] == [b"a", b"bb", b"", b"last"]
    assert [number + place for number, lines in blocks for place in range(len(lines))] == [1, 2, 3, 4]


def test_the_session_follows_the_content_not_the_name_or_compression(tmp_path: Path) -> None:
    line = b'1723161253937085768 {"stream":"x@trade","data":{}}\n'
    (tmp_path / "a").write_bytes(line)
    (tmp_path / "b.gz").write_bytes(gzip.compress(line))
    (tmp_path / "c").write_bytes(line * 2)
    first, second, third = (open_capture(tmp_path / name).publisher_session for name in ("a", "b.gz", "c"))
    assert first == second != third
    assert first.startswith("binance_ws-3-")


@pytest.mark.parametrize("content", [DEPTH_HEADER + b"\n", b"\xd4\xc3\xb2\xa1\2\0\4\0" + b"\0" * 12 + b"\1\0\0\0"])
def test_a_capture_with_nothing_in_it_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CaptureInvalid, match="x: nothing is in this"):
        read_whole(tmp_path / "x")


@pytest.mark.captures
def test_a_block_comes_apart_at_any_input(sample_data: Path) -> None:
    (block,) = open_capture(sample_data / "venues_ws" / "KRAKEN.ws.48.0.gz").blocks()
    for cut in range(block.first, block.first + block.inputs + 1, 7):
        parts = [block.between(block.first, cut), block.between(cut, block.first + block.inputs)]
        assert sum(part.inputs for part in parts) == block.inputs
        assert [skip for part in parts for skip in part.skips] == list(block.skips)
        for dataset, rows in block.rows.items():
            pieces = [part.rows[dataset].batch for part in parts if dataset in part.rows]
            assert pa.Table.from_batches(pieces).equals(pa.Table.from_batches([rows.batch]))
