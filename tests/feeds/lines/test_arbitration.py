import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.lines import arbitration
from k2_dagster.feeds.lines.arbitration import ENDS_APART_SECONDS, Arbiter, Delivery, Limits
from k2_dagster.feeds.mold.packets import Packet

PATIENT = Limits(wait_seconds=1_000.0, messages=10_000)
SECOND = 1_000_000_000


def message(number: int, session: str = "s") -> bytes:
    return f"{session}{number}".encode()


def packet(first: int, last: int, session: str = "s") -> Packet:
    return Packet(session, first, tuple(message(number, session) for number in range(first, last + 1)))


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [one.sequence + place for one in deliveries for place in range(len(one.messages))]


@dataclass(frozen=True)
class Arrival:
    line: str
    packet: Packet


@st.composite
def one_line(draw: st.DrawFn, name: str, count: int) -> list[Arrival]:
    """The truth 1..count on one line: cut into packets, some lost, some twice, some out of their order."""
    cuts = sorted({1, count + 1, *draw(st.lists(st.integers(1, count), max_size=count))})
    whole = [packet(first, following - 1) for first, following in itertools.pairwise(cuts)]
    copies = [draw(st.sampled_from([0, 1, 1, 1, 2])) for _ in whole]
    sent = [one for one, times in zip(whole, copies, strict=True) for _ in range(times)]
    shift = [draw(st.integers(0, 4)) for _ in sent]
    order = sorted(range(len(sent)), key=lambda place: place + shift[place])
    return [Arrival(name, sent[place]) for place in order]


@st.composite
def two_lines(draw: st.DrawFn) -> tuple[int, list[Arrival]]:
    """Any interleaving of two such lines."""
    count = draw(st.integers(1, 30))
    left, right = draw(one_line("A", count)), draw(one_line("B", count))
    out: list[Arrival] = []
    while left or right:
        source = left if left and (not right or draw(st.booleans())) else right
        out.append(source.pop(0))
    return count, out


