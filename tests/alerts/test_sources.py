"""Sources in turns, and those that cannot be read."""

import threading

import pytest

from k2_dagster.alerts.signals import Reading
from k2_dagster.alerts.sources import Source, Sources
from k2_dagster.errors import DatabaseUnavailable
from tests.alerts.support import reading, signal


class Told:
    """A source under control."""

    def __init__(self) -> None:
        self.looks = 0
        self.error: DatabaseUnavailable | None = None
        self.found = reading(a=signal())

    def read(self) -> Reading:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return self.found


@pytest.fixture
def told() -> Told:
    return Told()


def watched(told: Told, interval_seconds: float = 0.0) -> Sources:
    return Sources([Source("test", ("test/",), told.read, interval_seconds)], grace_seconds=60)


def test_a_source_is_read_when_it_is_due(told: Told) -> None:
    sources = watched(told, interval_seconds=10)
    looks = []
    for now in (0, 5, 9, 10, 12, 25):
        sources.readings(now)
        looks.append(told.looks)
    assert looks == [1, 1, 1, 2, 2, 3]


def test_between_looks_it_says_nothing(told: Told) -> None:
    sources = watched(told, interval_seconds=10)
    sources.readings(0)
    assert not any(one.tells("test/a") for one in sources.readings(5))


def test_one_that_cannot_be_read_is_an_incident_after_the_grace(told: Told) -> None:
    sources = watched(told)
    told.error = DatabaseUnavailable("PostgreSQL: away\nmore", advice="wait")
    first, about = sources.readings(100)
    assert (first.failure, first.tells("test/a")) == ("PostgreSQL: away", False)
    assert (about.signals, about.tells("source/test")) == ({}, False)
    assert sources.readings(159)[1].signals == {}
    late = sources.readings(160)[1]
    assert late.signals["source/test"].text == "PostgreSQL: away"
    assert late.tells("source/test")
    told.error = None
    well = sources.readings(161)[1]
    assert (well.signals, well.tells("source/test")) == ({}, True)


def test_a_mistake_in_one_source_is_told_and_keeps_no_other_from_being_read(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Reading:
        raise KeyError("x")

    sources = Sources([Source("broken", ("b/",), broken), Source("test", ("test/",), told.read)], grace_seconds=60)
    first, second, _ = sources.readings(0)
    assert (first.failure, second.tells("test/a")) == ("a mistake of K2's, see its log: KeyError", True)
    assert "Traceback" in caplog.text
    assert "source/broken" in sources.readings(60)[-1].signals


def test_one_that_hangs_keeps_no_other_from_being_read_and_is_asked_once(told: Told) -> None:
    let_go = threading.Event()
    looks: list[int] = []

    def hang() -> Reading:
        looks.append(1)
        assert let_go.wait(20)
        return Reading("slow", ("slow/",))

    sources = Sources(
        [Source("slow", ("slow/",), hang), Source("test", ("test/",), told.read)], grace_seconds=60, look_seconds=0.05
    )
    first, second, _ = sources.readings(0)
    assert (first.failure, second.tells("test/a")) == ("it has not answered within 0.05 s", True)
    assert "source/slow" in sources.readings(60)[-1].signals
    assert (len(looks), told.looks) == (1, 2)
    (look,) = sources._hanging.values()
    let_go.set()
    look.join(20)
    assert sources.readings(61)[0].failure == ""
    assert len(looks) == 1


def test_a_reading_that_failed_in_part_tells_the_rest(told: Told) -> None:
    told.found = Reading("test", ("test/",), {"test/a": signal()}, ("test/b",), "half of it is away")
    sources = watched(told)
    first, _ = sources.readings(0)
    assert first.tells("test/a")
    assert sources.readings(60)[1].signals["source/test"].text == "half of it is away"


def test_a_start_does_not_resolve_what_failed_before_it(told: Told) -> None:
    sources = Sources([Source("test", ("test/",), told.read), Source("late", ("late/",), told.read)])
    sources._due_at["late"] = 50.0
    about = sources.readings(0)[-1]
    assert about.tells("source/test")
    assert not about.tells("source/late")
