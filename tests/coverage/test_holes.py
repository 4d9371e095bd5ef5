"""What is still missing of a gap, out of a tracker's state: held to a plain set of numbers."""

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.coverage.holes import holes_of
from k2_dagster.ingest import kernel
from k2_dagster.ingest.numbering import Numbering
from k2_dagster.state.frames import unframed
from tests.ingest.judging import judge
from tests.ingest.oracle import Row

OTHER = (0, "trade", "trade", None, "B")


def tables(keys: dict[Any, list[int]]) -> dict[str, pa.Table]:
    """The state after these numbers of each key came, in order."""
    numbering = Numbering()
    arrivals = [(key, number) for key, numbers in keys.items() for number in numbers]
    rows = [
        Row(
            key=key, sequence=number, previous=number - 1, flag=kernel.GOOD, symbol=(0, key[-1]), partition=0,
            offset=offset, time_ms=offset, start=kernel.NEVER, sparse=False,
        )
        for offset, (key, number) in enumerate(arrivals)
    ]  # fmt: skip
    judge(numbering, rows, 2, 5_000)
    return dict(unframed(numbering.dump()))


def gap(first: int, last: int, **values: Any) -> dict[str, Any]:
    named = {"kafka_partition": 0, "stream": "trade", "kind": "trade", "session": "", "symbol": "A"}
    return {**named, "first_sequence": first, "last_sequence": last, **values}


@given(
    numbers=st.lists(st.integers(10, 60), min_size=1, max_size=40),
    others=st.lists(st.integers(10, 60), max_size=20),
    session=st.sampled_from(["", "monday"]),
    bounds=st.tuples(st.integers(10, 60), st.integers(10, 60)).map(sorted),
)
def test_what_did_not_come_between_the_first_and_the_last_is_missing(
    numbers: list[int], others: list[int], session: str, bounds: list[int]
) -> None:
    key = (0, "trade", "trade", session or None, "A")
    found = holes_of(tables({key: numbers, OTHER: others}), gap(*bounds, session=session))
    assert found is not None
    came, (first, last) = set(numbers), bounds
    wanted = [one for one in range(first, last + 1) if one not in came and one < max(numbers)]
    assert [one for low, high in found for one in range(low, high + 1)] == wanted
    assert found == sorted(found)


def test_of_a_session_that_nobody_remembers_nothing_is_known() -> None:
    state = tables({OTHER: [1, 5]})
    assert holes_of(state, gap(2, 4)) is None
    assert holes_of(state, gap(2, 4, symbol="B")) == [(2, 4)]
    assert holes_of(state, gap(2, 4, symbol="B", session="monday")) is None
    assert holes_of(dict(unframed(Numbering().dump())), gap(2, 4)) is None
