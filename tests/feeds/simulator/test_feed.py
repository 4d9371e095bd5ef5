import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.channels import Event, FeedState, Grace, judge
from k2_dagster.feeds.encode import AvroEncoder
from k2_dagster.feeds.simulator.feed import (
    Block,
    changed_schema,
    with_added_fields,
)
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.profiles import Domain
from tests.feeds.simulator.simulated import START_MICROS, rows_of, run_feed

ALL = {"ticks": "dense", "quotes": "monotone", "book": "range"}
DATASETS = ("ticks", "quotes", "book")
Rows = list[dict[str, Any]]


def by_unit(rows: Rows, domain: str) -> dict[str, Rows]:
    out: dict[str, Rows] = defaultdict(list)
    for row in rows:
        out[row["channel"] if domain == "channel" else row["symbol"]].append(row)
    return out


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("domain", [one.value for one in Domain])
def test_without_faults_every_domain_is_unbroken(dataset: str, domain: str) -> None:
    blocks, _ = run_feed({dataset: domain})
    rows = rows_of(blocks, dataset)
    assert len(rows) == 20_000
    for unit in by_unit(rows, domain).values():
        if domain == "none":
            assert all(row["sequence"] is None and row["previous_sequence"] is None for row in unit)
            continue
        assert unit[0]["previous_sequence"] in (None, 0)
        for before, row in pairwise(unit):
            if domain in ("dense", "channel"):
                assert row["sequence"] == before["sequence"] + 1
            elif domain in ("range", "linked"):
                assert row["previous_sequence"] == before["sequence"] < row["sequence"]
            else:
                assert row["sequence"] > before["sequence"]


def test_a_channel_is_shared_by_symbols_and_its_numbers_cross_them() -> None:
    blocks, _ = run_feed({"quotes": "channel"})
    channels = by_unit(rows_of(blocks, "quotes"), "channel")
    assert len(channels) == 2
    assert all(len({row["symbol"] for row in rows}) == 6 for rows in channels.values())


def replayed(blocks: list[Block]) -> list[tuple[str, dict[str, Any]]]:
    """Every row of every dataset in the order of the events; within one: trade, book, quote."""
    rank = {"ticks": 0, "book": 1, "quotes": 2}
    rows = [(row["exchange_timestamp"], rank[name], place, name, row) for name in DATASETS
            for place, row in enumerate(rows_of(blocks, name))]  # fmt: skip
    return [(name, row) for *_, name, row in sorted(rows, key=lambda one: one[:3])]


@pytest.mark.parametrize("resets", [(), ("session_reset@7s/book", "session_reset@7.5s/book", "session_reset@20s/book")])
def test_trades_print_at_the_book_and_quotes_are_its_top(resets: tuple[str, ...]) -> None:
    # At 1,000 messages per second no two events share a microsecond, so times give their order.
    blocks, feed = run_feed(ALL, messages=30_000, faults=resets)
    assert feed.unplanted == []
    books: dict[str, tuple[dict[int, int], dict[int, int]]] = {}
    sessions: dict[str, str] = {}
    seen: set[str] = set()
    checked = {"ticks": 0, "quotes": 0}
    for name, row in replayed(blocks):
        symbol = row["symbol"]
        if name == "book":
            if sessions.setdefault(symbol, row["session"]) != row["session"]:
                assert row["action"] == "snapshot", "a session's book begins whole"
                sessions[symbol] = row["session"]
            if row["action"] == "snapshot":
                books[symbol] = ({}, {})
            else:
                assert symbol in books, "a book starts with a snapshot"
            for side, levels in zip(books[symbol], (row["bids"], row["asks"]), strict=True):
                for level in levels:
                    side[level["price"]] = level["size"]
                    if level["size"] == 0:
                        del side[level["price"]]
            bids, asks = books[symbol]
            assert len(bids) == len(asks) == 10
            assert max(bids) < min(asks)
        elif name == "ticks":
            if symbol in books:
                bids, asks = books[symbol]
                best, there = (min(asks), asks) if row["side"] == "buy" else (max(bids), bids)
                assert row["price"] == best
                assert 0 < row["size"] <= there[best]
                checked["ticks"] += 1
        else:
            bids, asks = books[symbol]
            top = (max(bids), bids[max(bids)], min(asks), asks[min(asks)])
            assert (row["bid_price"], row["bid_size"], row["ask_price"], row["ask_size"]) == top
            checked["quotes"] += 1
        seen.add(name)
    assert {session.rsplit(".", 1)[1] for session in sessions.values()} == {str(1 + len(resets))}
    assert checked["ticks"] > 3_000
    assert checked["quotes"] > 8_000


