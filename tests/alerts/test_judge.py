"""What incidents become of signals, whatever the signals do."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.alerts.judge import HOLD_SECONDS, Change, Incident, judge
from k2_dagster.alerts.signals import RANKS, Reading, Severity, Signal, unreadable
from tests.alerts.support import reading, signal

START = datetime(2026, 3, 1, tzinfo=UTC)
SEVERITIES: Sequence[Severity] = ("warning", "error", "critical")
NAMES = ("a", "b", "c")

severities = st.sampled_from(SEVERITIES)
signals = st.dictionaries(
    st.sampled_from(NAMES), st.builds(signal, severities, st.sampled_from(["one", "two"])), max_size=3
)
looks = st.one_of(
    signals.map(lambda found: reading(**found)),
    st.tuples(signals, st.sampled_from(NAMES)).map(
        lambda pair: replace(reading(**pair[0]), untold=(f"test/{pair[1]}",))
    ),
    st.just(unreadable("test", ("test/",), "away")),
)
steps = st.lists(st.tuples(st.floats(0.1, 2 * HOLD_SECONDS), looks), max_size=25)


class History:
    """Incidents over a series of looks, as the outbox keeps them."""

    def __init__(self) -> None:
        self.known: dict[str, Incident] = {}
        self.now = START
        self.told: list[Change] = []

    def look(self, found: Reading, seconds: float = 1.0) -> list[Change]:
        self.now += timedelta(seconds=seconds)
        changes = judge(self.known, [found], self.now)
        self.known |= {one.incident.key: one.incident for one in changes}
        self.told += [one for one in changes if one.transition is not None]
        return changes

    def transitions(self, key: str) -> list[str | None]:
        return [one.transition for one in self.told if one.incident.key == key]


@given(steps)
def test_transitions_are_numbered_and_alternate(series: list[tuple[float, Reading]]) -> None:
    history = History()
    for seconds, found in series:
        history.look(found, seconds)
    for key in history.known:
        mine = [one for one in history.told if one.incident.key == key]
        assert [one.incident.transitions for one in mine] == list(range(1, len(mine) + 1))
        kinds = [one.transition for one in mine if one.transition != "worsened"]
        assert kinds == ["opened" if number % 2 == 0 else "resolved" for number in range(len(kinds))]
        assert mine[0].transition == "opened"


@given(steps)
def test_the_same_look_again_changes_nothing(series: list[tuple[float, Reading]]) -> None:
    history = History()
    for seconds, found in series:
        history.look(found, seconds)
        assert history.look(found, 0.0) == []


@given(steps)
def test_there_is_no_open_incident_without_a_signal_and_no_signal_without_one(
    series: list[tuple[float, Reading]],
) -> None:
    history = History()
    seen: set[str] = set()
    for seconds, found in series:
        told = {key for key in found.signals if found.tells(key)}
        history.look(found, seconds)
        seen |= told
        assert all(history.known[key].is_open and history.known[key].absent_since is None for key in told)
    assert set(history.known) == seen


@given(steps, steps)
def test_what_cannot_be_read_resolves_nothing(
    series: list[tuple[float, Reading]], blind: list[tuple[float, Reading]]
) -> None:
    history = History()
    for seconds, found in series:
        history.look(found, seconds)
    before = dict(history.known)
    for seconds, _ in blind:
        assert history.look(unreadable("test", ("test/",), "away"), seconds) == []
    assert history.known == before


@given(st.lists(st.tuples(st.booleans(), st.floats(0.1, HOLD_SECONDS / 2 - 1)), min_size=1, max_size=40))
def test_a_signal_that_flaps_within_the_hold_is_told_once(series: list[tuple[bool, float]]) -> None:
    history = History()
    absent = 0.0
    history.look(reading(a=signal()))
    for wanted, seconds in series:
        # two absent looks in a row may be longer than the hold together
        there = wanted or absent + seconds >= HOLD_SECONDS
        absent = 0.0 if there else absent + seconds
        history.look(reading(a=signal()) if there else reading(), seconds)
    assert history.transitions("test/a") == ["opened"]
    assert history.known["test/a"].is_open


@given(st.lists(severities, min_size=1, max_size=20))
def test_it_is_worse_only_when_it_was_never_as_bad(series: list[Severity]) -> None:
    history = History()
    for severity in series:
        history.look(reading(a=signal(severity)))
    highest = [max(RANKS[one] for one in series[: count + 1]) for count in range(len(series))]
    assert history.transitions("test/a").count("worsened") == len(set(highest)) - 1
    assert RANKS[history.known["test/a"].severity] == highest[-1]


def test_it_is_resolved_when_the_hold_is_over_and_opens_again_under_the_same_key() -> None:
    history = History()
    history.look(reading(a=signal()))
    (missed,) = history.look(reading())
    assert (missed.transition, missed.incident.absent_since) == (None, history.now)
    assert history.look(reading(), HOLD_SECONDS - 1) == []
    (resolved,) = history.look(reading(), 1)
    assert (resolved.transition, resolved.incident.resolved_at) == ("resolved", history.now)
    assert history.look(reading(), 1_000) == []
    (again,) = history.look(reading(a=signal()))
    assert (again.transition, again.incident.occurrences, again.incident.transitions) == ("opened", 2, 3)
    assert again.incident.opened_at == history.now


def test_new_words_are_kept_and_not_told() -> None:
    history = History()
    history.look(reading(a=signal(text="3 gaps")))
    (changed,) = history.look(reading(a=signal(text="4 gaps")))
    assert (changed.transition, changed.incident.signal.text) == (None, "4 gaps")


def test_of_two_sources_with_one_key_the_worse_counts() -> None:
    found = judge({}, [reading(a=signal("warning")), reading(a=signal("critical"))], START)
    assert [one.incident.severity for one in found] == ["critical"]


def test_a_source_tells_only_about_its_own_keys() -> None:
    known = {"other/a": Incident("other/a", "error", signal(), START, START)}
    assert judge(known, [reading()], START + timedelta(days=1)) == []
    foreign = Reading("test", ("test/",), {"other/b": Signal("error", "", "", "", "run")})
    assert judge({}, [foreign], START) == []


def test_a_scope_ends_at_a_slash() -> None:
    found = Reading("test", ("sensor/", "source/lag"), untold=("sensor/lag",))
    assert found.tells("sensor/lags")
    assert not found.tells("sensor/lag")
    assert not found.tells("source/lag2")
