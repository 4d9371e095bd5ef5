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
from k2_dagster.feeds.channels import Event, FeedState, Grace, judge, open_holes
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import load_profiles
from proofs.capture_rows import DATASETS, add_rows
from proofs.capture_truth import Truth

PROFILES = load_profiles()


@dataclass
class Whole:
    """A capture's blocks put together. `arrivals` is what its channels carried, `events` what the feed handler makes of
    that."""

    format: str
    exchange: str
    tables: dict[str, pa.Table]
    blocks: list[Block]
    arrivals: pa.Table
    events: list[Event]

    @property
    def refusals(self) -> list[tuple[int, str, str, str]]:
        """(place, dataset, symbol, reason) of each."""
        return [(one.place, one.dataset, one.symbol, one.reason) for block in self.blocks for one in block.refusals]

    @property
    def inputs(self) -> int:
        return sum(block.inputs for block in self.blocks)

    @property
    def skipped(self) -> Counter[str]:
        return Counter(skip.what for block in self.blocks for skip in block.skips)

    def stream(self, dataset: str, name: str) -> pa.Table:
        """The rows of one stream, in file order."""
        table = self.tables[dataset]
        return table.filter(pc.equal(table["stream"], name))


def read_whole(path: Path, exchange: str | None = None) -> Whole:
    """Recognise and normalise a capture, and judge its channels."""
    capture = open_capture(path, exchange)
    blocks = list(capture.blocks())
    schemas = {dataset: wire_schema(declared) for dataset, declared in WIRE_DATASETS.items()}
    tables = {
        dataset: pa.Table.from_batches([block.rows[dataset].batch for block in blocks if dataset in block.rows], schema)
        for dataset, schema in schemas.items()
    }
    arrivals = [block.arrivals.batch for block in blocks if block.arrivals is not None]
    profile = PROFILES.exchange(capture.exchange)
    grace = Grace(profile.gap_grace_messages, profile.gap_grace_seconds)
    state: FeedState = {}
    events: list[Event] = []
    for batch in arrivals:
        state, found = judge(state, batch, grace)
        events += found
    events += open_holes(state, 0, dict.fromkeys(state, "tops"))
    seen = pa.Table.from_batches(arrivals, schemas["control"])
    return Whole(capture.format.name, capture.exchange, tables, blocks, seen, events)


def counts(whole: Whole) -> Truth:
    """The same counts and digests as `proofs.capture_truth` makes, of normalised rows (control rows apart)."""
    truth = Truth()
    for dataset in DATASETS:
        add_rows(truth, dataset, whole.tables[dataset])
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
