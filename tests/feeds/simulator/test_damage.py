import io

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.encode import AvroEncoder
from k2_dagster.feeds.simulator.damage import damaged
from k2_dagster.feeds.simulator.truth import DAMAGES
from k2_dagster.schemas.avro import avro_schema, avro_schema_text
from k2_dagster.schemas.control import CONTROL
from k2_dagster.schemas.datasets import dataset_named
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
