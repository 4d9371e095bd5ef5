"""What the ground truth says must be reported."""

from typing import Any

import pytest

from k2_dagster.schemas.profiles import load_profiles
from proofs.planted import expected

PROFILE = load_profiles().exchange("sim_equity")


def _line(kind: str, domain: str, **more: Any) -> dict[str, Any]:
    messages = [
        {
            "symbol": "A",
            "session": "s",
            "sequence": number,
            "previous_sequence": None,
            "publisher_sequence": number + 100,
        }
        for number in (5, 6, 7)
    ]
    known = {"type": kind, "domain": domain, "dataset": "ticks", "stream": "trade", "session": "s", "symbol": "A"}
    return {**known, "channel": "c-1", "first_sequence": 5, "last_sequence": 7, "messages": messages, **more}


@pytest.mark.parametrize("domain", ["dense", "range"])
def test_a_drop_is_a_gap_of_the_venue_and_a_loss_one_of_both(domain: str) -> None:
    venue = ("ticks", "venue", "s", "A", 5, 7, "warn", "open")
    publisher = ("ticks", "publisher", "run", "A", 105, 107, "warn", "open")
    assert dict(expected([_line("drop", domain)], PROFILE, "run").gaps) == {venue: 1}
    assert dict(expected([_line("lose", domain)], PROFILE, "run").gaps) == {venue: 1, publisher: 1}


@pytest.mark.parametrize("domain", ["monotone", "none"])
def test_where_nobody_can_know_nothing_is_expected(domain: str) -> None:
    for kind in ("drop", "late", "reorder"):
        found = expected([_line(kind, domain)], PROFILE, "run")
        assert not found.gaps
        assert not found.late
        assert not found.channel_gaps


def test_a_late_message_fills_its_gap_and_a_channel_is_judged_by_its_handler() -> None:
    late = expected([_line("late", "dense")], PROFILE, "run")
    assert dict(late.gaps) == {("ticks", "venue", "s", "A", 5, 7, "warn", "filled"): 1}
    assert dict(late.late) == {"ticks": 3}
    assert dict(expected([_line("reorder", "dense")], PROFILE, "run").late) == {"ticks": 2}
    assert dict(expected([_line("drop", "channel")], PROFILE, "run").channel_gaps) == {("c-1", "s", 5, 7): 1}


def test_of_a_linked_stream_only_one_missing_message_is_sure() -> None:
    line = _line("drop", "linked", first_sequence=5, last_sequence=500)
    assert dict(expected([line], PROFILE, "run").gaps) == {("ticks", "venue", "s", "A", 5, 500, "warn", "open"): 1}
