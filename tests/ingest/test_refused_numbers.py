"""Numbers of refused and unreadable messages: no gap of what is in quarantine, no explanation of what is lost."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from k2_dagster.ingest import kernel
from k2_dagster.ingest.numbering import Numbering
from tests.ingest.judging import dense, judge, judge_split, missing, unexplained
from tests.ingest.oracle import Row

FAR_MS = 10**9


def flagged(sequences: Sequence[tuple[int, int]], *, start: int = kernel.NEVER) -> list[Row]:
    """Messages of one dense key, as (number, flag), one a millisecond."""
    rows = dense([number for number, _ in sequences], start=start)
    return [replace(row, flag=flag) for row, (_, flag) in zip(rows, sequences, strict=True)]


GOOD, REFUSED, UNREADABLE = kernel.GOOD, kernel.REFUSED, kernel.UNREADABLE


def test_any_number_of_refused_messages_in_a_row_may_come_again() -> None:
    refused = range(2, 1_002)
    rows = flagged([(1, GOOD), *((one, REFUSED) for one in refused), (1_002, GOOD), *((one, GOOD) for one in refused)])
    numbering, verdicts, events = judge_split(rows, {100, 1_500}, 0, 0)
    assert verdicts[1_002:] == [kernel.LATE] * 1_000
    assert events == []
    assert missing(numbering) == {((0, "A"), 0, True)}


def test_refused_messages_that_overtook_a_good_one_are_no_gap() -> None:
    rows = flagged([(1, GOOD), *((one, REFUSED) for one in range(3, 153)), (2, GOOD), (153, GOOD)])
    numbering, verdicts, events = judge_split(rows, {2, 152}, 0, 0)
    assert (verdicts[-2:], events) == ([kernel.IN_ORDER] * 2, [])
    assert unexplained(numbering) == 0


@pytest.mark.parametrize("flag", [REFUSED, UNREADABLE])
def test_a_late_message_that_is_refused_explains_the_hole_that_waits_for_it(flag: int) -> None:
    rows = flagged([(1, GOOD), (3, GOOD), (2, flag), *((one, GOOD) for one in range(4, 10))])
    numbering, _, events = judge_split(rows, {2}, 3, FAR_MS)
    assert events == []
    assert unexplained(numbering) == 0


def test_one_unreadable_message_explains_one_hole_and_not_two() -> None:
    rows = flagged([(1, GOOD), (3, GOOD), (5, GOOD), (0, UNREADABLE), *((one, GOOD) for one in range(6, 12))])
    _, _, events = judge_split(rows, {3}, 3, FAR_MS)
    assert [event[1:5] for event in events] == [(kernel.REPORT, (0, "A"), 4, 4)]


def test_a_gap_that_turns_out_to_be_in_quarantine_is_explained_and_may_still_be_filled() -> None:
    rows = flagged([(1, GOOD), (5, GOOD), (6, GOOD), (3, REFUSED), (3, GOOD), (2, GOOD)])
    _, verdicts, events = judge_split(rows, {4}, 1, FAR_MS)
    assert verdicts[-2:] == [kernel.LATE] * 2
    assert [event[1:6] for event in events] == [
        (kernel.REPORT, (0, "A"), 2, 4, 2),
        (kernel.EXPLAIN, (0, "A"), 3, 3, 2),
        (kernel.FILL_EXPLAINED, (0, "A"), 3, 3, 2),
        (kernel.FILL, (0, "A"), 2, 2, 2),
    ]


def test_refused_stretches_ahead_are_bounded() -> None:
    """Far jumps of damaged numbers: the state stays small, and good messages go on as if nothing had been."""
    far = [(10 * one, REFUSED) for one in range(1, 1_000)]
    rows = flagged([(1, GOOD), *far, *((one, GOOD) for one in range(2, 8))])
    numbering, verdicts, events = judge_split(rows, {500}, 0, 0)
    assert verdicts[-6:] == [kernel.IN_ORDER] * 6
    assert len(numbering.open_holes()) == kernel.MAX_AHEAD_PER_KEY + 1
    assert events == []


def test_explained_stretches_are_bounded_and_what_is_beyond_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    most = kernel.MAX_EXPLAINED_PER_KEY
    numbers = range(1, 2 * (most + 40), 2)
    rows = flagged([(number + odd, REFUSED if odd else GOOD) for number in numbers for odd in (0, 1)])
    numbering, _, events = judge_split(rows, {1_000, 20_000}, 0, FAR_MS)
    explained = len(numbering.open_holes()) - unexplained(numbering)
    assert explained == most
    assert {event[1] for event in events} == {kernel.REPORT}


def test_symbols_that_only_garbage_names_are_forgotten_with_the_day() -> None:
    numbering = Numbering()
    strangers = [Row(None, 0, 0, UNREADABLE, (0, f"x{one}"), 0, one, one) for one in range(3_000)]
    judge(numbering, [*dense([1]), *strangers], 20, 5_000)
    assert len(numbering.symbols) == kernel.MAX_STRANGERS + 1
    judge(numbering, [Row((0, "A"), 2, 1, GOOD, (0, "A"), 0, 4_000, kernel.DAY_MS)], 20, 5_000)
    assert numbering.symbols == [(0, "A")]
