"""A batch of a channel's messages: which of them land, and what quarantine says of the others."""

from typing import Any

import pytest

from k2_dagster.ingest.tracker import Tracker
from k2_dagster.schemas.common import BEHIND_HEADER, ORIGIN_HEADER
from k2_dagster.schemas.profiles import Domain
from tests.ingest.helpers import Sent, avro, profile, raw_batch
from tests.ingest.test_batch import TERMS, TICKS, TOPIC, judge_of

OF_CHANNELS = profile(ticks=Domain.CHANNEL.value)
BEHIND: list[tuple[str, bytes | None]] = [(BEHIND_HEADER, b"1")]
RECOVERED: list[tuple[str, bytes | None]] = [(ORIGIN_HEADER, b"recovered")]


def tick(offset: int, number: int | None, pair: tuple[str, int], **others: Any) -> Sent:
    headers = others.pop("headers", [])
    told = {"channel": "7", "sequence": number, "publisher_session": pair[0], "publisher_sequence": pair[1], **others}
    return Sent(avro(TICKS, **told), 0, offset, headers=headers)


SENT = [
    tick(0, 10, ("live", 1)),
    tick(1, 12, ("live", 2), headers=BEHIND),
    tick(2, 20, ("live", 3)),
    # the same in other bytes, and in the same
    tick(3, 12, ("recovered", 1), headers=RECOVERED),
    tick(4, 12, ("live", 2), headers=BEHIND),
    tick(5, 13, ("recovered", 2), headers=RECOVERED),
    tick(6, 13, ("live", 4), headers=BEHIND),
    tick(7, 13, ("live", 5), channel="8"),
    # refused, and good the next time
    tick(8, 15, ("live", 6), price=0),
    tick(9, 15, ("recovered", 3), headers=RECOVERED),
    # no number of the channel, as a row of a snapshot
    tick(10, None, ("live", 7)),
    tick(11, None, ("live", 8)),
]


@pytest.mark.parametrize("cut", [12, 2, 4, 6])
def test_each_number_lands_once_and_says_where_its_first_is(cut: int) -> None:
    found: list[dict[str, Any]] = []
    landed: list[int] = []
    tracker = Tracker(TERMS)
    for part in (SENT[:cut], SENT[cut:]):
        judge = judge_of("ticks", Tracker.load(tracker.dump(), TERMS), OF_CHANNELS)
        outcome = judge.judge(raw_batch(TOPIC.name, part), {0: part[0].offset if part else 0, 1: 0})
        landed += [row["kafka_offset"] for table in outcome.days.values() for row in table.to_pylist()]
        found += outcome.quarantine.to_pylist()
        tracker = judge.tracker
    assert sorted(landed) == [0, 1, 2, 5, 7, 9, 10, 11]
    told = {one["kafka_offset"]: (one["reason"], one["first_offset"], one["value"] is None) for one in found}
    firsts = {3: 1, 4: 1, 6: 5}
    together = {at: first for at, first in firsts.items() if (at < cut) == (first < cut)}
    assert told == {8: ("rule_violated", None, False)} | {
        at: ("duplicate", together.get(at), at == 4 and at in together) for at in firsts
    }


def test_the_state_goes_on_in_another_process() -> None:
    """As a run does: the state is all that is left of what has landed."""
    tracker = Tracker(TERMS)
    judge = judge_of("ticks", tracker, OF_CHANNELS)
    judge.judge(raw_batch(TOPIC.name, SENT), {0: 0, 1: 0})
    again = [tick(12 + place, number, ("else", place + 1)) for place, number in enumerate((12, 13, 15, 20))]
    after = judge_of("ticks", Tracker.load(judge.tracker.dump(), TERMS), OF_CHANNELS)
    outcome = after.judge(raw_batch(TOPIC.name, again), {0: 12, 1: 0})
    assert [one["reason"] for one in outcome.quarantine.to_pylist()] == ["duplicate"] * 4
