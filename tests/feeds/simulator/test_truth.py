from k2_dagster.feeds.simulator.faults import Fault, FaultType
from k2_dagster.feeds.simulator.truth import FaultRecord
from k2_dagster.schemas.profiles import Domain


def record(kind: FaultType, sent: list[int]) -> FaultRecord:
    messages = [
        {"symbol": "A", "sequence": place, "previous_sequence": None, "publisher_sequence": place}
        for place in range(1, len(sent) + 1)
    ]
    return FaultRecord(
        Fault(kind, len(sent)), "ticks", "trade", Domain.DENSE, "s", messages=messages, sent=sent,
        first_micros=min(sent), last_micros=max(sent), complete=True,
    )  # fmt: skip


def test_a_fault_that_was_cut_in_its_middle_tells_the_messages_that_were_sent() -> None:
    cut = record(FaultType.DUPLICATE, [10, 20, 30, 40])
    cut.cut(25)
    line = cut.line("x")
    assert (line["count"], line["first_sequence"], line["last_sequence"]) == (2, 1, 2)
    assert (line["last_sent"], line["complete"]) == (25, False)
    assert line["must_report"] == {"quarantined": 2, "reasons": ["duplicate"]}


def test_of_reordered_messages_those_that_left_are_told() -> None:
    """They leave in the opposite order: the first numbers come last."""
    cut = record(FaultType.REORDER, [40, 30, 20, 10])
    cut.cut(25)
    assert [one["sequence"] for one in cut.messages] == [3, 4]
