"""Identities as D4 says, rows by range, and samples that rows and messages agree on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from k2_dagster.schemas.arrow import wire_type
from k2_dagster.schemas.ticks import TICKS
from k2_dagster.settings import Settings
from k2_dagster.verify.identity import SOURCES
from k2_dagster.verify.stage import REFUSED
from k2_dagster.verify.staging import Staging, open_staging, sampled_mask


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    with open_staging(Settings(home=tmp_path), TICKS, {"prints": False, "diffs": True}, ["shared"]) as opened:
        yield opened


def message(offset: int, **values: Any) -> dict[str, Any]:
    plain = {"stream": "prints", "kind": "trade", "symbol": "A", "sequence": offset}
    return dict.fromkeys(SOURCES) | plain | {"kafka_offset": offset, **values}


def rows(messages: list[dict[str, Any]], **position: int) -> pa.Table:
    columns: dict[str, Any] = {name: pa.array([value] * len(messages), pa.int32()) for name, value in position.items()}
    columns["kafka_offset"] = pa.array([one["kafka_offset"] for one in messages], pa.int64())
    columns |= {name: pa.array([one[name] for one in messages], wire_type(TICKS[name].type)) for name in SOURCES}
    return pa.table(columns)


def add(staging: Staging, *messages: dict[str, Any]) -> None:
    digests = np.arange(len(messages), dtype=np.uint64)
    staging.add_data(rows(list(messages), topic_epoch=0, kafka_partition=0), digests)


@pytest.mark.parametrize(
    "other",
    [
        {"symbol": "B"},
        {"session": "s"},
        {"stream": "others"},
        {"kind": "bust"},
        {"sequence": 2},
    ],
    ids=lambda one: next(iter(one)),
)
def test_identities_of_the_venue_differ_in_any_part(staging: Staging, other: dict[str, Any]) -> None:
    add(staging, message(1), message(2, **{"sequence": 1, **other}))
    assert staging.repeated_identities()[0] == 0


def test_a_repeated_identity_counts_each_row_too_many(staging: Staging) -> None:
    add(staging, message(1), message(2, sequence=1), message(3, sequence=1), message(4))
    count, some = staging.repeated_identities()
    assert (count, some) == (2, ["A 1 at offsets [1, 2, 3]"])


def test_the_same_offset_twice_is_not_a_repeated_identity(staging: Staging) -> None:
    add(staging, message(1), message(1))
    assert staging.repeated_identities()[0] == 0


def test_other_streams_and_kinds_are_identified_by_the_publisher(staging: Staging) -> None:
    pair = {"publisher_session": "p", "publisher_sequence": 9}
    add(staging, message(1, stream="others", **pair), message(2, kind="bust", **pair), message(3, stream="others"))
    assert staging.repeated_identities()[0] == 1


def test_a_claim_needs_a_row_with_its_identity(staging: Staging) -> None:
    add(staging, message(1), message(2, stream="others"))
    claims = [message(5, sequence=1), message(6, sequence=99), message(7, stream="others", sequence=2)]
    staging.add_claims(rows(claims, kafka_partition=0))
    staging.add_claims_by_offset(0, 0, [8, 9], [1, 77])
    assert staging.unproven_claims() == {0: [6, 7, 9]}
    staging.add_elsewhere(rows([message(0, sequence=99)]).select(SOURCES))
    assert staging.unproven_claims() == {0: [7, 9]}


def test_a_range_has_each_of_its_numbers(staging: Staging) -> None:
    add(
        staging,
        message(1, stream="diffs", sequence=20, previous_sequence=9),
        message(2, sequence=20, previous_sequence=9),
    )
    spans = {5: 9, 6: 10, 7: 15, 8: 20, 9: 21}
    claims = [message(at, stream="diffs", sequence=last, previous_sequence=last - 1) for at, last in spans.items()]
    claims.append(message(10, sequence=15, previous_sequence=14))
    claims.append(message(11, stream="diffs", sequence=15, previous_sequence=14, symbol="B"))
    staging.add_claims(rows(claims, kafka_partition=0))
    assert staging.unproven_claims() == {0: [5, 9, 10, 11]}
    elsewhere = [message(0, stream="diffs", sequence=25, previous_sequence=20), message(0, stream="diffs", sequence=99)]
    staging.add_elsewhere(rows(elsewhere).select(SOURCES))
    assert staging.unproven_claims() == {0: [5, 10, 11]}


def shared(offset: int, number: int, publisher: str | None, count: int, **values: Any) -> dict[str, Any]:
    told = {"stream": "shared", "channel": "1", "sequence": number, "publisher_session": publisher, **values}
    return message(offset, **told, publisher_sequence=count if publisher else None)


def test_a_number_of_a_channel_is_an_identity_besides_the_publisher_pair(staging: Staging) -> None:
    add(staging, shared(1, 10, "p", 1), shared(2, 17, "p", 2), shared(3, 12, "recovered", 1))
    add(staging, shared(4, 12, "p", 3), shared(5, 12, "p", 4, channel="2"), shared(6, 12, "p", 5, symbol="B"))
    assert staging.repeated_identities() == (1, ["A 12 at offsets [3, 4]"])


def test_a_duplicate_repeats_the_pair_or_the_number_of_a_channel(staging: Staging) -> None:
    add(staging, shared(1, 10, "p", 1), shared(2, 17, "p", 2))
    claims = [
        shared(5, 17, "recovered", 1), shared(6, 99, "p", 2), shared(7, 99, "p", 3), shared(8, 17, None, 0),
        shared(9, 99, None, 0), shared(10, 17, "recovered", 2, channel="2"), shared(11, 17, "p", 9, kind="bust"),
    ]  # fmt: skip
    staging.add_claims(rows(claims, kafka_partition=0))
    assert staging.unproven_claims() == {0: [7, 9, 10, 11]}
    staging.add_elsewhere(rows([shared(0, 99, "q", 1)]).select(SOURCES))
    assert staging.unproven_claims() == {0: [10, 11]}


def test_a_refused_message_is_a_duplicate_only_of_a_refused_one(staging: Staging) -> None:
    def refused(offset: int, number: int, *, duplicate: bool, symbol: str = "A") -> dict[str, Any]:
        return {
            "kafka_partition": 0, "kafka_offset": offset, "duplicate": duplicate, "publisher_session": "p",
            "symbol": symbol, "publisher_sequence": number,
        }  # fmt: skip

    add(staging, message(9, stream="others", publisher_session="p", publisher_sequence=9))
    told = [
        refused(1, 4, duplicate=False), refused(5, 4, duplicate=True), refused(6, 4, duplicate=True, symbol="B"),
        refused(7, 9, duplicate=True),
    ]  # fmt: skip
    staging.add_refused(pa.Table.from_pylist(told, schema=REFUSED))
    assert staging.unproven_claims() == {0: [6, 7]}


def first_refused(*places: tuple[int, str], partition: int = 0) -> pa.Table:
    return pa.table(
        {
            "topic_epoch": pa.array([0] * len(places), pa.int32()),
            "kafka_partition": pa.array([partition] * len(places), pa.int32()),
            "kafka_offset": pa.array([offset for offset, _ in places], pa.int64()),
            "place": [place for _, place in places],
        }
    )


def unnumbered(offset: int) -> dict[str, Any]:
    return message(offset, stream="others", sequence=None)


def test_reprocessed_messages_without_a_number_are_known_by_where_they_were_refused(staging: Staging) -> None:
    add(staging, *map(unnumbered, (1, 2, 3)), message(4))
    staging.add_first_refused(first_refused((1, "0/0/7"), (2, "0/0/8"), (3, "0/0/7"), (4, "0/0/7")))
    assert staging.repeated_identities()[0] == 0
    assert staging.repeated_returns() == (1, ["refused first at 0/0/7, at offsets [1, 3]"])


def test_a_reprocessed_duplicate_needs_a_row_that_was_refused_at_the_same_place(staging: Staging) -> None:
    add(staging, unnumbered(1), message(2), unnumbered(3))
    staging.add_claims(rows([unnumbered(at) for at in (11, 12, 13, 14)], kafka_partition=0))
    landed = [(1, "0/0/7"), (2, "0/0/8")]
    repeats = [(11, "0/0/7"), (12, "0/0/8"), (13, "0/0/9")]
    staging.add_first_refused(first_refused(*landed, *repeats))
    staging.add_first_refused(first_refused((3, "0/0/9"), partition=1))
    assert staging.unproven_claims() == {0: [12, 13, 14]}
    assert staging.unproven_claims(all_read=False) == {0: [14]}


def test_rows_come_by_range_in_the_order_of_offsets(staging: Staging) -> None:
    add(staging, message(30), message(10), message(20))
    found = staging.rows("data", 0, 0, 10, 30)
    assert (found.offsets.tolist(), found.digests.tolist()) == ([10, 20], [1, 2])
    assert staging.outside("data", 0, 0, 10, 30) == (1, [30])
    assert staging.total("data", 0, 0) == (3, 3)
    assert staging.places("data") == [(0, 0)]


def test_digests_are_summed_modulo_two_to_the_64(staging: Staging) -> None:
    table = rows([message(1), message(2)], topic_epoch=0, kafka_partition=0)
    staging.add_data(table, np.array([2**64 - 1, 3], dtype=np.uint64))
    assert staging.total("data", 0, 0) == (2, 2)


def test_a_sample_has_its_share_and_stays_the_same() -> None:
    offsets = np.arange(100_000, dtype=np.int64)
    chosen = sampled_mask(offsets, 0.1, 7)
    assert 9_000 < chosen.sum() < 11_000
    assert np.array_equal(chosen[500:600], sampled_mask(offsets[500:600], 0.1, 7))
    assert not np.array_equal(chosen, sampled_mask(offsets, 0.1, 8))
    assert sampled_mask(offsets, 1.0, 7).all()
    assert not sampled_mask(offsets, 0.0, 7).any()
