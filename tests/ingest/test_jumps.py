"""One number far ahead destroys nothing: its message is refused, and what is lost later is told. A venue may jump."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.ingest.outcome import Held
from k2_dagster.ingest.terms import terms_of
from k2_dagster.ingest.tracker import Tracker
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import Domain, ExchangeProfile
from tests.ingest.helpers import START_MICROS, Sent, avro, profile, raw_batch, refused
from tests.ingest.test_batch import TERMS, TOPIC, Landed, judge_of, land, reasons

TICKS = WIRE_DATASETS["ticks"]
# Beyond what is believed in any domain.
FAR = 3 * 10**17
COUNT = 16
# Places among the messages: one with a number far ahead, and one that is lost.
DAMAGED, LOST = 5, 9


def told(domain: Domain, at: int) -> dict[str, Any]:
    """The numbers of message `at`, from 0, and how far a number of it must not reach."""
    covers = 1 if domain is Domain.DENSE else 4
    values: dict[str, Any] = {"sequence": 100 + covers * at}
    if domain.covers_many:
        values["previous_sequence"] = 100 + covers * (at - 1)
    if not domain.judged_by_ingest:
        values |= {"publisher_session": "p", "publisher_sequence": at + 1}
    if domain is Domain.CHANNEL:
        values["channel"] = "1"
    if domain is Domain.NONE:
        del values["sequence"]
    return values


def message(domain: Domain, at: int, offset: int | None = None, **others: Any) -> Sent:
    return Sent(avro(TICKS, **told(domain, at) | others), offset=at if offset is None else offset)


def identifying(domain: Domain) -> str:
    return "sequence" if domain.judged_by_ingest else "publisher_sequence"


@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("domain", list(Domain))
@given(cuts=st.sets(st.integers(1, COUNT - 1)))
def test_what_is_lost_after_a_number_far_ahead_is_told_in_every_domain(domain: Domain, cuts: set[int]) -> None:
    sent = [message(domain, at) for at in range(COUNT) if at != LOST]
    sent[DAMAGED] = message(domain, DAMAGED, **{identifying(domain): FAR})
    landed = land("ticks", sent, cuts, under=profile(ticks=domain.value))
    assert reasons(landed) == {DAMAGED: "sequence_jump"}
    lost = told(domain, LOST)
    (gap,) = landed.ledger
    last = lost[identifying(domain)]
    assert (gap.change, gap.last_sequence, gap.level) == ("report", last, "warn")
    assert gap.first_sequence == lost.get("previous_sequence", last - 1) + 1


def test_the_detail_names_field_value_last_number_and_bound() -> None:
    landed = land("ticks", [message(Domain.DENSE, 0), message(Domain.DENSE, 1, sequence=FAR)])
    detail = landed.quarantine[0, 1][1]
    for part in (f"sequence was {FAR}", "the last one, 100", "at most 1000000000 beyond", "jump_above"):
        assert part in detail


@pytest.mark.parametrize("domain", [Domain.DENSE, Domain.RANGE])
def test_a_number_at_the_bound_is_believed_and_one_beyond_is_not(domain: Domain) -> None:
    terms = terms_of(profile(ticks=domain.value))
    bound = terms.believed(sparse=domain.covers_many)
    assert bound == (10**15 if domain.covers_many else 10**9)
    for more, wanted in ((0, {}), (1, {1: "sequence_jump"})):
        values = {"sequence": 100 + bound + more}
        landed = land("ticks", [message(domain, 0), message(domain, 1, **values)], under=profile(ticks=domain.value))
        assert reasons(landed) == wanted


@pytest.mark.parametrize("cuts", [set(), {3}, {1, 2, 3, 4, 5}])
def test_a_venue_that_jumps_is_believed_with_its_second_number_and_the_first_comes_back(cuts: set[int]) -> None:
    jumped = [Sent(avro(TICKS, sequence=FAR + at), offset=3 + at) for at in range(8)]
    before = [message(Domain.DENSE, at) for at in range(3)]
    again = [replace(jumped[0], offset=11, headers=returned(3))]
    landed = land("ticks", [*before, *jumped, *again], cuts)
    assert reasons(landed) == {3: "sequence_jump"}
    assert len(landed.rows) == 3 + 7 + 1
    (gap,) = landed.ledger
    assert (gap.first_sequence, gap.last_sequence, gap.level) == (103, FAR - 1, "halt")


def test_numbers_that_go_on_where_they_were_leave_the_next_jump_unconfirmed() -> None:
    numbers = [100, FAR, 101, FAR + 1, FAR + 1, 102, FAR + 2, 103]
    landed = land("ticks", [Sent(avro(TICKS, sequence=one), offset=at) for at, one in enumerate(numbers)])
    assert reasons(landed) == dict.fromkeys((1, 3, 4, 6), "sequence_jump")
    assert landed.ledger == []


def test_two_numbers_far_from_each_other_confirm_nothing() -> None:
    numbers = [100, FAR, 2 * FAR, FAR, 101]
    landed = land("ticks", [Sent(avro(TICKS, sequence=one), offset=at) for at, one in enumerate(numbers)])
    assert reasons(landed) == dict.fromkeys((1, 2, 3), "sequence_jump")


def test_a_message_whose_pair_alone_is_far_ahead_lands_and_its_pair_is_no_gap() -> None:
    pairs = [1, 2, FAR, *range(4, 16)]
    sent = [
        Sent(avro(TICKS, sequence=at + 1, publisher_session="p", publisher_sequence=pair), offset=at)
        for at, pair in enumerate(pairs)
    ]
    landed = land("ticks", sent, {3})
    assert (len(landed.rows), landed.quarantine, landed.ledger) == (len(pairs), {}, [])


def test_what_comes_back_from_quarantine_confirms_nothing() -> None:
    """Two spoiled numbers of different hours, sent again one after the other, are no jump of the venue's."""
    numbers = [100, FAR, 101, FAR + 3, 102]
    sent = [Sent(avro(TICKS, sequence=one), offset=at) for at, one in enumerate(numbers)]
    sent += [replace(sent[1], offset=5, headers=returned(1)), replace(sent[3], offset=6, headers=returned(3))]
    sent += [Sent(avro(TICKS, sequence=one), offset=6 + at) for at, one in ((1, FAR + 4), (2, 103))]
    for cuts in (set(), {6}):
        landed = land("ticks", sent, cuts)
        assert reasons(landed) == dict.fromkeys((1, 3, 5, 6, 7), "sequence_jump")
        assert landed.ledger == []


