"""What a command that publishes tells when it ends early, and how it exits."""

import pytest

from k2_dagster.cli.exits import INTERRUPTED
from k2_dagster.cli.stopping import Stop, exit_interrupted, telling_how_far
from k2_dagster.errors import DeliveryTimedOut, KafkaUnavailable


def not_taken() -> None:
    raise DeliveryTimedOut("5 messages were not taken", advice="wait")


def test_what_was_done_is_told_before_an_error_goes_on() -> None:
    told: list[str] = []
    with pytest.raises(KafkaUnavailable), telling_how_far(Stop(), lambda: told.append("so far")):
        raise KafkaUnavailable("away", advice="wait")
    assert told == ["so far"]


def test_without_an_error_nothing_is_told() -> None:
    told: list[str] = []
    with telling_how_far(Stop(), lambda: told.append("so far")):
        pass
    assert told == []


def test_messages_that_are_not_taken_in_time_are_an_error_unless_somebody_gave_them_up() -> None:
    told: list[str] = []
    stop = Stop()
    with pytest.raises(DeliveryTimedOut), telling_how_far(stop, lambda: told.append("so far")):
        not_taken()
    stop.given_up.set()
    with telling_how_far(stop, lambda: told.append("given up")):
        not_taken()
    assert told == ["so far"]


def test_giving_up_excuses_no_other_error() -> None:
    stop = Stop()
    stop.given_up.set()
    with pytest.raises(KafkaUnavailable), telling_how_far(stop, lambda: None):
        raise KafkaUnavailable("away", advice="wait")


@pytest.mark.parametrize(("undelivered", "said"), [(0, ""), (1_234, "gave up 1,234 messages")])
def test_an_interrupted_command_says_what_was_given_up(
    undelivered: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        exit_interrupted(undelivered)
    assert ended.value.code == INTERRUPTED
    assert capsys.readouterr().err.startswith(said)
    assert not capsys.readouterr().err
