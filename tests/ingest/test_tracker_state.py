"""The tracker's state as others read it: of a former form, and what it says was received."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.coverage.received import received, together
from k2_dagster.ingest import kernel
from k2_dagster.ingest.tracker import Tracker
from k2_dagster.state.frames import framed, unframed
from k2_dagster.state.tracked import CHANNEL, PUBLISHER, VENUE, joined, numbering_tables, parted
from tests.ingest.test_tracker import as_input, histories, judge_split
from tests.ingest.tracker_model import STRICT, TERMS, Message


def former(state: bytes) -> bytes:
    """A state as it was before it said what was received: fewer columns, no names of the newest sessions, no numbers of
    channels, nothing of jumps."""
    pieces = parted(state)
    head = json.loads(pieces["head"])
    del head[CHANNEL]
    for sessions in head.values():
        del sessions["newest"]
    numberings = []
    for name in (VENUE, PUBLISHER):
        tables = dict(unframed(pieces[name]))
        keys = ("first", "first_micros", "last_micros", "late", "duplicates", "far", "far_last")
        tables["keys"] = tables["keys"].drop_columns(list(keys))
        tables["holes"] = tables["holes"].drop_columns(["before_micros", "after_micros"])
        numberings.append(b"".join(framed(part, table) for part, table in tables.items()))
    return joined([json.dumps(head).encode(), *numberings, pieces["returned"]])


def test_a_state_of_the_former_form_is_taken_over() -> None:
    """Its holes and sessions go on; what was received is known from the next message on."""
    sent = [Message(at, time_ms=at, sequence=one, number=one) for at, one in enumerate((1, 2, 5))]
    tracker = Tracker.load(former(judge_split(sent, set())[0].dump()), TERMS)
    assert tracker.numberings[VENUE]._columns["first"].tolist() == [kernel.NEVER]
    later = [
        Message(3, time_ms=3, sequence=6, number=6),
        Message(4, time_ms=4, sequence=3, number=3),
        Message(5, time_ms=5, session="next", sequence=1, publisher="q"),
    ]
    judged = tracker.judge(as_input(later), STRICT)
    assert judged.verdict.tolist() == [kernel.IN_ORDER, kernel.LATE, kernel.IN_ORDER]
    assert [(one.previous_session, one.session) for one in judged.resets[VENUE]] == [("s", "next")]
    columns = tracker.numberings[VENUE]._columns
    assert (columns["first"][0], columns["last"][0], columns["late"][0]) == (6, 6, 1)


@settings(max_examples=60, deadline=None)
@given(histories(), st.sets(st.integers(1, 39)))
def test_any_split_tells_of_the_same_sessions_and_of_all_that_was_received(
    messages: list[Message], cuts: set[int]
) -> None:
    def told(cuts: set[int]) -> Any:
        tracker, resets, frames = Tracker(TERMS), [], []
        ends = [*sorted(cut for cut in cuts if 0 < cut < len(messages)), len(messages)]
        for start, end in zip([0, *ends], ends, strict=False):
            batch = messages[start:end]
            tracker = Tracker.load(tracker.dump(), TERMS)
            judged = tracker.judge(as_input(batch), STRICT)
            resets += [
                (name, batch[one.row].offset, one.stream, one.previous_session, one.session)
                for name, found in judged.resets.items()
                for one in found
            ]
            frames += [(name, dict(unframed(frame))) for name, frame in judged.forgotten.items()]
        found = [received("x", "ticks", name, tables, is_open=False, symbol=None) for name, tables in frames]
        found += [
            received("x", "ticks", name, tables, is_open=False, symbol=None)
            for name, tables in numbering_tables(tracker.dump()).items()
        ]
        whole = together(found)
        return sorted(resets), *(sorted(map(repr, one.to_pylist())) for one in (whole.intervals, whole.holes))

    assert told(cuts) == told(set())