def framed(blocks: list[Block]) -> list[bytes]:
    out: list[bytes] = []
    for block in blocks:
        for one in block.outgoing:
            for part in one.expanded().of_one_version():
                version = int(part.version[0])
                encoder = AvroEncoder(changed_schema(part.dataset, version), 1 + version)
                out += encoder.encode(with_added_fields(part.rows, version)).to_pylist()
    return out


FAULTS = ("drop:3@2s", "duplicate:4@4s/book", "late:3@3s/quotes", "schema_change@6s", "session_reset@8s/book")


def test_the_same_parameters_give_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (run_feed(ALL, faults=FAULTS, seed=seed)[0] for seed in (7, 7, 8))
    assert framed(first) == framed(again)
    assert framed(first) != framed(other)


def test_the_number_of_messages_is_the_rate_times_the_seconds() -> None:
    blocks, feed = run_feed(ALL, messages=12_345)
    assert feed.total == 12_345 == sum(block.generated for block in blocks)
    assert sum(len(rows_of(blocks, name)) for name in DATASETS) == 12_345


def test_symbols_are_skewed_as_zipf_says() -> None:
    blocks, _ = run_feed({"ticks": "dense"}, symbols=50, messages=50_000)
    counts = sorted((len(rows) for rows in by_unit(rows_of(blocks, "ticks"), "dense").values()), reverse=True)
    harmonic = sum(1 / rank for rank in range(1, 51))
    assert counts[0] / 50_000 == pytest.approx(1 / harmonic, rel=0.05)
    assert counts[9] / 50_000 == pytest.approx(0.1 / harmonic, rel=0.15)


def test_times_rise_and_receive_follows_exchange() -> None:
    blocks, _ = run_feed({"ticks": "dense"})
    rows = rows_of(blocks, "ticks")
    assert all(before["sent"] <= row["sent"] for before, row in pairwise(rows))
    assert all(row["receive_timestamp"] > row["exchange_timestamp"] for row in rows)
    assert rows[0]["sent"] == START_MICROS


def truths(blocks: list[Block]) -> list[dict[str, Any]]:
    lines = [record.line("sim") for block in blocks for record in block.records]
    assert json.loads(json.dumps(lines)) == lines
    return lines


def missing_numbers(rows: Rows) -> set[tuple[str, str, int]]:
    """What is not there of each (session, symbol), in a dense domain."""
    seen: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        seen[row["session"], row["symbol"]].add(row["sequence"])
    return {(*key, one) for key, found in seen.items() for one in range(1, max(found)) if one not in found}


def test_exactly_the_dropped_numbers_are_missing_and_the_publisher_pair_is_dense() -> None:
    blocks, _ = run_feed({"ticks": "dense"}, faults=("drop:7@5s",))
    (truth,) = truths(blocks)
    rows = rows_of(blocks, "ticks", in_kafka=True)
    told = {
        (truth["session"], truth["symbol"], one) for one in range(truth["first_sequence"], truth["last_sequence"] + 1)
    }
    assert truth["must_report"]["gaps"] == 1
    assert len(told) == truth["count"] == 7
    assert missing_numbers(rows) == told
    for unit in by_unit(rows, "dense").values():
        assert [row["publisher_sequence"] for row in unit] == list(range(1, len(unit) + 1))


def test_lost_messages_are_missing_from_both_numberings() -> None:
    blocks, _ = run_feed({"ticks": "dense"}, faults=("lose:5@5s",))
    (truth,) = truths(blocks)
    rows = rows_of(blocks, "ticks", in_kafka=True)
    assert len(missing_numbers(rows)) == 5
    numbers = {row["publisher_sequence"] for row in rows if row["symbol"] == truth["symbol"]}
    gone = set(range(truth["first_publisher_sequence"], truth["last_publisher_sequence"] + 1))
    assert set(range(1, max(numbers))) - numbers == gone
    assert len(gone) == 5