def played(arrivals: list[Arrival], limits: Limits, step_nanos: int = SECOND // 10) -> tuple[Arbiter, list[Delivery]]:
    arbiter = Arbiter(("A", "B"), limits)
    out: list[Delivery] = []
    nanos = 0
    for place, one in enumerate(arrivals):
        nanos = place * step_nanos
        out += arbiter.offer(one.line, one.packet, nanos) + arbiter.tick(nanos)
    return arbiter, out + arbiter.finish(nanos)


limits_strategy = st.builds(Limits, st.sampled_from([0.0, 0.15, 0.5, 1_000.0]), st.sampled_from([0, 3, 10, 10_000]))


@given(two_lines(), limits_strategy)
def test_what_any_line_brought_is_delivered_once(given_lines: tuple[int, list[Arrival]], limits: Limits) -> None:
    _, arrivals = given_lines
    arbiter, deliveries = played(arrivals, limits)
    brought = {number for one in arrivals for number in range(one.packet.sequence, one.packet.next_sequence)}
    assert sorted(numbers(deliveries)) == sorted(brought)
    assert all(text == message(one.sequence + place) for one in deliveries for place, text in enumerate(one.messages))
    on_time = numbers([one for one in deliveries if not one.late])
    assert on_time == sorted(on_time)
    highest = 0
    for one in deliveries:
        assert one.late == (bool(one.messages) and one.sequence < highest)
        highest = max(highest, one.next_sequence)
    assert arbiter.wanted() == []


@given(two_lines(), limits_strategy)
def test_the_figures_add_up(given_lines: tuple[int, list[Arrival]], limits: Limits) -> None:
    _, arrivals = given_lines
    arbiter, deliveries = played(arrivals, limits)
    for line, figures in arbiter.figures.items():
        mine = [one.packet for one in arrivals if one.line == line]
        received = [number for one in mine for number in range(one.sequence, one.next_sequence)]
        assert (figures.packets, figures.messages) == (len(mine), len(received))
        assert figures.won + figures.duplicates == figures.messages
        if mine:
            expected = set(range(mine[0].sequence, max(received) + 1))
            assert figures.missing == len(expected - set(received))
            assert figures.messages - figures.repeated - figures.reordered <= len(expected)
        assert figures.won == len(numbers([one for one in deliveries if one.line == line]))
        assert figures.late <= figures.won
    delivered = set(numbers(deliveries))
    if delivered:
        start = arrivals[0].packet.sequence
        lost = set(range(start, max(delivered) + 1)) - delivered
        assert arbiter.given_up - arbiter.late == len(lost)
        assert arbiter.early == sum(number < start for number in delivered)


@given(two_lines())
def test_with_patience_only_what_both_lost_is_missing_and_all_is_in_order(
    given_lines: tuple[int, list[Arrival]],
) -> None:
    _, arrivals = given_lines
    arbiter, deliveries = played(arrivals, PATIENT)
    assert not any(one.late for one in deliveries if arrivals and one.sequence >= arrivals[0].packet.sequence)
    assert arbiter.late == 0


@given(two_lines(), st.data())
def test_asking_for_what_is_wanted_leaves_nothing_missing(
    given_lines: tuple[int, list[Arrival]], data: st.DataObject
) -> None:
    _, arrivals = given_lines
    arbiter = Arbiter(("A", "B", "R"), PATIENT)
    arbiter.begin("s", 1)
    out: list[Delivery] = []
    for nanos, one in enumerate(arrivals):
        out += arbiter.offer(one.line, one.packet, nanos)
        if data.draw(st.booleans()):
            for wanted in arbiter.wanted():
                out += arbiter.offer("R", packet(wanted.first, wanted.last), nanos)
            assert arbiter.wanted() == []
    for wanted in arbiter.wanted():
        out += arbiter.offer("R", packet(wanted.first, wanted.last), 0)
    got = numbers(out)
    assert got == list(range(1, max(got, default=0) + 1))
    assert arbiter.given_up == 0


def test_the_first_copy_wins_and_parts_of_packets_count() -> None:
    arbiter = Arbiter(("A", "B"), PATIENT)
    assert numbers(arbiter.offer("A", packet(1, 3), 0)) == [1, 2, 3]
    assert numbers(arbiter.offer("B", packet(2, 5), 1)) == [4, 5]
    a, b = arbiter.figures["A"], arbiter.figures["B"]
    assert (a.won, a.duplicates, b.won, b.duplicates) == (3, 0, 2, 2)


def test_what_is_missing_on_both_is_waited_for_so_long() -> None:
    arbiter = Arbiter(("A", "B"), Limits(1.0, 100))
    arbiter.offer("A", packet(1, 1), 0)
    assert arbiter.offer("A", packet(4, 4), SECOND) == []
    assert [(one.first, one.last, one.since_nanos) for one in arbiter.wanted()] == [(2, 3, SECOND)]
    assert arbiter.tick(2 * SECOND) == []
    assert numbers(arbiter.tick(2 * SECOND + 1)) == [4]
    assert arbiter.given_up == 2
    (late,) = arbiter.offer("B", packet(2, 2), 3 * SECOND)
    assert (late.sequence, late.late, arbiter.late) == (2, True, 1)


def test_no_more_messages_wait_than_may() -> None:
    arbiter = Arbiter(("A",), Limits(1_000.0, 2))
    arbiter.offer("A", packet(1, 1), 0)
    assert arbiter.offer("A", packet(3, 4), 0) == []
    assert numbers(arbiter.offer("A", packet(6, 6), 0)) == [3, 4]
    assert numbers(arbiter.finish(0)) == [6]


def test_a_heartbeat_shows_what_came_last_and_is_told_when_nothing_is_missing() -> None:
    arbiter = Arbiter(("A", "B"), Limits(1.0, 100))
    arbiter.offer("A", packet(1, 2), 0)
    (told,) = arbiter.offer("A", Packet("s", 3, (), "heartbeat"), 1)
    assert (told.sequence, told.messages) == (3, ())
    assert arbiter.offer("B", Packet("s", 5, (), "heartbeat"), SECOND) == []
    assert [(one.first, one.last) for one in arbiter.wanted()] == [(3, 4)]
    (given_up,) = arbiter.tick(3 * SECOND)
    assert (given_up.sequence, given_up.messages, arbiter.given_up) == (5, (), 2)
    assert not arbiter.is_over
    arbiter.offer("A", Packet("s", 5, (), "end"), 3 * SECOND)
    assert not arbiter.is_over, "B may have lost what came last"
    arbiter.offer("B", Packet("s", 5, (), "end"), 3 * SECOND)
    assert arbiter.is_over


def test_a_line_that_is_dead_does_not_keep_a_session_from_its_end() -> None:
    arbiter = Arbiter(("A", "B"), PATIENT, ("asked",))
    arbiter.offer("A", packet(1, 2), 0)
    for at in (1, 2):
        arbiter.offer("A", Packet("s", 3, (), "end"), at * SECOND)
        assert not arbiter.is_over
    arbiter.tick(SECOND + int(ENDS_APART_SECONDS * SECOND))
    assert not arbiter.is_over
    arbiter.tick(SECOND + int(ENDS_APART_SECONDS * SECOND) + 1)
    assert arbiter.is_over


def test_a_new_session_ends_the_one_before_and_a_slow_line_may_still_bring_it() -> None:
    arbiter = Arbiter(("A", "B"), PATIENT)
    arbiter.offer("A", packet(1, 1), 0)
    arbiter.offer("A", packet(3, 3), 0)
    out = arbiter.offer("A", packet(1, 1, "t"), 1)
    assert [(one.session, one.sequence) for one in out] == [("s", 3), ("t", 1)]
    (late,) = arbiter.offer("B", packet(1, 2), 2)
    assert (late.session, late.sequence, late.late) == ("s", 2, True)
    assert arbiter.session == "t"


def test_packets_of_sessions_long_ended_are_counted_and_dropped() -> None:
    arbiter = Arbiter(("A",), PATIENT)
    for place in range(arbitration.SESSIONS_KEPT + 1):
        arbiter.offer("A", packet(1, 1, f"s{place}"), 0)
    assert arbiter.offer("A", packet(5, 6, "s0"), 0) == []
    assert arbiter.figures["A"].stale == 2
    assert arbiter.session == f"s{arbitration.SESSIONS_KEPT}"


def test_runs_that_were_given_up_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arbitration, "GIVEN_UP_RUNS_KEPT", 2)
    arbiter = Arbiter(("A",), Limits(0.0, 0))
    for number in (1, 3, 5, 7):
        arbiter.offer("A", packet(number, number), number)
    assert (arbiter.given_up, arbiter.forgotten) == (3, 2)
    assert arbiter.offer("A", packet(2, 2), 10) == []
    assert numbers(arbiter.offer("A", packet(6, 6), 10)) == [6]


def test_after_a_snapshot_it_begins_with_the_number_behind_it() -> None:
    arbiter = Arbiter(("A", "R"), PATIENT)
    arbiter.begin("s", 10)
    assert arbiter.offer("A", packet(20, 21), 0) == []
    assert [(one.first, one.last) for one in arbiter.wanted()] == [(10, 19)]
    assert numbers(arbiter.offer("R", packet(8, 19), 1)) == [8, 9, *range(10, 22)]
    assert arbiter.early == 2
