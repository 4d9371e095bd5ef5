"""What comes back from quarantine without a number, against a plain set of positions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.ingest import kernel, returned
from k2_dagster.ingest.returned import Original, Returned, originals

POSITIONS = st.tuples(st.integers(0, 1), st.builds(Original, st.integers(0, 1), st.integers(0, 1), st.integers(0, 30)))


@given(st.lists(POSITIONS), st.sets(st.integers(0, 20)))
def test_each_position_lands_once_in_its_partition(copies: list[tuple[int, Original]], saved_at: set[int]) -> None:
    state, seen = Returned(), set()
    for at, copy in enumerate(copies):
        if at in saved_at:
            state = Returned.load(state.dump())
        assert state.claim(*copy) == (kernel.DUPLICATE if copy in seen else kernel.IN_ORDER)
        seen.add(copy)
    assert Returned.load(state.dump()).dump() == state.dump()


def test_neighbours_are_one_stretch_and_the_lowest_is_forgotten_beyond_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(returned, "MAX_STRETCHES", 3)
    state = Returned()
    for offset in (10, 12, 11, 20, 30, 40):
        assert state.claim(0, Original(0, 0, offset)) == kernel.IN_ORDER
    assert [state.claim(0, Original(0, 0, offset)) for offset in (12, 5, 13, 30)] == [
        kernel.HORIZON,
        kernel.HORIZON,
        kernel.IN_ORDER,
        kernel.DUPLICATE,
    ]


def test_a_header_is_read_or_ignored() -> None:
    headers: dict[int, list[tuple[str, bytes | None]]] = {
        0: [("h", b"1/2/33")],
        1: [("h", b"1/2")],
        2: [("h", None)],
        3: [("other", b"1/2/3")],
        4: [("h", b"\xff")],
    }
    assert originals(headers, "h") == {0: Original(1, 2, 33)}
    assert Original.parse(Original(1, 2, 33).header()) == Original(1, 2, 33)