@pytest.mark.parametrize("domain", [one.value for one in Domain])
def test_duplicates_repeat_the_whole_message(domain: str) -> None:
    blocks, _ = run_feed({"quotes": domain}, faults=("duplicate:12@5s",))
    (truth,) = truths(blocks)
    rows = rows_of(blocks, "quotes", in_kafka=True)
    assert len(rows) == 20_012
    pairs = [(row["symbol"], row["publisher_sequence"]) for row in rows]
    assert _repeated(pairs) == {(one["symbol"], one["publisher_sequence"]) for one in truth["messages"]}
    assert truth["must_report"] == {"quarantined": 12, "reasons": ["duplicate"]}


def _repeated(pairs: list[tuple[str, int]]) -> set[tuple[str, int]]:
    seen: set[tuple[str, int]] = set()
    return {pair for pair in pairs if pair in seen or seen.add(pair)}  # type: ignore[func-returns-value]


def test_reordered_messages_are_all_there_in_the_opposite_order() -> None:
    blocks, _ = run_feed({"ticks": "dense"}, faults=("reorder:4@5s",))
    (truth,) = truths(blocks)
    rows = [row for row in rows_of(blocks, "ticks") if row["symbol"] == truth["symbol"]]
    swapped = [row["sequence"] for row in rows if truth["first_sequence"] <= row["sequence"] <= truth["last_sequence"]]
    assert swapped == sorted(swapped, reverse=True)
    assert len(swapped) == 4
    assert missing_numbers(rows) == set()


def test_messages_are_not_reordered_when_they_are_too_far_apart_for_the_grace() -> None:
    # A rare symbol's messages are minutes apart here, and the grace is five seconds.
    blocks, feed = run_feed({"ticks": "dense"}, faults=("reorder:2@5s/ticks/KAAAUSDT",), rate=0.2, messages=30_000_000)
    assert truths(blocks) == []
    assert [str(fault) for fault in feed.unplanted] == ["reorder:2@5s/ticks/KAAAUSDT"]
    assert missing_numbers(rows_of(blocks, "ticks")) == set()


def test_late_messages_come_after_the_grace_and_nothing_is_missing() -> None:
    blocks, _ = run_feed({"ticks": "dense"}, faults=("late:3@5s",))
    (truth,) = truths(blocks)
    rows = [row for row in rows_of(blocks, "ticks") if row["symbol"] == truth["symbol"]]
    order = [row["sequence"] for row in rows]
    after = order[order.index(truth["last_sequence"] + 1) : order.index(truth["first_sequence"])]
    assert len(after) == 20  # four times the grace of five
    assert sorted(order) == list(range(1, len(order) + 1))
    assert len(rows_of(blocks, "ticks")) == 20_000


def test_late_messages_still_held_at_the_end_are_sent_then() -> None:
    blocks, _ = run_feed({"ticks": "dense"}, faults=("late:3@19.99s",), messages=20_030)
    assert [truth["type"] for truth in truths(blocks)] == ["late"]
    assert len(rows_of(blocks, "ticks")) == 20_030


def test_a_session_reset_starts_every_number_again() -> None:
    blocks, _ = run_feed({"book": "range"}, faults=("session_reset@5s",))
    (truth,) = truths(blocks)
    rows = rows_of(blocks, "book")
    sessions = [row["session"] for row in rows]
    assert sorted(set(sessions)) == [truth["ended_session"], truth["session"]]
    cut = sessions.index(truth["session"])
    assert rows[cut]["sent"] == START_MICROS + 5_000_000
    assert set(sessions[cut:]) == {truth["session"]}
    assert all(unit[0]["previous_sequence"] == 0 for unit in by_unit(rows[cut:], "range").values())


@pytest.mark.parametrize(("dataset", "name", "bad"), [
    ("ticks", "price", {0, -1}),
    ("quotes", "bid_price", {0, -1}),
    ("book", "exchange_timestamp_nanos", {1000}),
])  # fmt: skip
def test_out_of_range_values_break_a_declared_rule(dataset: str, name: str, bad: set[int]) -> None:
    blocks, _ = run_feed({dataset: "dense"}, faults=("out_of_range:4@5s",))
    (truth,) = truths(blocks)
    rule = dataset_named(dataset)[name].rule
    assert rule is not None
    broken = [
        row for row in rows_of(blocks, dataset)
        if row[name] is not None and not (rule.minimum or 0) <= row[name] <= (rule.maximum or 0)
    ]  # fmt: skip
    assert {row[name] for row in broken} == bad
    assert [row["sequence"] for row in broken] == [one["sequence"] for one in truth["messages"]]


