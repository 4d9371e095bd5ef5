"""Gaps that were given up, and requests that nobody serves, as incidents."""

from k2_dagster.alerts.recovery import GAPS_SHOWN, Lost, Trouble, Unserved, recovery_reading


def lost(gap_id: int, level: str = "page", exchange: str = "x", dataset: str = "ticks") -> Lost:
    return Lost(gap_id, exchange, dataset, level, f"{gap_id} to {gap_id} of A", "the venue has no more")


def test_an_incident_is_of_a_dataset_and_tells_of_the_first() -> None:
    found = recovery_reading(Trouble([lost(1), lost(2), lost(3), lost(4), lost(5, dataset="quotes")]))
    assert set(found.signals) == {"recovery/x/ticks", "recovery/x/quotes"}
    signal = found.signals["recovery/x/ticks"]
    assert (signal.severity, signal.title) == ("error", "4 gaps of x/ticks could not be recovered")
    assert signal.text.count("the venue has no more") == GAPS_SHOWN
    assert signal.text.endswith("And 1 more.")
    assert found.signals["recovery/x/quotes"].title.startswith("A gap of")


def test_gaps_below_the_level_that_pages_warn() -> None:
    assert recovery_reading(Trouble([lost(1, "warn")])).signals["recovery/x/ticks"].severity == "warning"
    assert recovery_reading(Trouble([lost(1, "warn"), lost(2)])).signals["recovery/x/ticks"].severity == "error"


def test_nobody_serving_is_an_incident_of_the_exchange() -> None:
    found = recovery_reading(Trouble(unserved=[Unserved("x", 3, 700.0)]))
    assert found.signals["recovery/x"].text == "3 gaps wait, the oldest for 700 s."


def test_when_all_is_well_what_was_told_is_resolved() -> None:
    found = recovery_reading(Trouble())
    assert not found.signals
    assert found.tells("recovery/x/ticks")
    assert found.tells("recovery/x")
