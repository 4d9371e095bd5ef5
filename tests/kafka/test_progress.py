"""When a silence is a stall, an outage, or just silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import ReaderStalled
from k2_dagster.kafka.progress import Patience, Progress, Remedy

PATIENCE = Patience(check_seconds=10, stall_seconds=30, outage_seconds=60)


def progress(starts: dict[int, int]) -> Progress:
    return Progress("topic", starts, PATIENCE)


def test_positions_follow_messages_and_ends() -> None:
    one = progress({0: 5, 1: 7})
    one.delivered(0, 9)
    one.reached_end(1, 8)
    assert one.positions == {0: 9, 1: 8}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1_000)), max_size=30))
def test_an_end_never_moves_a_position_back(steps: list[tuple[bool, int]]) -> None:
    one, last = progress({0: 0}), 0
    for is_end, offset in steps:
        if is_end:
            one.reached_end(0, offset)
        elif offset >= last:
            one.delivered(0, offset)
        assert one.positions[0] >= last
        last = one.positions[0]


def test_everywhere_at_end_means_every_partition_and_no_message_since() -> None:
    one, seen = progress({0: 0, 1: 0}), []
    one.reached_end(0, 0)
    seen.append(one.everywhere_at_end)
    one.reached_end(1, 0)
    seen.append(one.everywhere_at_end)
    one.delivered(1, 1)
    seen.append(one.everywhere_at_end)
    assert seen == [False, True, False]


def test_the_end_of_a_partition_that_is_not_assigned_is_ignored() -> None:
    one = progress({0: 0})
    one.reached_end(3, 10)
    assert one.positions == {0: 0}
    assert not one.everywhere_at_end


def test_an_idle_topic_is_asked_about_once_per_interval_and_never_renewed() -> None:
    one, checks = progress({0: 5}), 0
    for _ in range(100):
        one.waited(1)
        if one.should_check:
            checks += 1
            assert one.checked({0: 5}) is Remedy.WAIT
    assert checks == 10
    assert not one.out_of_patience


def test_one_silent_partition_among_busy_ones_is_renewed_then_an_error() -> None:
    one, remedies = progress({0: 0, 1: 40}), []

    def run(seconds: int) -> None:
        for second in range(seconds):
            one.waited(1)
            one.delivered(0, one.positions[0] + 1)
            if one.should_check:
                remedies.append(one.checked({0: 10**6, 1: 41}))
                if remedies[-1] is Remedy.NEW_CLIENT:
                    assert second == 29
                    assert one.renewed()

    run(30)
    assert remedies == [Remedy.WAIT, Remedy.WAIT, Remedy.NEW_CLIENT]
    with pytest.raises(
        ReaderStalled, match="partition 1 of topic delivers nothing from offset 40 though it ends at 41"
    ):
        run(30)


def test_a_partition_that_moves_again_may_be_renewed_again() -> None:
    one = progress({0: 0})
    for start in range(3):
        one.waited(30)
        assert one.checked({0: 10}) is Remedy.NEW_CLIENT
        assert one.renewed()
        one.delivered(0, start + 1)


def test_brokers_that_do_not_answer_are_an_outage_after_a_bounded_time() -> None:
    one, asked = progress({0: 0, 1: 0}), 0
    while not one.out_of_patience:
        one.waited(1)
        if one.should_check:
            asked += 1
            one.could_not_check()
    assert asked == 6
    one.delivered(1, 1)
    assert not one.out_of_patience