def test_corrupt_messages_are_marked_with_each_kind_of_damage_in_turn() -> None:
    blocks, _ = run_feed({"ticks": "dense"}, faults=("corrupt:5@5s",))
    (truth,) = truths(blocks)
    hurt = [row for row in rows_of(blocks, "ticks") if row["damage"]]
    assert [row["damage"] for row in hurt] == [1, 2, 3, 4, 1]
    assert [row["publisher_sequence"] for row in hurt] == [one["publisher_sequence"] for one in truth["messages"]]


def test_a_schema_change_holds_from_its_message_on() -> None:
    blocks, _ = run_feed({"ticks": "dense"}, faults=("schema_change@5s", "schema_change@9s"))
    versions = [(row["sent"] - START_MICROS >= 5_000_000) + (row["sent"] - START_MICROS >= 9_000_000)
                for row in rows_of(blocks, "ticks")]  # fmt: skip
    assert [row["version"] for row in rows_of(blocks, "ticks")] == versions
    added = json.loads(changed_schema("ticks", 2))["fields"][-2:]
    assert [(one["name"], one["default"]) for one in added] == [("venue_note_1", None), ("venue_note_2", None)]
    assert changed_schema("ticks", 0) == avro_schema_text(dataset_named("ticks"))


def channel_events(blocks: list[Block], grace: Grace) -> list[Event]:
    state: FeedState = {}
    events: list[Event] = []
    for block in blocks:
        for one in block.outgoing:
            state, found = judge(state, one.rows, grace)
            events += found
    return events


def test_the_feed_handler_finds_exactly_the_channel_gaps() -> None:
    faults = ("drop:3@2s", "drop:2@6s", "reorder:4@8s", "late:2@10s", "lose:3@13s", "session_reset@15s", "drop:1@17s")
    blocks, feed = run_feed({"quotes": "channel"}, faults=faults)
    assert feed.unplanted == []
    told = [one for one in truths(blocks) if one["must_report"].get("by") == "feed handler, control topic"]
    found = channel_events(blocks, Grace(messages=5, seconds=5.0))
    gaps = [(one.session, one.channel, one.first, one.last) for one in found if one.kind == "gap"]
    planted = [(one["session"], one["channel"], one["first_sequence"], one["last_sequence"]) for one in told]
    assert sorted(gaps, key=str) == sorted(planted, key=str)
    assert len(gaps) == 4
    assert [one.session for one in found if one.kind == "session"].count(feed.streams["quotes"].session) == 2


@pytest.mark.parametrize("seed", range(6))
def test_random_faults_are_told_apart_and_nothing_else_happens(seed: int) -> None:
    blocks, _ = run_feed({"ticks": "dense"}, seed=seed, random_rate=1 / 800, messages=60_000)
    lines = truths(blocks)
    assert len(lines) > 25
    rows = rows_of(blocks, "ticks", in_kafka=True)
    gone = {(one["session"], one["symbol"], number["sequence"]) for one in lines if one["type"] in ("drop", "lose")
            for number in one["messages"]}  # fmt: skip
    assert missing_numbers(rows) == gone
    extra = sum(one["count"] for one in lines if one["type"] == "duplicate")
    assert len(rows) == 60_000 - len(gone) + extra


@pytest.mark.parametrize("changed", [{"symbols": 0}, {"rate": 0.0}, {"messages": -1}])
def test_parameters_out_of_range_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="above zero"):
        run_feed({"ticks": "dense"}, **changed)


def test_rows_are_in_wire_form() -> None:
    blocks, _ = run_feed(ALL, messages=2_000)
    for one in blocks[0].outgoing:
        assert isinstance(one.rows, pa.RecordBatch)
        assert one.rows.schema.names == [field.name for field in dataset_named(one.dataset).wire_fields]


@pytest.mark.parametrize("fault", [(), ("late:3@3s",), ("reorder:5@3s/quotes",)], ids=["none", "late", "reorder"])
def test_receive_times_of_a_symbol_never_fall(fault: tuple[str, ...]) -> None:
    blocks, _ = run_feed(ALL, faults=fault)
    for dataset in DATASETS:
        for rows in by_unit(rows_of(blocks, dataset), "dense").values():
            received = [row["receive_timestamp"] for row in rows]
            assert received == sorted(received)
            assert all(row["receive_timestamp"] > row["exchange_timestamp"] for row in rows)
