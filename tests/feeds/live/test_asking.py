import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.feeds.live.asking import ANSWER_SECONDS, CALM_SECONDS, PACE, Asking
from k2_dagster.feeds.live.backoff import Backoff

CHANCE = st.floats(0, 1)


@settings(deadline=None)
@given(tries=st.integers(1, 10_000), chance=CHANCE)
def test_delays_stay_within_their_bounds_and_grow(tries: int, chance: float) -> None:
    backoff = Backoff(0.5, 60.0)
    assert 0.25 <= backoff.delay_seconds(tries, chance) <= 60.0
    assert backoff.delay_seconds(tries, chance) <= backoff.delay_seconds(tries + 1, chance)
    assert backoff.delay_seconds(tries, 1.0) == backoff.delay_seconds(tries, 0.0) / 2


def test_a_snapshot_is_asked_for_at_once_and_again_while_none_comes() -> None:
    asking = Asking()
    asking.want("X", 100.0)
    assert asking.due(100.0) == ["X"]
    assert asking.due(100.0 + ANSWER_SECONDS - 0.1) == []
    assert asking.due(100.0 + ANSWER_SECONDS) == ["X"]
    asking.got("X")
    assert asking.due(10_000.0) == []
    assert asking.waiting == 0


def test_one_that_is_on_its_way_is_asked_for_only_when_it_does_not_come() -> None:
    asking = Asking()
    asking.expect("X", 0.0)
    assert asking.waiting == 1
    assert asking.due(1.0) == []
    assert asking.due(ANSWER_SECONDS) == ["X"]


@settings(deadline=None)
@given(waits=st.lists(st.floats(0, 20), min_size=1, max_size=200), chance=CHANCE)
def test_a_book_that_is_lost_again_and_again_is_no_storm_of_requests(waits: list[float], chance: float) -> None:
    asking, now, asked = Asking(), 0.0, []
    for wait in waits:
        now += wait
        asking.want("X", now, chance)
        if asking.due(now, chance):
            asked.append(now)
            asking.got("X")
    for tries, (before, after) in enumerate(itertools.pairwise(asked), 1):
        assert after - before >= PACE.delay_seconds(tries, 1.0) - 1e-6


def test_a_book_that_held_is_asked_for_at_once_again() -> None:
    asking = Asking()
    for now in range(20):
        asking.want("X", float(now))
        asking.due(float(now))
    asking.want("X", 20.0 + CALM_SECONDS)
    assert asking.due(20.0 + CALM_SECONDS) == ["X"]
