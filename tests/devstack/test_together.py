"""Work side by side: all of it ends before anything is told, and all errors are told."""

import threading

import pytest

from k2_dagster.devstack.together import side_by_side
from k2_dagster.errors import StackFailed


def fail(text: str) -> int:
    raise StackFailed(text, advice="")


def test_outcomes_come_in_the_order_of_the_works() -> None:
    first_done = threading.Event()

    def waits() -> int:
        assert first_done.wait(20)
        return 1

    def lets_go() -> int:
        first_done.set()
        return 2

    assert side_by_side([waits, lets_go], threading.Event()) == [1, 2]


def test_one_error_is_raised_as_it_is_once_all_have_ended() -> None:
    ended = threading.Event()

    def slow() -> int:
        assert not ended.wait(0.1)
        ended.set()
        return 1

    with pytest.raises(StackFailed, match="a part"):
        side_by_side([lambda: fail("a part"), slow], threading.Event())
    assert ended.is_set()


def test_several_errors_are_all_told() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        side_by_side([lambda: fail("one"), lambda: 1, lambda: fail("two")], threading.Event())
    assert [str(one).splitlines()[0] for one in raised.value.exceptions] == ["one", "two"]
