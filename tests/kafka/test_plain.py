"""Places and times read at the ends of runs are those that every message has."""

import numpy as np
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Message
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.kafka.batch import partition_runs
from k2_dagster.kafka.plain import TIME_PIECE_MESSAGES, _offsets, _timestamps

# Per run: partition, then how far the offset and the time move on with each message
STEPS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=2 * TIME_PIECE_MESSAGES)
RUNS = st.lists(st.tuples(st.integers(0, 2), STEPS), max_size=4)


@given(RUNS, st.sampled_from([TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME]))
def test_offsets_and_times_are_those_of_every_message(runs: list[tuple[int, list[tuple[int, int]]]], kind: int) -> None:
    messages, places = [], dict.fromkeys(range(3), (0, 0))
    for partition, steps in runs:
        for offset_step, time_step in steps:
            offset, at = places[partition]
            places[partition] = (offset + offset_step, at + time_step)
            messages.append(Message("t", partition=partition, offset=offset, timestamp=(kind, at)))
    partition_column = np.array([message.partition() for message in messages], np.int32)
    found = partition_runs(partition_column)
    assert _offsets(messages, found).tolist() == [message.offset() for message in messages]
    assert _timestamps(messages, found).tolist() == [message.timestamp()[1] for message in messages]
