import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.lines import asking
from k2_dagster.feeds.lines.arbitration import NANOS_PER_SECOND, Wanted
from k2_dagster.feeds.lines.asking import RETRANSMISSION, Asker, AskPlan
from k2_dagster.feeds.lines.intake import Intake
from k2_dagster.feeds.mold.packets import Packet
from k2_dagster.feeds.mold.requests import Request
from k2_dagster.feeds.simulator.lines.answering import History, Rates
from k2_dagster.feeds.simulator.lines.server import Books, RetransmissionServer
from tests.feeds.lines.exchange import HOST

MILLISECOND = NANOS_PER_SECOND // 1_000
MESSAGES = [b"message %d" % number for number in range(1, 201)]


def test_it_asks_a_moment_after_a_hole_showed_and_again_when_nothing_came() -> None:
    plan, wanted = AskPlan(), [Wanted("S", 5, 9, 0)]
    request = Request("S", 5, 5)
    asked = [at for at in range(0, 1_000, 10) if plan.due(wanted, at * MILLISECOND) == [request]]
    assert asked == [20, 320, 620, 920]


def test_what_is_left_of_a_range_is_asked_for_at_once() -> None:
    plan = AskPlan()
    assert plan.due([Wanted("S", 5, 9, 0)], 100 * MILLISECOND) == [Request("S", 5, 5)]
    assert plan.due([Wanted("S", 7, 9, 0)], 101 * MILLISECOND) == [Request("S", 7, 3)]


def test_holes_that_are_near_are_asked_for_together() -> None:
    wanted = [Wanted("S", 5, 9, 0), Wanted("S", 12, 12, 0), Wanted("S", 90, 91, 0), Wanted("T", 92, 92, 0)]
    assert AskPlan().due(wanted, NANOS_PER_SECOND) == [Request("S", 5, 8), Request("S", 90, 2), Request("T", 92, 1)]


def test_no_request_is_for_more_than_one_can_ask_for() -> None:
    assert AskPlan().due([Wanted("S", 1, 10**9, 0)], NANOS_PER_SECOND) == [Request("S", 1, 0xFFFF)]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 200)), max_size=60))
def test_a_range_is_asked_for_no_oftener_than_it_may(steps: list[tuple[int, int]]) -> None:
    plan, now, last = AskPlan(), 0, dict[Request, int]()
    for first, step in steps:
        now += step * MILLISECOND
        for request in plan.due([Wanted("S", 100 * first, 100 * first, 0)], now):
            assert now >= asking.ASK_AFTER_SECONDS * NANOS_PER_SECOND
            assert request.count == 1
            assert now - last.get(request, -NANOS_PER_SECOND) >= asking.ASK_AGAIN_SECONDS * NANOS_PER_SECOND
            last[request] = now


def test_what_was_asked_for_is_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "RANGES_KEPT", 3)
    plan = AskPlan()
    plan.due([Wanted("S", first, first, 0) for first in range(0, 1_000, 100)], NANOS_PER_SECOND)
    assert len(plan._asked) == 3


def numbers(intake: Intake, count: int) -> list[int]:
    out: list[int] = []
    until = time.monotonic() + 10
    while len(out) < count and time.monotonic() < until:
        for arrival in intake.take(0.1):
            assert arrival.line == RETRANSMISSION
            assert isinstance(arrival.data, Packet)
            out += range(arrival.data.sequence, arrival.data.next_sequence)
    return out


def test_answers_of_both_ways_come_into_the_intake() -> None:
    history = History("S")
    history.append(MESSAGES)
    intake = Intake({})
    with RetransmissionServer(history, Books(), (HOST, 0)) as server, Asker(server.address, intake) as asker:
        asker.want([Wanted("S", 5, 9, 0), Wanted("S", 70, 199, 0)], NANOS_PER_SECOND)
        assert numbers(intake, 135) == [*range(5, 10), *range(70, 200)]
    assert (asker.report.requests, asker.report.refused, asker.report.failures) == (2, 0, 0)


def test_a_refusal_is_counted_and_obeyed() -> None:
    history = History("S")
    history.append(MESSAGES)
    intake, rates = Intake({}), Rates(per_second=4.0, at_once=1)
    with RetransmissionServer(history, Books(), (HOST, 0), rates) as server, Asker(server.address, intake) as asker:
        began = time.monotonic()
        asker.want([Wanted("S", number, number, 0) for number in (1, 80, 160)], NANOS_PER_SECOND)
        # The first is answered, the second refused, the third waits as long as the refusal says
        assert numbers(intake, 2) == [1, 160]
        assert time.monotonic() - began > 0.2
    assert asker.report.refused == 1
    assert asker.report.last_refusal.startswith("too_many")


def test_a_server_that_is_away_is_counted() -> None:
    intake = Intake({})
    with RetransmissionServer(History("S"), Books(), (HOST, 0)) as server:
        address = server.address
    with Asker(address, intake) as asker:
        asker.want([Wanted("S", 1, 1, 0)], NANOS_PER_SECOND)
        until = time.monotonic() + 10
        while not asker.report.failures and time.monotonic() < until:
            time.sleep(0.01)
    assert asker.report.failures == 1
    assert str(address[1]) in asker.report.last_refusal


def test_more_than_can_wait_is_left_for_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "QUEUE_REQUESTS", 2)
    asker = Asker((HOST, 9), Intake({}))
    asker.want([Wanted("S", first, first, 0) for first in range(1, 1_000, 100)], NANOS_PER_SECOND)
    assert asker._requests.qsize() == 2
