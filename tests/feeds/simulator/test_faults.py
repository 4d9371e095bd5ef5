from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.simulator.faults import Fault, FaultPlan, FaultType, checked, parse_fault
from tests.feeds.simulator.simulated import profiles_with

PROFILE = profiles_with(ticks="dense", book="range").exchange("sim")
SYMBOLS = ["BTCUSDT", "ETHUSDT"]

faults = st.builds(
    Fault,
    st.sampled_from([one for one in FaultType if not one.of_stream]),
    st.integers(2, 99),
    at_seconds=st.integers(0, 999).map(float),
    dataset=st.sampled_from(["ticks", "book"]),
    symbol=st.sampled_from(SYMBOLS),
)


@given(faults)
def test_a_fault_reads_back_as_it_is_written(fault: Fault) -> None:
    assert parse_fault(str(fault)) == fault


def test_what_is_left_out_has_a_default() -> None:
    assert parse_fault("drop@5000m") == Fault(FaultType.DROP, 1, at_message=5000)
    assert parse_fault("reorder@2.5s").count == 2
    assert checked(parse_fault("drop@1s"), PROFILE, SYMBOLS) == Fault(
        FaultType.DROP, 1, at_seconds=1.0, dataset="ticks", symbol="BTCUSDT"
    )
    book_only = profiles_with(book="range").exchange("sim")
    assert checked(parse_fault("drop@1s"), book_only, SYMBOLS).dataset == "book"


@pytest.mark.parametrize("text", ["", "drop", "drop:7", "drop@5", "drop:x@5s", "Drop@5s", "drop@5s/ticks/A B"])
def test_another_form_is_refused_with_the_valid_one(text: str) -> None:
    with pytest.raises(ConfigurationError, match="drop:7@10s"):
        parse_fault(text)


@pytest.mark.parametrize("text", ["session_reset:5@1s", "schema_change:1@1s/ticks"])
def test_a_count_of_what_concerns_a_whole_stream_is_refused_and_not_dropped(text: str) -> None:
    with pytest.raises(ConfigurationError, match="concerns a whole stream, and has no count"):
        parse_fault(text)


@pytest.mark.parametrize("text", ["drop@1s/quotes", "drop@1s/ticks/DOGE", "drop:0@1s", "reorder:6@1s", "reorder:1@1s"])
def test_a_fault_that_cannot_happen_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="valid:"):
        checked(parse_fault(text), PROFILE, SYMBOLS)


def test_random_faults_come_at_their_rate_and_from_their_seed() -> None:
    drawn = list(islice(FaultPlan(random_rate=0.01, seed=5).random_faults(PROFILE, SYMBOLS), 2_000))
    assert drawn == list(islice(FaultPlan(random_rate=0.01, seed=5).random_faults(PROFILE, SYMBOLS), 2_000))
    assert drawn != list(islice(FaultPlan(random_rate=0.01, seed=6).random_faults(PROFILE, SYMBOLS), 2_000))
    assert (drawn[-1].at_message or 0) / 2_000 == pytest.approx(100, rel=0.1)
    assert {fault.type for fault in drawn} == set(FaultType) - {FaultType.SCHEMA_CHANGE}
    assert all(checked(fault, PROFILE, SYMBOLS) for fault in drawn)
    assert list(FaultPlan().random_faults(PROFILE, SYMBOLS)) == []
