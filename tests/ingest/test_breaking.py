"""A critical gap halts its partition behind the message that showed it, however messages are batched."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.ingest.batch import BatchJudge
from k2_dagster.ingest.breaking import cut
from k2_dagster.ingest.decode import Decoder
from k2_dagster.ingest.outcome import Held
from k2_dagster.ingest.tracker import Tracker
from k2_dagster.schemas.profiles import ExchangeProfile
from k2_dagster.state.breakers import NO_BREAKERS, BreakerOpens, Breakers
from k2_dagster.state.holds import HoldEnds
from k2_dagster.state.times import from_micros
from tests.ingest.helpers import Schemas, Sent, raw_batch, registry_of
from tests.ingest.test_batch import PROFILE, TERMS, TICKS, TOPIC, Landed, topics

# One message more than the page threshold is critical, so that small examples have critical gaps.
HALTING = PROFILE.model_copy(update={"on_critical_gap": "halt", "gap_page_at": 2, "gap_halt_above": 2})
STALE = HALTING.model_copy(update={"on_critical_gap": "mark_stale"})


class Run(Landed):
    """What some batches became, and which partitions halted behind which offset."""

    halted: dict[int, int]


def land(
    sent: Sequence[Sent], cuts: set[int], profile: ExchangeProfile = HALTING, breakers: Breakers = NO_BREAKERS
) -> Run:
    """Judge the messages in batches that end at the cuts, leaving out what is halted, as a drain does."""
    out = Run()
    out.halted = {}
    tracker, starts = Tracker(TERMS), {0: 0, 1: 0}
    ends = [*sorted(one for one in cuts if 0 < one < len(sent)), len(sent)]
    for start, end in zip([0, *ends], ends, strict=False):
        batch = [one for one in sent[start:end] if one.partition not in out.halted]
        if not batch:
            continue
        decoder = Decoder(TICKS, Schemas(registry_of(TICKS)))
        judge = BatchJudge("testex", profile, decoder, tracker, TOPIC, 100_001, Held(), breakers)
        raw = raw_batch(TOPIC.name, batch)
        outcome = judge.judge(raw, starts)
        breakers = judge.breakers
        out.add(outcome)
        opened = [one for one in outcome.ledger if isinstance(one, BreakerOpens)]
        assert {one.kafka_partition for one in opened} == outcome.halted
        out.halted |= {one.kafka_partition: one.kafka_offset for one in opened}
        moved = {one.partition: one.end for one in outcome.ranges}
        assert all(moved[one.kafka_partition] == one.kafka_offset + 1 for one in opened)
        starts = {**starts, **moved}
        tracker = Tracker.load(outcome.state, TERMS)
    return out


def up_to(run: Run, positions: Mapping[tuple[int, int], object]) -> set[tuple[int, int]]:
    return {place for place in positions if place[1] <= run.halted.get(place[0], place[1])}


@given(sent=topics(), cuts=st.sets(st.integers(1, 39), max_size=4))
@settings(max_examples=60, deadline=None)
def test_where_it_halts_does_not_depend_on_how_messages_are_batched(sent: list[Sent], cuts: set[int]) -> None:
    whole, split = land(sent, set()), land(sent, cuts)
    assert split.halted == whole.halted
    assert split.rows == whole.rows
    assert split.quarantine == whole.quarantine
    assert split.digests == whole.digests


@given(sent=topics(), cuts=st.sets(st.integers(1, 39), max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_comes_before_is_what_would_have_come_anyway(sent: list[Sent], cuts: set[int]) -> None:
    halted, stale = land(sent, cuts), land(sent, cuts, STALE)
    assert not stale.halted
    assert set(halted.rows) == up_to(halted, stale.rows)
    assert set(halted.quarantine) == up_to(halted, stale.quarantine)
    shown = {(one.kafka_partition, one.kafka_offset) for one in halted.ledger if isinstance(one, BreakerOpens)}
    assert shown == set(halted.halted.items())


@given(sent=topics())
@settings(max_examples=40, deadline=None)
def test_what_was_acknowledged_passes(sent: list[Sent]) -> None:
    stale = land(sent, set(), STALE)
    passed: Breakers = NO_BREAKERS
    for _ in range(len(sent) + 1):
        run = land(sent, set(), breakers=passed)
        if not run.halted:
            break
        known = {key: (*passed.acknowledged.get(key, ()), (at, at)) for key, at in run.halted.items()}
        passed = replace(passed, acknowledged={**passed.acknowledged, **known})
    assert (run.rows, run.quarantine, run.ledger) == (stale.rows, stale.quarantine, stale.ledger)
    everything = Breakers(frozenset(), dict.fromkeys((0, 1), ((0, 10**9),)))
    assert not land(sent, set(), breakers=everything).halted


@given(sent=topics(), cuts=st.sets(st.integers(1, 39), max_size=4), holds=st.lists(st.integers(0, 20), max_size=2))
@settings(max_examples=60, deadline=None)
def test_a_hold_ends_with_the_first_row_behind_it(sent: list[Sent], cuts: set[int], holds: list[int]) -> None:
    """Once, whatever the batches are, and never with a message that was refused."""
    began = {0: tuple(sorted(set(holds))), 1: (0,)}
    run = land(sent, cuts, breakers=replace(NO_BREAKERS, resuming=began))
    ends = [one for one in run.ledger if isinstance(one, HoldEnds)]
    found = {(one.kafka_partition, one.from_offset): (one.to_offset, from_micros(one.at_micros)) for one in ends}
    behind = {
        (partition, first): [offset for place, offset in run.rows if place == partition and offset >= first]
        for partition, offsets in began.items()
        for first in offsets
    }
    assert found == {
        place: (min(offsets), run.rows[place[0], min(offsets)]["exchange_timestamp"])
        for place, offsets in behind.items()
        if offsets
    }
    assert len(ends) == len(found)


def test_a_cut_batch_keeps_headers_with_their_messages() -> None:
    sent = [Sent(b"a", 0, 0, 1, None, [("h", b"0")]), Sent(b"b", 1, 5, 1, None, []), Sent(b"c", 0, 1, 1, None, [])]
    sent += [Sent(b"d", 1, 6, 1, None, [("h", b"3")])]
    found = cut(raw_batch("t", sent), {0: 0, 2: 9})
    assert found.values.to_pylist() == [b"b", b"d"]
    assert found.offset.tolist() == [5, 6]
    assert dict(found.headers) == {1: [("h", b"3")]}
    assert dict(found.positions) == {0: 0, 1: 7}


@pytest.mark.parametrize(("offset", "passes"), [(4, False), (5, True), (9, True), (10, False)])
def test_an_acknowledgement_covers_its_offsets(offset: int, passes: bool) -> None:
    assert Breakers(frozenset(), {3: ((1, 2), (5, 9))}).passes(3, offset) is passes
    assert not Breakers(frozenset(), {3: ((5, 9),)}).passes(2, offset)
