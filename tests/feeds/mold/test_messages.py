import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.mold.messages import TAGS, TOLD_ELSEWHERE, Place, decode_messages, encode_messages, placed
from tests.feeds.simulator.simulated import run_feed

BLOCKS, _ = run_feed({"ticks": "channel", "quotes": "channel", "book": "channel"}, messages=400)
ROWS = {one.dataset: one.rows.slice(0, 40) for one in BLOCKS[0].outgoing}
MESSAGES = {dataset: encode_messages(dataset, rows).to_pylist() for dataset, rows in ROWS.items()}
ALL = [message for messages in MESSAGES.values() for message in messages]


def plain(rows: pa.RecordBatch) -> list[dict[str, object]]:
    """Without what a message does not hold; an empty list is no list."""
    told = [name for name in rows.schema.names if name not in TOLD_ELSEWHERE]
    return [{name: value or None for name, value in row.items()} for row in rows.select(told).to_pylist()]


def test_every_dataset_of_a_line_comes_back() -> None:
    assert set(MESSAGES) == set(TAGS)
    decoded = decode_messages(ALL)
    assert decoded.refused == {}
    for dataset, (_, rows) in decoded.rows.items():
        assert plain(rows) == plain(ROWS[dataset])
        assert rows.schema == ROWS[dataset].schema


@given(st.permutations(range(0, len(ALL), 5)))
def test_places_are_those_of_the_messages(order: list[int]) -> None:
    messages = [ALL[place] for place in order]
    for dataset, (places, rows) in decode_messages(messages).rows.items():
        assert encode_messages(dataset, rows).to_pylist() == [messages[place] for place in places.tolist()]


damage = st.one_of(
    st.binary(max_size=80),
    st.tuples(st.sampled_from(ALL), st.integers(0, 300), st.binary(max_size=3)).map(
        lambda one: one[0][: one[1]] + one[2] + one[0][one[1] + len(one[2]) :]
    ),
    st.sampled_from(ALL).map(lambda message: message + b"\0"),
    st.sampled_from(ALL).map(lambda message: message[:-1]),
)


@settings(max_examples=300)
@given(st.lists(st.one_of(damage, st.sampled_from(ALL)), max_size=12))
def test_a_damaged_message_costs_itself_only(messages: list[bytes]) -> None:
    decoded = decode_messages(messages)
    taken: dict[int, bytes] = {}
    for dataset, (places, rows) in decoded.rows.items():
        taken |= dict(zip(places.tolist(), encode_messages(dataset, rows).to_pylist(), strict=True))
    assert sorted([*taken, *decoded.refused]) == list(range(len(messages)))
    assert all(messages[place] == message for place, message in taken.items())
    assert not any(message in ALL for place, message in enumerate(messages) if place in decoded.refused)
    assert all(decoded.refused.values())


def test_rows_get_what_the_packet_and_the_receiver_tell() -> None:
    _, rows = decode_messages(MESSAGES["ticks"][:2]).rows["ticks"]
    place = Place("x", "1", pa.array(["s", "t"]), np.array([7, 1]), np.array([5_000_000, 5_000_001]))
    found = placed(rows, place)
    assert found.schema == rows.schema
    names = ("exchange", "channel", "session", "sequence", "publisher_sequence", "symbol")
    symbols = rows.column("symbol").to_pylist()
    assert [tuple(row[name] for name in names) for row in found.to_pylist()] == [
        ("x", "1", "s", 7, None, symbols[0]), ("x", "1", "t", 1, None, symbols[1]),
    ]  # fmt: skip
    assert found.column("receive_timestamp").cast(pa.int64()).to_pylist() == [5_000_000, 5_000_001]


def test_a_dataset_that_lines_do_not_carry_is_told() -> None:
    with pytest.raises(ConfigurationError, match="control"):
        encode_messages("control", ROWS["ticks"])
