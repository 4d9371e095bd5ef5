"""Signals become a stop flag, and afterwards an interruption of the run."""

import os
import signal
import threading

import pytest
from dagster import DagsterExecutionInterruptedError

from k2_dagster.resources.interrupts import SIGNALS, interrupts_as_stop


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flag_and_interrupts_only_at_the_end(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    reached: list[bool] = []

    def interrupted() -> None:
        with interrupts_as_stop() as stop:
            for _ in range(3):
                os.kill(os.getpid(), number)
            reached.append(stop.wait(5))

    with pytest.raises(DagsterExecutionInterruptedError):
        interrupted()
    assert reached == [True]
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_without_a_signal_nothing_is_raised() -> None:
    with interrupts_as_stop() as stop:
        pass
    assert not stop.is_set()


def test_an_error_inside_is_what_comes_out_and_the_handlers_are_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="inside"), interrupts_as_stop():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_it_gives_a_flag_that_stays_unset() -> None:
    seen = []

    def body() -> None:
        with interrupts_as_stop() as stop:
            seen.append(stop.is_set())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [False]
