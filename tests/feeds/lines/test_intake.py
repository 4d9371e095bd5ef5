import socket
import time

import pytest

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.lines.intake import Arrival, Intake
from k2_dagster.feeds.mold.packets import Packet
from tests.feeds.lines.exchange import HOST


def taken(intake: Intake, count: int) -> list[Arrival]:
    out: list[Arrival] = []
    until = time.monotonic() + 10
    while len(out) < count and time.monotonic() < until:
        out += intake.take(0.1)
    return out


def test_what_comes_on_each_line_is_taken_in_its_order() -> None:
    with Intake({"A": (HOST, 0), "B": (HOST, 0)}) as intake, socket.socket(type=socket.SOCK_DGRAM) as sender:
        for number in range(100):
            sender.sendto(b"%d" % number, intake.addresses["AB"[number % 2]])
        arrivals = taken(intake, 100)
        intake.put("R", Packet("S", 1, (b"x",)))
        (given,) = taken(intake, 1)
    for place, line in enumerate("AB"):
        assert [one.data for one in arrivals if one.line == line] == [b"%d" % one for one in range(place, 100, 2)]
    assert (given.line, given.data) == ("R", Packet("S", 1, (b"x",)))
    assert [one.nanos for one in arrivals] == sorted(one.nanos for one in arrivals)


def test_a_full_queue_drops_and_counts() -> None:
    intake = Intake({}, most_packets=3)
    for number in range(5):
        intake.put("A", b"%d" % number)
    assert intake.dropped == 2
    assert [one.data for one in intake.take(0)] == [b"0", b"1", b"2"]
    intake.put("A", bytes(60_000))
    assert len(intake.take(0)) == 1


def test_it_waits_no_longer_than_it_may() -> None:
    intake = Intake({})
    assert intake.take(0.01) == []


def test_an_address_that_is_taken_is_told() -> None:
    with Intake({"A": (HOST, 0)}) as intake, pytest.raises(ConfigurationError, match=str(intake.addresses["A"][1])):
        Intake({"A": (HOST, 0), "B": intake.addresses["A"]})
