"""What the tests of every venue share: a capture read whole, and files made of lines."""

import gzip
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.feeds.capture.block import Block
from k2_dagster.feeds.capture.formats import open_capture
from k2_dagster.feeds.capture.player import stamped_blocks
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import load_profiles
from proofs.capture_truth import Truth, utc_day

PROFILES = load_profiles()


@dataclass
class Whole:
    """A capture's blocks put together."""

    format: str
    exchange: str
    tables: dict[str, pa.Table]
    blocks: list[Block]

    @property
    def refusals(self) -> list[tuple[int, str, str, str]]:
        """(place, dataset, symbol, reason) of each."""
        return [(one.place, one.dataset, one.symbol, one.reason) for block in self.blocks for one in block.refusals]

    @property
    def inputs(self) -> int:
        return sum(block.inputs for block in self.blocks)

    @property
    def skipped(self) -> Counter[str]:
        return sum((Counter(block.skipped) for block in self.blocks), Counter())

    def stream(self, dataset: str, name: str) -> pa.Table:
        """The rows of one stream, in file order."""
        table = self.tables[dataset]
        return table.filter(pc.equal(table["stream"], name))


def read_whole(path: Path, exchange: str | None = None) -> Whole:
    """Recognise, normalise and stamp a capture."""
    capture = open_capture(path, exchange)
    profile = PROFILES.exchange(capture.exchange)
    blocks = list(stamped_blocks(capture, profile, capture.publisher_session))
    tables = {
        dataset: pa.Table.from_batches(
            [block.batches[dataset] for block in blocks if dataset in block.batches], wire_schema(declared)
        )
        for dataset, declared in WIRE_DATASETS.items()
    }
    return Whole(capture.format.name, capture.exchange, tables, blocks)


def counts(whole: Whole) -> Truth:
    """The same counts as `proofs.capture_truth` makes, of normalised rows (control rows apart)."""
    truth = Truth()
    for dataset, table in whole.tables.items():
        if dataset != "control":
            micros = table["exchange_timestamp"].cast(pa.int64()).to_pylist()
            for symbol, one in zip(table["symbol"].to_pylist(), micros, strict=True):
                truth.rows[dataset] += 1
                truth.symbols[dataset, symbol] += 1
                truth.days[dataset, utc_day(one)] += 1
    return truth


def assert_dense(table: pa.Table) -> None:
    """Numbers of each symbol rise by one."""
    for symbol in table["symbol"].unique().to_pylist():
        numbers = table.filter(pc.equal(table["symbol"], symbol))["sequence"].to_numpy()
        assert (np.diff(numbers) == 1).all(), symbol


def written(path: Path, *lines: bytes) -> Path:
    """A plain capture of these lines."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def first_lines(path: Path, count: int) -> list[bytes]:
    """The first lines of a gzipped capture."""
    with gzip.open(path) as stream:
        return [next(stream).rstrip(b"\n") for _ in range(count)]
