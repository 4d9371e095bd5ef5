"""Whole batches of encoded messages: every split gives the same rows, quarantine, ledger and digests."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.errors import SchemaUnknown
from k2_dagster.ingest.batch import BatchJudge
from k2_dagster.ingest.decode import Decoder
from k2_dagster.ingest.outcome import Held, Outcome, Topic
from k2_dagster.ingest.terms import Terms
from k2_dagster.ingest.tracker import Tracker
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import ExchangeProfile
from k2_dagster.schemas.quarantine import REASONS
from tests.ingest.helpers import (
    FOREIGN_ID,
    ONE,
    START_MICROS,
    Schemas,
    Sent,
    avro,
    framed,
    in_json,
    old_tick,
    profile,
    raw_batch,
    refused,
    registry_of,
)

TICKS, BOOK = WIRE_DATASETS["ticks"], WIRE_DATASETS["book"]
TOPIC = Topic("market.ticks.testex", "topicid", 3, frozenset({0, 1}))
TERMS = Terms(grace_messages=4, grace_ms=5_000, horizon_days=3)
PROFILE = profile(ticks="dense", book="range", quotes="none")
EVERY = 1_000_000


@dataclass
class Landed:
    """Everything that some batches became, by offset where it has one."""

    rows: dict[tuple[int, int], Any] = field(default_factory=dict)
    quarantine: dict[tuple[int, int], Any] = field(default_factory=dict)
    ledger: list[Any] = field(default_factory=list)
    digests: list[int] = field(default_factory=lambda: [0, 0])
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        for day, table in outcome.days.items():
            for row in table.to_pylist():
                position = (row["kafka_partition"], row["kafka_offset"])
                assert position not in self.rows
                assert str(row["exchange_timestamp"].date()) == day
                del row["ingest_timestamp"]
                self.rows[position] = row
        for row in outcome.quarantine.to_pylist():
            position = (row["kafka_partition"], row["kafka_offset"])
            assert position not in self.quarantine
            assert row["reason"] in REASONS
            self.quarantine[position] = (row["reason"], row["detail"], row["symbol"], row["key"], row["schema_id"])
        self.ledger += outcome.ledger
        for one in outcome.ranges:
            assert one.consumed == one.rows + one.quarantined
            self.digests[0] = (self.digests[0] + int(one.digest, 16)) % 2**64
            self.digests[1] = (self.digests[1] + int(one.quarantine_digest, 16)) % 2**64
        for name in ("consumed", "rows", "quarantined", "duplicates", "late"):
            self.counts[name] = self.counts.get(name, 0) + outcome.counts[name]


def judge_of(
    dataset: str, tracker: Tracker | None = None, under: ExchangeProfile = PROFILE, held: Held | None = None
) -> BatchJudge:
    decoder = Decoder(WIRE_DATASETS[dataset], Schemas(registry_of(WIRE_DATASETS[dataset])))
    return BatchJudge("testex", under, decoder, tracker or Tracker(TERMS), TOPIC, 100_001, held or Held())


def land(dataset: str, sent: Sequence[Sent], cuts: Set[int] = frozenset(), under: ExchangeProfile = PROFILE) -> Landed:
    """Judge the messages in batches that end at the cuts, each by a new judge with the state that the last one left."""
    out = Landed()
    tracker = Tracker(TERMS)
    starts = {0: 0, 1: 0}
    ends = [*sorted(cut for cut in cuts if 0 < cut < len(sent)), len(sent)]
    for start, end in zip([0, *ends], ends, strict=False):
        raw = raw_batch(TOPIC.name, sent[start:end])
        outcome = judge_of(dataset, tracker, under).judge(raw, starts)
        starts = {**starts, **raw.positions}
        out.add(outcome)
        tracker = Tracker.load(outcome.state, TERMS)
    return out


MICROS_PER_DAY = 86_400_000_000


@st.composite
def topics(draw: st.DrawFn) -> list[Sent]:
    """Ticks of two symbols and publishers in every form and shape, with repeats, holes and damage."""
    offsets = {0: 0, 1: 0}
    nexts: dict[Any, int] = {}
    now = START_MICROS // 1000
    sent: list[Sent] = []
    for _ in range(draw(st.integers(1, 40))):
        partition = draw(st.integers(0, 1))
        offsets[partition] += draw(st.sampled_from((1, 1, 1, 2)))
        now += draw(st.sampled_from((0, 1, 400, 3_000)))
        symbol = f"S{partition}{draw(st.integers(0, 1))}"
        sequence = nexts.get(symbol, 1) + draw(st.sampled_from((0, 0, 0, 0, 1, 4, -1, -3)))
        nexts[symbol] = max(nexts.get(symbol, 1), sequence + 1)
        shape = draw(st.sampled_from(("good",) * 8 + tuple(_SHAPES)))
        values: dict[str, Any] = {
            "symbol": symbol,
            "sequence": sequence,
            "publisher_session": "p",
            "publisher_sequence": max(1, sequence),
        }
        values["exchange_timestamp"] = START_MICROS + draw(st.integers(0, 2)) * MICROS_PER_DAY // 4
        value = _SHAPES[shape](values) if shape in _SHAPES else avro(TICKS, **values)
        key = f"testex.{symbol}".encode() if draw(st.integers(0, 9)) else None
        headers: Any = [("k2-origin", b"recovered")] if draw(st.integers(0, 9)) == 0 else []
        if shape == "refused by feed":
            headers = refused(symbol, max(1, sequence), sequence if draw(st.booleans()) else None)
        if sent and shape == "repeat":
            again = draw(st.sampled_from(sent))
            value, headers = again.value, again.headers
        sent.append(Sent(value, partition, offsets[partition], now, key, headers))
    return sent


_SHAPES: Mapping[str, Any] = {
    "repeat": lambda values: avro(TICKS, **values),
    "json": lambda values: in_json(TICKS, **values),
    "old": lambda values: old_tick(symbol=values["symbol"], sequence=values["sequence"]),
    "cut": lambda values: avro(TICKS, **values)[:-3],
    "price": lambda values: avro(TICKS, **{**values, "price": 0}),
    "stream": lambda values: avro(TICKS, **{**values, "stream": "other"}),
    "exchange": lambda values: avro(TICKS, **{**values, "exchange": "other"}),
    "day": lambda values: avro(TICKS, **{**values, "exchange_timestamp": START_MICROS + 9 * MICROS_PER_DAY}),
    "no number": lambda values: avro(TICKS, **{**values, "sequence": None}),
    "correction": lambda values: avro(TICKS, **{**values, "kind": "correction", "refers_to": "x"}),
    "foreign": lambda _: framed(FOREIGN_ID, b"\2a"),
    "none": lambda _: None,
    "refused by feed": lambda _: b"\0not a record",
}


@settings(max_examples=30, deadline=None)
@given(topics(), st.sets(st.integers(1, 39)))
def test_any_split_gives_the_same_rows_quarantine_ledger_and_digests(sent: list[Sent], cuts: set[int]) -> None:
    whole = land("ticks", sent)
    assert {*whole.rows, *whole.quarantine} == {(one.partition, one.offset) for one in sent}
    assert not whole.rows.keys() & whole.quarantine.keys()
    assert whole.counts["consumed"] == len(sent)
    assert land("ticks", sent, cuts) == whole


def ticks(count: int, **values: Any) -> list[Sent]:
    return [Sent(avro(TICKS, sequence=at + 1, **values), offset=at) for at in range(count)]


def reasons(landed: Landed) -> dict[int, str]:
    return {offset: found[0] for (_, offset), found in landed.quarantine.items()}


def test_a_refused_message_leaves_a_hole_that_its_good_copy_fills_without_a_gap() -> None:
    sent = ticks(10)
    sent[3] = Sent(avro(TICKS, sequence=4, price=0), offset=3)
    sent.append(Sent(avro(TICKS, sequence=4), offset=10, headers=[("k2-origin", b"reprocessed")]))
    landed = land("ticks", sent, {4, 7})
    assert reasons(landed) == {3: "rule_violated"}
    assert landed.rows[0, 10]["origin"] == "reprocessed"
    assert landed.ledger == []


def test_an_unreadable_message_explains_the_hole_of_its_symbol() -> None:
    sent = ticks(12)
    sent[3] = replace(sent[3], value=(sent[3].value or b"")[:-2])
    landed = land("ticks", sent, {4})
    assert reasons(landed) == {3: "undecodable"}
    assert landed.ledger == []


@pytest.mark.parametrize("domain", ["range", "linked"])
def test_an_unreadable_message_explains_all_numbers_that_it_may_have_covered(domain: str) -> None:
    edges = [0, 3, 10, 11, 18, 30, 31, 32, 33, 34, 35]
    sent = [
        Sent(avro(BOOK, sequence=last, previous_sequence=before), offset=offset)
        for offset, (before, last) in enumerate(pairwise(edges))
    ]
    sent[3] = replace(sent[3], value=(sent[3].value or b"")[:-2])
    landed = land("book", sent, {2, 4}, under=profile(book=domain))
    assert reasons(landed) == {3: "undecodable"}
    assert landed.ledger == []
    # what is lost beside it is told, with all of its numbers
    (gap,) = land("book", [*sent[:1], *sent[2:]], under=profile(book=domain)).ledger
    assert (gap.first_sequence, gap.last_sequence) == (4, 10)


def test_a_missing_message_is_a_gap_of_the_day_that_showed_it() -> None:
    sent = [one for one in ticks(12) if one.offset not in (3, 4)]
    landed = land("ticks", sent)
    (gap,) = landed.ledger
    assert (gap.change, gap.numbering, gap.symbol) == ("report", "venue", "A")
    assert (gap.first_sequence, gap.last_sequence, gap.missing, gap.level) == (4, 5, 2, "warn")
    assert (gap.opened_offset, gap.event_day, gap.topic_epoch) == (5, "2026-01-01", 3)


def test_a_message_that_is_refused_gives_a_gap_no_day_of_its_own() -> None:
    sent = [one for one in ticks(8) if one.offset != 3]
    wrong = avro(TICKS, sequence=20, exchange_timestamp=START_MICROS + 400 * MICROS_PER_DAY)
    sent.append(Sent(wrong, offset=9, time_ms=START_MICROS // 1000 + 60_000))
    (gap,) = land("ticks", [*sent[:5], sent[-1]]).ledger
    assert gap.event_day == "2026-01-01"


def test_duplicates_name_their_first_and_keep_bytes_only_when_they_differ() -> None:
    sent = [*ticks(2), replace(ticks(1)[0], offset=2), Sent(avro(TICKS, sequence=2, price=7 * ONE), offset=3)]
    outcome = judge_of("ticks").judge(raw_batch(TOPIC.name, sent), {0: 0})
    found = outcome.quarantine.to_pylist()
    assert [(one["reason"], one["first_offset"], one["value"]) for one in found] == [
        ("duplicate", 0, None),
        ("duplicate", 1, sent[3].value),
    ]


def test_what_quarantine_holds_is_not_appended_again_and_counts_as_quarantined() -> None:
    sent = ticks(5)
    sent[1] = replace(sent[1], value=b"junk!!")
    sent[2] = replace(sent[0], offset=2)
    held = Held({0: {1: "not_framed", 2: "duplicate"}})
    outcome = judge_of("ticks", held=held).judge(raw_batch(TOPIC.name, sent), {0: 0})
    assert outcome.quarantine.num_rows == 0
    (one,) = outcome.ranges
    assert (one.consumed, one.rows, one.quarantined) == (5, 3, 2)
    assert outcome.counts["reasons"] == {"not_framed": 1, "duplicate": 1}


def test_an_empty_batch_still_moves_positions() -> None:
    outcome = judge_of("ticks").judge(raw_batch(TOPIC.name, [], {0: 7, 1: 0}), {0: 5, 1: 0})
    assert outcome.days == {}
    assert [(one.partition, one.start, one.end, one.consumed) for one in outcome.ranges] == [(0, 5, 7, 0)]


def test_an_unknown_schema_moves_no_state() -> None:
    judge = judge_of("ticks")
    before = judge.tracker.dump()
    with pytest.raises(SchemaUnknown):
        judge.judge(raw_batch(TOPIC.name, [*ticks(3), Sent(framed(99, b"x"), offset=3)]), {0: 0})
    assert judge.tracker.dump() == before


def test_levels_that_no_table_can_hold_are_refused_alone() -> None:
    level = {"price": 5, "size": 2, "orders": None}
    bids: list[Any] = [
        [level],
        [None],
        [level, {**level, "price": None}],
        [{**level, "size": None}],
        [{**level, "price": 10**18}],
        [{**level, "price": 10**18 - 1, "size": 2**63 - 1}],
        None,
    ]
    sent = [
        Sent(in_json(BOOK, sequence=at + 1, previous_sequence=at, bids=one), offset=at) for at, one in enumerate(bids)
    ]
    landed = land("book", sent)
    assert reasons(landed) == {1: "missing_field", 2: "missing_field", 3: "missing_field", 4: "rule_violated"}
    assert landed.rows[0, 6]["bids"] == []
    assert str(landed.rows[0, 5]["bids"][0]["price"]) == "9999999999.99999999"


def test_rows_are_exact_and_complete() -> None:
    sent = [
        Sent(
            avro(TICKS, sequence=1, price=10**18 - 1, size=2**63 - 1, conditions=["@", ""], trade_id="é"),
            offset=4,
            time_ms=START_MICROS // 1000 + 7,
        )
    ]
    (row,) = land("ticks", sent).rows.values()
    assert (str(row["price"]), str(row["size"])) == ("9999999999.99999999", "92233720368.54775807")
    assert (row["conditions"], row["trade_id"], row["side"]) == (["@", ""], "é", "buy")
    assert (row["kafka_partition"], row["kafka_offset"], row["topic_epoch"], row["schema_id"]) == (0, 4, 3, 7)
    assert (row["rules_version"], row["origin"]) == (100_001, "live")
    assert row["kafka_timestamp"].microsecond == 7_000
