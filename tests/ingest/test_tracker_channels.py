"""Rows of a channel: each number lands once, whoever brings it, in whatever order."""

from dataclasses import replace

import pytest

from k2_dagster.ingest import kernel
from k2_dagster.state.tracked import PUBLISHER, VENUE
from tests.ingest.test_tracker import DAY, judge_split
from tests.ingest.tracker_model import HORIZON_MS, Message

LIVE, AGAIN, OTHER = "p", "recovered-1", "recovered-2"
# Numbers of one symbol in a channel, sparse: 12 came behind its turn in the feed, or by recovery, or by both.
IN_TURN = [Message(0, sequence=None, shared=10, number=1), Message(1, sequence=None, shared=17, number=2)]


@pytest.mark.parametrize("cuts", [set(), {3}, {1, 2, 3, 4, 5}])
@pytest.mark.parametrize(("first", "second"), [(LIVE, AGAIN), (AGAIN, LIVE), (AGAIN, OTHER)])
def test_what_came_late_and_is_recovered_lands_once(first: str, second: str, cuts: set[int]) -> None:
    late = Message(2, sequence=None, shared=12, publisher=first, number=3 if first == LIVE else 1)
    again = Message(3, sequence=None, shared=12, publisher=second, number=3 if second == LIVE else 1)
    other = Message(4, sequence=None, shared=13, publisher=second, number=again.number + 1)
    tracker, verdicts, events = judge_split([*IN_TURN, late, again, other, replace(again, offset=5)], cuts)
    landed, copy = kernel.IN_ORDER, kernel.DUPLICATE
    assert verdicts == [landed, landed, landed, copy, landed, copy]
    assert events == {VENUE: [], PUBLISHER: []}
    (found,) = tracker.channels.remembered().values()
    assert found == (17, kernel.NEVER, [12, 13])


@pytest.mark.parametrize("cuts", [set(), {1, 2, 3}])
@pytest.mark.parametrize(("first", "second"), [(LIVE, AGAIN), (AGAIN, LIVE)])
def test_what_is_late_in_its_channel_is_known_though_its_symbol_has_nothing_newer(
    first: str, second: str, cuts: set[int]
) -> None:
    """Which is why the feed handler says so: 25 is in the order of its symbol."""
    late = Message(2, sequence=None, shared=25, publisher=first, number=3 if first == LIVE else 1, is_aside=True)
    newer = Message(3, sequence=None, shared=40, number=4 if first == LIVE else 3)
    again = Message(4, sequence=None, shared=25, publisher=second, number=4 if second == LIVE else 1, is_aside=True)
    assert judge_split([*IN_TURN, late, newer, again], cuts)[1] == [kernel.IN_ORDER] * 4 + [kernel.DUPLICATE]


def test_numbers_of_other_channels_sessions_symbols_and_streams_are_others() -> None:
    copy = Message(2, sequence=None, shared=17, number=3)
    others = [replace(copy, channel="2"), replace(copy, session="t"), replace(copy, symbol="B")]
    others.append(replace(copy, stream="auction"))
    for one in others:
        assert judge_split([*IN_TURN, one], set())[1] == [kernel.IN_ORDER] * 3
    assert judge_split([*IN_TURN, copy], set())[1][-1] == kernel.DUPLICATE


def test_a_refused_message_does_not_claim_its_number_in_a_channel() -> None:
    refused = Message(2, sequence=None, shared=20, flag=kernel.REFUSED, number=3)
    good = Message(3, sequence=None, shared=20, publisher=None)
    assert judge_split([*IN_TURN, refused, good, replace(good, offset=4)], {3})[1][3:] == [
        kernel.IN_ORDER,
        kernel.DUPLICATE,
    ]


def test_numbers_of_a_channel_are_forgotten_with_their_session() -> None:
    days = [(0, "old", 1), (DAY, "new", 1), (DAY + HORIZON_MS + 1, "old", 2), (2 * DAY + 2 * HORIZON_MS, "new", 2)]
    messages = [
        Message(at, time_ms=time_ms, session=session, sequence=None, shared=number, number=at + 1)
        for at, (time_ms, session, number) in enumerate(days)
    ]
    tracker, verdicts, _ = judge_split(messages, {2})
    assert verdicts == [kernel.IN_ORDER, kernel.IN_ORDER, kernel.HORIZON, kernel.IN_ORDER]
    assert [key[3] for key in tracker.channels.remembered()] == ["new"]
