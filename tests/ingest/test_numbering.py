"""The compiled judge against plain sets of numbers, under every split of the rows into batches."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.ingest import kernel
from k2_dagster.ingest.numbering import Numbering
from tests.ingest.judging import dense, judge, judge_split, missing, received, state_of, unexplained
from tests.ingest.oracle import Oracle, Row

DENSE, RANGE, LINKED = "dense", "range", "linked"
# (partition, symbol, domain, number before the first): four sequences, two of them of one symbol
KEYS = ((0, "A", DENSE, kernel.NEVER), (0, "A", RANGE, kernel.NEVER), (0, "B", LINKED, 0), (1, "A", DENSE, 0))
FLAGS = (kernel.GOOD,) * 24 + (kernel.REFUSED,) * 4 + (kernel.UNREADABLE, kernel.SKIPPED) * 2
BACK = (kernel.RETURNED, kernel.RETURNED_REFUSED)
# Believed at once beyond the last number: of dense keys, and of the others.
FAR = (9, 15)
STEPS = (0,) * 6 + (1, 2, 5, -1, -2, -3, -8)
JUMPS = (14, 15, 16, 24)


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    """Messages of some keys, mostly going on where their key was, with holes, repeats, returns and damage."""
    nexts = [1] * len(KEYS)
    now = 1_000
    rows = []
    for offset in range(draw(st.integers(1, 60))):
        place = draw(st.integers(0, len(KEYS) - 1))
        partition, symbol, domain, start = KEYS[place]
        jumps = draw(st.integers(0, 5)) == 0
        sequence = max(1, nexts[place] + draw(st.sampled_from(JUMPS if jumps else STEPS)))
        width = 1 if domain == DENSE else draw(st.integers(1, 4))
        flag = draw(st.sampled_from(FLAGS + BACK * jumps))
        # half of the jumps are damage: the numbers go on where they were
        if flag == kernel.GOOD and (not jumps or draw(st.booleans())):
            nexts[place] = max(nexts[place], sequence + width)
        now += draw(st.sampled_from((0, 0, 1, 3, 10, -5)))
        last = sequence + width - 1
        key = (partition, domain, symbol)
        named = (partition, symbol) if flag != kernel.UNREADABLE or draw(st.booleans()) else None
        rows.append(Row(key, last, sequence - 1, flag, named, partition, offset, now, domain == LINKED, start))
    return rows


@settings(max_examples=250, deadline=None)
@given(histories(), st.sampled_from((0, 1, 3, 20)), st.sampled_from((0, 4, 15, 10_000)), st.sets(st.integers(1, 59)))
def test_any_split_agrees_with_plain_sets(rows: list[Row], grace_messages: int, grace_ms: int, cuts: set[int]) -> None:
    oracle = Oracle(grace_messages, grace_ms, FAR)
    for row in rows:
        oracle.judge(row)
    whole, verdicts, events = judge_split(rows, set(), grace_messages, grace_ms, FAR)
    assert verdicts == oracle.verdicts
    assert events == oracle.events
    assert missing(whole) == oracle.open_numbers()
    assert received(whole) == {
        key: (state.first, *state.times, state.late, state.duplicates)
        for key, state in oracle.keys.items()
        if state.first is not None
    }
    parts, split_verdicts, split_events = judge_split(rows, cuts, grace_messages, grace_ms, FAR)
    assert (split_verdicts, split_events) == (verdicts, events)
    assert state_of(parts) == state_of(whole)


FAR_MS = 10**9


def test_swapped_neighbours_are_late_and_nobody_hears_of_it() -> None:
    swapped = [number for pair in range(1, 41, 2) for number in (pair + 1, pair)]
    _, verdicts, events = judge_split(dense(swapped, start=0), set(), 20, FAR_MS)
    assert verdicts == [kernel.IN_ORDER, kernel.LATE] * 20
    assert events == []


def test_a_hole_becomes_a_gap_after_the_grace_in_messages() -> None:
    rows = dense([1, 5, *range(6, 12)])
    _, _, events = judge_split(rows, set(), 3, FAR_MS)
    assert [event[:7] for event in events] == [(4, kernel.REPORT, (0, "A"), 2, 4, 2, 1)]
    assert [event[7:] for event in events] == [(rows[0].micros, rows[1].micros)]


def test_a_hole_becomes_a_gap_when_another_symbol_of_the_partition_shows_that_time_has_passed() -> None:
    rows = [*dense([1, 5]), Row((0, "B"), 1, 0, kernel.GOOD, (0, "B"), 0, 2, 5_001)]
    _, _, events = judge_split(rows, {2}, 1_000, 5_000)
    assert [event[:7] for event in events] == [(2, kernel.REPORT, (0, "A"), 2, 4, 2, 1)]


def test_time_of_another_partition_proves_nothing() -> None:
    rows = [*dense([1, 5]), Row((1, "B"), 1, 0, kernel.GOOD, (1, "B"), 1, 0, 50_000)]
    _, _, events = judge_split(rows, set(), 1_000, 5_000)
    assert events == []


def test_a_reported_gap_is_filled_in_pieces() -> None:
    rows = dense([1, 10, 11, 5, 4, 5])
    numbering, verdicts, events = judge_split(rows, {3, 4}, 1, FAR_MS)
    assert verdicts == [kernel.IN_ORDER] * 3 + [kernel.LATE, kernel.LATE, kernel.DUPLICATE]
    assert [event[1:5] for event in events] == [
        (kernel.REPORT, (0, "A"), 2, 9),
        (kernel.FILL, (0, "A"), 5, 5),
        (kernel.FILL, (0, "A"), 4, 4),
    ]
    assert {event[5] for event in events} == {2}
    assert sorted(number for _, number, explained in missing(numbering) if not explained) == [2, 3, 6, 7, 8, 9]


def test_a_range_whose_last_number_has_come_in_another_is_its_duplicate_and_fills_nothing() -> None:
    spans = [(1, 4), (10, 20), (14, 18), (6, 8), (4, 10)]
    rows = [Row((0, "A"), last, before, kernel.GOOD, (0, "A"), 0, at, at) for at, (before, last) in enumerate(spans)]
    for cuts in (set(), {3}, {4}):
        numbering, verdicts, _ = judge_split(rows, cuts, 10**6, FAR_MS)
        assert verdicts == [kernel.IN_ORDER] * 2 + [kernel.DUPLICATE, kernel.LATE, kernel.LATE]
        assert [number for _, number, explained in missing(numbering) if not explained] == []


def test_a_range_over_a_hole_that_ends_in_what_has_landed_leaves_the_hole_open() -> None:
    spans = [(1, 4), (10, 20), (4, 15)]
    rows = [Row((0, "A"), last, before, kernel.GOOD, (0, "A"), 0, at, at) for at, (before, last) in enumerate(spans)]
    numbering, verdicts, _ = judge_split(rows, set(), 10**6, FAR_MS)
    assert verdicts == [kernel.IN_ORDER, kernel.IN_ORDER, kernel.DUPLICATE]
    assert sorted(number for _, number, explained in missing(numbering) if not explained) == [5, 6, 7, 8, 9, 10]


def test_a_first_message_opens_no_hole_unless_the_beginning_is_known() -> None:
    assert judge_split(dense([7]), set(), 0, 0)[2] == []
    (event,) = judge_split(dense([7], start=0), set(), 0, 0)[2]
    assert event[:8] == (0, kernel.REPORT, (0, "A"), 1, 6, 1, 0, kernel.NEVER)


def test_numbers_before_the_first_one_seen_are_late_once_and_never_a_gap() -> None:
    _, verdicts, events = judge_split(dense([12, 4, 5, 4, 12, 13]), {2, 4}, 0, 0)
    late, duplicate = kernel.LATE, kernel.DUPLICATE
    assert verdicts == [kernel.IN_ORDER, late, late, duplicate, duplicate, kernel.IN_ORDER]
    assert events == []


def test_the_holes_of_a_key_are_bounded_and_what_is_forgotten_was_reported_and_is_beyond_the_horizon() -> None:
    holes = kernel.MAX_HOLES_PER_KEY + 50
    odd = list(range(1, 2 * holes + 2, 2))  # a hole of one before each but the first
    rows = dense([*odd, 2, 102, 2 * holes, 1])
    splits = [judge_split(rows, cuts, 10**6, FAR_MS) for cuts in (set(), {100, 290, 301}, set(range(len(rows))))]
    numbering, verdicts, events = splits[0]
    assert verdicts[-4:] == [kernel.HORIZON, kernel.LATE, kernel.LATE, kernel.HORIZON]
    assert [(kind, first) for _, kind, _, first, *_ in events] == [(kernel.REPORT, 2 * one) for one in range(1, 51)]
    assert unexplained(numbering) == kernel.MAX_HOLES_PER_KEY - 2
    for other in splits[1:]:
        assert other[1:] == splits[0][1:]
        assert other[0].dump() == numbering.dump()


def test_a_split_beyond_the_bound_reports_the_hole_and_its_fill_and_forgets_the_lower_part() -> None:
    holes = kernel.MAX_HOLES_PER_KEY
    wide = [1, 11, *range(13, 13 + 2 * (holes - 1), 2)]  # 2..10, then single holes up to the bound
    numbering, verdicts, events = judge_split(dense([*wide, 5, 3, 8]), {20}, 10**6, FAR_MS)
    assert verdicts[-3:] == [kernel.LATE, kernel.HORIZON, kernel.LATE]
    assert [event[1:6] for event in events] == [
        (kernel.REPORT, (0, "A"), 2, 10, 2),
        (kernel.FILL, (0, "A"), 5, 5, 2),
        (kernel.FILL, (0, "A"), 8, 8, 2),
    ]
    assert unexplained(numbering) <= holes


def test_forgetting_keys_keeps_the_holes_of_the_others() -> None:
    numbering = Numbering()
    rows = [
        Row((0, name), number, number - 1, kernel.GOOD, (0, name), 0, offset, 0)
        for offset, (name, number) in enumerate([("A", 1), ("B", 1), ("C", 1), ("A", 3), ("B", 3), ("C", 3)])
    ]
    judge(numbering, rows, 100, FAR_MS)
    numbering.forget({1})
    # number 0 is what was before the first that was seen
    assert missing(numbering) == {((0, name), *hole) for name in "AC" for hole in ((0, True), (2, False))}
    _, events = judge(numbering, [Row((0, "C"), 4, 3, kernel.GOOD, (0, "C"), 0, 6, FAR_MS)], 100, FAR_MS)
    assert [event[2] for event in events] == [(0, "A"), (0, "C")]


@pytest.mark.parametrize("count", [0, 1, 2_000])
def test_state_survives_bytes(count: int) -> None:
    numbering = Numbering()
    rows = [
        Row((0, None, name), 2 * number, 2 * number - 1, kernel.GOOD, (0, name), 0, offset, offset)
        for offset, (name, number) in enumerate((f"S{one % 1500}", 1 + one // 1500) for one in range(count))
    ]
    if rows:
        judge(numbering, rows, 5, 5)
    again = Numbering.load(numbering.dump())
    assert again.dump() == numbering.dump()
    assert again.keys == numbering.keys
    assert again.open_holes() == numbering.open_holes()
