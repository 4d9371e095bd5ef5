"""Work in a thread of its own: what it returned or raised comes to whoever asks."""

import threading

import pytest

from k2_dagster.observability.work import Work


def done(work: Work[int]) -> Work[int]:
    work.start()
    work.join(20)
    assert not work.is_alive()
    return work


def test_what_it_returned_is_its_outcome() -> None:
    work = done(Work(lambda: 7))
    assert (work.outcome(), work.error) == (7, None)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_what_it_raised_is_raised_where_the_outcome_is_asked_for(error: BaseException) -> None:
    def fail() -> int:
        raise error

    work = done(Work(fail))
    assert work.error is error
    with pytest.raises(type(error)) as raised:
        work.outcome()
    assert raised.value is error


def test_it_has_its_name_and_keeps_no_process_from_ending() -> None:
    let_go = threading.Event()
    work = Work(lambda: let_go.wait(20), "k2-test")
    work.start()
    assert (work.is_alive(), work.daemon, work.name) == (True, True, "k2-test")
    let_go.set()
    work.join(20)
    assert work.outcome()
