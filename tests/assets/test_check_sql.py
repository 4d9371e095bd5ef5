"""The questions of the checks, on small partitions whose defects are planted."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k2_dagster.assets.check_sql import COUNTED, check_sql
from k2_dagster.schemas.profiles import ExchangeProfile, load_profiles
from k2_dagster.schemas.quarantine import QUARANTINE
from k2_dagster.schemas.quotes import QUOTES
from k2_dagster.schemas.ticks import TICKS

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
PROFILE = load_profiles().exchange("sim_crypto")
OF_CHANNELS = load_profiles().exchange("sim_lines")
TICK = {
    "stream": "trade", "kind": "trade", "session": None, "channel": None, "symbol": "A", "publisher_session": "p",
    "origin": "live", "topic_epoch": 0, "kafka_partition": 0, "exchange_timestamp": START, "receive_timestamp": START,
}  # fmt: skip


def _ticks(*numbers: tuple[int, int, int], **changes: Any) -> list[dict[str, Any]]:
    """Rows of (offset, sequence, publisher sequence)."""
    return [
        TICK | {"kafka_offset": at, "sequence": sequence, "publisher_sequence": pair} | changes
        for at, sequence, pair in numbers
    ]


def _ask(
    folder: Path, dataset: Any, question: str, *files: list[dict[str, Any]], profile: ExchangeProfile = PROFILE
) -> list[dict[str, Any]]:
    sql = check_sql(dataset, profile)
    paths = []
    for number, rows in enumerate(files):
        paths.append(str(folder / f"{number}.parquet"))
        pq.write_table(pa.Table.from_pylist(rows), paths[-1])
    with duckdb.connect() as connection:
        connection.execute(sql.load, [paths])
        result = connection.execute(getattr(sql, question))
        names = [one[0] for one in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


@pytest.mark.parametrize("question", COUNTED)
def test_a_clean_partition_answers_with_nothing(tmp_path: Path, question: str) -> None:
    clean = [*_ticks((0, 1, 1), (1, 2, 2)), *_ticks((0, 1, 1), symbol="B", kafka_partition=1)]
    assert _ask(tmp_path, TICKS, question, clean, _ticks((5, 3, 3))) == []


def test_an_offset_twice_is_found_across_files(tmp_path: Path) -> None:
    (found,) = _ask(tmp_path, TICKS, "repeated_offsets", _ticks((0, 1, 1), (1, 2, 2)), _ticks((1, 2, 2), (2, 3, 3)))
    assert (found["kafka_offset"], found["times"], found["total"]) == (1, 2, 1)


def test_an_identity_twice_is_found_by_the_venues_number(tmp_path: Path) -> None:
    rows = [*_ticks((0, 1, 1)), *_ticks((1, 1, 2)), *_ticks((2, 1, 3)), *_ticks((3, 1, 4), session="s2")]
    (found,) = _ask(tmp_path, TICKS, "repeated_identities", rows)
    assert (found["numbering"], found["number"], found["total"]) == ("trade/trade", 1, 2)


def test_where_the_venue_has_no_judged_number_the_publishers_counts(tmp_path: Path) -> None:
    quotes = _ticks((0, 7, 1), (1, 7, 2), (2, 8, 2), stream="quote", kind="quote")
    (found,) = _ask(tmp_path, QUOTES, "repeated_identities", quotes)
    assert (found["numbering"], found["number"], found["total"]) == ("publisher", 2, 1)


def test_a_number_of_a_channel_is_there_once_whoever_brought_it(tmp_path: Path) -> None:
    live = _ticks((0, 7, 1), (1, 9, 2), (2, 7, 3), channel="1")
    others = [*_ticks((3, 9, 1), channel="2", publisher_session="q"), *_ticks((4, 9, 1), channel="1", symbol="B")]
    (found,) = _ask(tmp_path, TICKS, "repeated_identities", live, others, profile=OF_CHANNELS)
    assert (found["numbering"], found["number"], found["total"]) == ("trade/trade of channel 1", 7, 1)
    assert _ask(tmp_path, TICKS, "repeated_identities", live[:2], others, profile=OF_CHANNELS) == []


def test_a_row_without_any_number_repeats_nothing(tmp_path: Path) -> None:
    rows = [one | {"publisher_sequence": None} for one in _ticks((0, 7, 1), (1, 7, 1), stream="quote", kind="quote")]
    rows += _ticks((2, 7, 1), stream="quote", kind="quote")
    assert _ask(tmp_path, QUOTES, "repeated_identities", rows) == []


def test_a_message_behind_a_later_one_is_found_unless_it_was_recovered(tmp_path: Path) -> None:
    (found,) = _ask(tmp_path, TICKS, "backwards", _ticks((0, 1, 1), (1, 3, 3), (2, 2, 2)))
    assert (found["kafka_offset"], found["total"]) == (2, 1)
    recovered = [*_ticks((0, 1, 1), (1, 3, 3)), *_ticks((2, 2, 2), origin="recovered")]
    assert _ask(tmp_path, TICKS, "backwards", recovered) == []


def test_a_symbol_on_two_partitions_is_found(tmp_path: Path) -> None:
    (found,) = _ask(tmp_path, TICKS, "split_symbols", [*_ticks((0, 1, 1)), *_ticks((0, 2, 2), kafka_partition=3)])
    assert (found["symbol"], found["partitions"], found["total"]) == ("A", [0, 3], 1)


def test_quarantine_is_counted_by_reason_and_unique_by_topic_and_offset(tmp_path: Path) -> None:
    base = {"topic": "t", "topic_epoch": 0, "kafka_partition": 0}
    rows = [base | {"reason": "duplicate", "kafka_offset": at} for at in (1, 2, 2)]
    rows += [base | {"topic": "u", "reason": "empty", "kafka_offset": 1}]
    counts = {one["reason"]: one["messages"] for one in _ask(tmp_path, QUARANTINE, "reasons", rows)}
    assert counts == {"duplicate": 3, "empty": 1}
    assert _ask(tmp_path, QUARANTINE, "repeated_offsets", rows)[0]["total"] == 1


def _late(seconds: float) -> dict[str, Any]:
    return {"receive_timestamp": START + timedelta(seconds=seconds)}


@pytest.mark.parametrize(
    ("seconds", "is_found"), [(-5.1, True), (-4.9, False), (0.0, False), (59.9, False), (60.1, True)]
)
def test_a_row_received_too_long_before_or_after_it_happened(tmp_path: Path, seconds: float, is_found: bool) -> None:
    found = _ask(tmp_path, TICKS, "skewed", _ticks((0, 1, 1)), _ticks((7, 2, 2), **_late(seconds)))
    assert [(one["kafka_offset"], one["received_late_seconds"], one["total"]) for one in found] == (
        [(7, pytest.approx(seconds), 1)] if is_found else []
    )
    assert all(one["exchange_timestamp"] == "2026-05-01 12:00:00" for one in found)


@pytest.mark.parametrize(
    "changes",
    [{"exchange_timestamp_source": "receiver"}, {"origin": "recovered"}, {"receive_timestamp": None}],
    ids=lambda one: next(iter(one)),
)
def test_a_row_that_nobody_timed_at_once_is_not_held_to_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = _ticks((0, 1, 1), exchange_timestamp_source=None) + _ticks((1, 2, 2), **(_late(9_999) | changes))
    assert _ask(tmp_path, TICKS, "skewed", rows) == []


def test_a_row_that_happened_before_one_with_a_lower_number(tmp_path: Path) -> None:
    early = {"exchange_timestamp": START - timedelta(seconds=2)}
    rows = [*_ticks((0, 1, 1), (1, 3, 3)), *_ticks((2, 2, 2), **early), *_ticks((3, 9, 4), session="s2", **early)]
    (found,) = _ask(tmp_path, TICKS, "against_sequence", rows)
    assert (found["sequence"], found["after_sequence"], found["too_early_seconds"], found["total"]) == (2, 1, 2.0, 1)
    # Numbers that only rise say nothing of time
    assert (
        _ask(tmp_path, QUOTES, "against_sequence", [one | {"stream": "quote", "kind": "quote"} for one in rows]) == []
    )
