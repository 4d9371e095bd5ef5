import io

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.encode import AvroEncoder
from k2_dagster.feeds.simulator.damage import damage_of_number, damaged, with_far_numbers
from k2_dagster.feeds.simulator.truth import DAMAGES
from k2_dagster.ingest.terms import Terms
from k2_dagster.schemas.avro import avro_schema, avro_schema_text
from k2_dagster.schemas.control import CONTROL
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.declaration import MAX_SEQUENCE
from tests.feeds.simulator.simulated import run_feed

DATASETS = ("ticks", "quotes", "book")
_BLOCKS, _ = run_feed({"ticks": "dense", "quotes": "channel", "book": "linked"}, messages=3_000)
MESSAGES = {
    one.dataset: AvroEncoder(avro_schema_text(dataset_named(one.dataset)), 5).encode(one.rows).to_pylist()
    for one in _BLOCKS[0].outgoing
}


def reads(value: bytes, schema: object) -> bool:
    """Whether an independent reader takes exactly these bytes for a record."""
    body = io.BytesIO(value)
    try:
        fastavro.schemaless_reader(body, schema, None)  # type: ignore[arg-type]
    except (EOFError, ValueError, IndexError, OverflowError, UnicodeDecodeError, KeyError):
        return False
    return not body.read()


@pytest.mark.parametrize("dataset", DATASETS)
@given(place=st.integers(0, 10_000))
def test_each_damage_is_one_that_a_reader_must_see(dataset: str, place: int) -> None:
    messages = MESSAGES[dataset]
    value = messages[place % len(messages)]
    own, other = avro_schema(dataset_named(dataset)), avro_schema(CONTROL)
    hurt = {name: damaged(value, 1 + place, 9) for place, (name, _) in enumerate(DAMAGES)}
    assert reads(value[5:], own)
    assert hurt["truncated"][:5] == value[:5]
    assert not reads(hurt["truncated"][5:], own)
    assert hurt["flipped"][:5] == value[:5]
    assert not reads(hurt["flipped"][5:], own)
    assert hurt["foreign_schema"] == b"\0\0\0\0\x09" + value[5:]
    assert not reads(value[5:], other)
    assert hurt["unframed"][0] != 0


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("by_venue", [True, False])
@given(chosen=st.sets(st.integers(0, 400)))
def test_a_number_far_ahead_is_all_that_its_damage_changes(dataset: str, by_venue: bool, chosen: set[int]) -> None:
    rows = next(one.rows for one in _BLOCKS[0].outgoing if one.dataset == dataset).slice(0, 401)
    damage = np.zeros(rows.num_rows, np.int64)
    hurt_at = np.array(sorted(one for one in chosen if one < rows.num_rows), np.int64)
    damage[hurt_at] = damage_of_number(by_venue=by_venue)
    name = "sequence" if by_venue else "publisher_sequence"
    hurt = with_far_numbers(rows, damage)
    assert hurt.drop_columns([name]).equals(rows.drop_columns([name]))
    before, after = (one.column(name).to_numpy() for one in (rows, hurt))
    assert np.array_equal(np.flatnonzero(before != after), hurt_at)
    assert all(5 * 10**15 < one <= MAX_SEQUENCE for one in after[hurt_at].tolist())


def test_numbers_that_follow_each_other_are_spoiled_so_that_none_confirms_the_next() -> None:
    pairs = pa.nulls(2_000, pa.int64())
    rows = pa.RecordBatch.from_pydict({"sequence": pa.array(range(1, 2_001)), "publisher_sequence": pairs})
    hurt = with_far_numbers(rows, np.full(2_000, damage_of_number(by_venue=True)))
    most = Terms(0, 0, 1).believed(sparse=True)
    assert np.abs(np.diff(hurt.column("sequence").to_numpy())).min() > most
    assert hurt.column("publisher_sequence").null_count == 2_000