def test_under_a_mended_profile_it_lands_when_it_comes_back() -> None:
    """The venue does leave so many numbers out: its profile says so, and the copy from quarantine opens the gap."""
    numbers = [*range(100, 105), 10**10]
    sent = [Sent(avro(TICKS, sequence=one), offset=at) for at, one in enumerate(numbers)]
    judge = judge_of("ticks")
    state = judge.judge(raw_batch(TOPIC.name, sent), {0: 0}).state
    mended = profile(ticks="dense").model_copy(update={"jump_above": 10**11})
    tracker = Tracker.load(state, terms_of(mended))
    copy = replace(sent[5], offset=6, headers=returned(5))
    outcome = judge_of("ticks", tracker, mended).judge(raw_batch(TOPIC.name, [copy]), {0: 6})
    assert outcome.quarantine.num_rows == 0
    assert outcome.counts["rows"] == 1


@st.composite
def histories(draw: st.DrawFn) -> list[Sent]:
    """Ticks of two symbols whose numbers and pairs jump now and then, some for good; some spoiled, some back from
    quarantine, some that a feed handler refused."""
    nexts: dict[tuple[str, str], int] = {}

    def number(symbol: str, of: str) -> int:
        jump: int = draw(st.sampled_from((0,) * 8 + (1, 2, -1, FAR, FAR, FAR + 1, 2 * FAR)))
        at = max(1, nexts.get((symbol, of), 1) + jump)
        if jump < FAR or draw(st.integers(0, 2)) == 0:
            nexts[symbol, of] = max(nexts.get((symbol, of), 1), at + 1)
        return min(at, 2**62)

    sent: list[Sent] = []
    for offset in range(draw(st.integers(1, 30))):
        symbol, shape = draw(st.sampled_from("AB")), draw(st.sampled_from(("",) * 7 + ("price", "refused")))
        sequence, pair = number(symbol, "venue"), number(symbol, "pair")
        values: dict[str, Any] = {
            "symbol": symbol,
            "sequence": sequence,
            "publisher_session": "p",
            "publisher_sequence": pair,
        }
        value, headers = avro(TICKS, **values | ({"price": 0} if shape == "price" else {})), returned(0)
        headers = headers if draw(st.integers(0, 6)) == 0 else []
        if shape == "refused":
            value, headers = b"\0not a record", refused(symbol, pair, sequence if draw(st.booleans()) else None)
        time_ms = START_MICROS // 1000 + 400 * offset
        sent.append(Sent(value, 0, offset, time_ms, f"testex.{symbol}".encode(), headers))
    return sent


def land_with_crashes(sent: Sequence[Sent], cuts: set[int], crash: set[int], under: ExchangeProfile) -> Landed:
    """As `land`; but the batches of `crash` end behind quarantine's commit, and are judged again message by message."""
    out, state, at = Landed(), Tracker(TERMS).dump(), 0
    for number, (start, end) in enumerate(pairwise([0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)])):
        batch, held = sent[start:end], Held()
        if number in crash:
            raw = raw_batch(TOPIC.name, batch)
            lost = judge_of("ticks", Tracker.load(state, TERMS), under).judge(raw, {0: at})
            places = zip(*(lost.quarantine[name].to_pylist() for name in ("kafka_offset", "reason")), strict=True)
            held = Held({0: dict(places)})
            out.add(replace(lost, days={}, ledger=[], ranges=[], counts=dict.fromkeys(lost.counts, 0)))
        parts = [[one] for one in batch] if number in crash else [batch]
        for part in parts:
            raw = raw_batch(TOPIC.name, part)
            outcome = judge_of("ticks", Tracker.load(state, TERMS), under, held).judge(raw, {0: at})
            out.add(outcome)
            state, at = outcome.state, raw.positions[0]
    return out


@settings(max_examples=60, deadline=None)
@given(histories(), st.sets(st.integers(1, 29)), st.sets(st.integers(0, 29)), st.sampled_from(["dense", "none"]))
def test_batches_and_crashes_change_no_row_no_refusal_and_no_gap(
    sent: list[Sent], cuts: set[int], crash: set[int], domain: str
) -> None:
    under = profile(ticks=domain)
    whole = land("ticks", sent, under=under)
    assert {*whole.rows, *whole.quarantine} == {(one.partition, one.offset) for one in sent}
    assert land("ticks", sent, cuts, under=under) == whole
    crashed = land_with_crashes(sent, cuts, crash, under)
    assert (crashed.rows, crashed.quarantine, crashed.ledger) == (whole.rows, whole.quarantine, whole.ledger)
    assert crashed.digests == whole.digests


def returned(offset: int) -> list[tuple[str, bytes | None]]:
    """Headers of a message that was first refused at an offset."""
    told: Mapping[str, str] = {"k2-origin": "reprocessed", "k2-refused-first": f"3/0/{offset}"}
    return [(name, value.encode()) for name, value in told.items()]
