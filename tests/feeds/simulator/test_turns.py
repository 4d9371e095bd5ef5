"""Faults of one symbol take turns, also where one goes on in the next block of the market."""

import pytest

from tests.feeds.simulator.simulated import run_feed

DOMAINS = {"ticks": "dense", "book": "range"}


@pytest.mark.parametrize("back", range(20, 200, 20))
def test_no_fault_begins_in_the_middle_of_another(back: int) -> None:
    """A reordering waits until all of its messages are there; what begins behind it in the same block goes on first."""
    (first, *_), _ = run_feed(DOMAINS, messages=20_000, symbols=2)
    at = first.generated - back
    faults = (f"reorder:5@{at}m/ticks/ETHUSDT", f"corrupt:40@{at + 1}m/ticks/ETHUSDT")
    blocks, _ = run_feed(DOMAINS, faults=faults, messages=20_000, symbols=2)
    lines = [record.line("sim") for block in blocks for record in block.records]
    assert len(lines) == 2
    for line in lines:
        numbers = [one["sequence"] for one in line["messages"]]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), line["asked"]
