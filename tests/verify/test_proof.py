"""The proof is clean when topics and tables agree, and names each fault when one is planted."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from pyiceberg.expressions import And, BooleanExpression, EqualTo

from k2_dagster.cli.init import initialize
from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import ConfigurationError
from k2_dagster.ingest.losses import accept_losses
from k2_dagster.kafka.clients import client_config
from k2_dagster.kafka.topics import describe
from k2_dagster.lake.catalog import load_table
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.schemas.topics import topic_name
from k2_dagster.verify.proof import verify
from k2_dagster.verify.report import FAULTS, Report
from tests.verify.conftest import MESSAGES_PER_ROUND, ROUNDS, Landed, MakeLanded

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]

GOOD = ROUNDS * MESSAGES_PER_ROUND
# Two of the same round in each, three of older rounds in each but the first
DUPLICATES = ROUNDS * 2 + (ROUNDS - 1) * 3
DAMAGED = ROUNDS * 2


def faults(report: Report) -> dict[str, int]:
    return {fault: report.count(fault) for fault in FAULTS if report.count(fault)}


def test_clean_streams_are_clean(landed: Landed) -> None:
    report = verify(landed.settings, all_values=True)
    assert list(report.findings()) == []
    ticks = next(one for one in report.streams if one.dataset == "ticks")
    assert ticks.proofs == ("offsets",)
    assert ticks.total("rows") == GOOD
    assert ticks.total("duplicates") == DUPLICATES
    assert ticks.total("quarantined") == DUPLICATES + DAMAGED
    assert ticks.total("messages") == ticks.total("consumed") == GOOD + DUPLICATES + DAMAGED
    assert ticks.total("values_compared") == GOOD
    json.dumps(report.as_dict())


def test_names_choose_streams_and_unknown_ones_are_refused(landed: Landed) -> None:
    report = verify(landed.settings, ["quotes"], [landed.exchange])
    assert [(one.exchange, one.dataset) for one in report.streams] == [(landed.exchange, "quotes")]
    with pytest.raises(ConfigurationError, match="exchange was 'nowhere'"):
        verify(landed.settings, exchanges=["nowhere"])
    with pytest.raises(ConfigurationError, match="dataset was 'quarantine'"):
        verify(landed.settings, ["quarantine"])


def _rows(landed: Landed, table: str, where: BooleanExpression | None = None) -> pa.Table:
    found = load_table(landed.catalog, f"market_data.{table}")
    rows = found.scan(row_filter=where).to_arrow() if where is not None else found.scan().to_arrow()
    return rows.sort_by([("kafka_partition", "ascending"), ("kafka_offset", "ascending")])


def _append(landed: Landed, table: str, rows: pa.Table) -> None:
    found = load_table(landed.catalog, f"market_data.{table}")
    found.append(rows.cast(found.schema().as_arrow()))


def _at(row: dict[str, Any]) -> BooleanExpression:
    return And(
        EqualTo(term="kafka_partition", value=row["kafka_partition"]),
        EqualTo(term="kafka_offset", value=row["kafka_offset"]),
    )


def _delete(landed: Landed, table: str, row: dict[str, Any]) -> None:
    load_table(landed.catalog, f"market_data.{table}").delete(_at(row))


def _changed(rows: pa.Table, **values: Any) -> pa.Table:
    for name, value in values.items():
        at = rows.schema.get_field_index(name)
        column = pa.array([value] * rows.num_rows, rows.schema.field(name).type)
        rows = rows.set_column(at, rows.schema.field(name), column)
    return rows


def _unrepeated(landed: Landed) -> pa.Table:
    """A row whose message was sent once, so that no duplicate rests on it."""
    rows = _rows(landed, "ticks")
    place = next(at for at, row in enumerate(rows.to_pylist()) if landed.feed.unrepeated("ticks", row))
    return rows.slice(place, 1)


def plant_missing(landed: Landed) -> None:
    _delete(landed, "ticks", _unrepeated(landed).to_pylist()[0])


def plant_extra(landed: Landed) -> None:
    """At an offset that an aborted message has."""
    rows = _rows(landed, "ticks", EqualTo(term="kafka_partition", value=0))
    offsets = set(rows["kafka_offset"].to_pylist())
    hole = min(one for one in range(max(offsets)) if one not in offsets)
    _append(landed, "ticks", _changed(rows.slice(3, 1), kafka_offset=hole, sequence=999_999))


def plant_beyond_fence(landed: Landed) -> None:
    _append(landed, "ticks", _changed(_rows(landed, "ticks").slice(3, 1), kafka_offset=10**9, sequence=999_999))


def plant_unknown_epoch(landed: Landed) -> None:
    _append(landed, "ticks", _changed(_rows(landed, "ticks").slice(3, 1), topic_epoch=5, sequence=999_999))


def plant_doubled_row(landed: Landed) -> None:
    _append(landed, "ticks", _rows(landed, "ticks").slice(5, 1))


def plant_doubled_quarantine_row(landed: Landed) -> None:
    _append(landed, "quarantine", _rows(landed, "quarantine", EqualTo(term="dataset", value="ticks")).slice(5, 1))


def plant_in_both(landed: Landed) -> None:
    row = _rows(landed, "ticks").slice(5, 1).to_pylist()[0]
    held = _rows(landed, "quarantine", EqualTo(term="dataset", value="ticks")).slice(0, 1)
    position = {name: row[name] for name in ("kafka_partition", "kafka_offset")}
    _append(landed, "quarantine", _changed(held, **position, reason="undecodable"))


def plant_repeated_identity(landed: Landed) -> None:
    """Two rows of one symbol: the later one is given the number of the earlier."""
    rows = _rows(landed, "ticks", EqualTo(term="symbol", value="AAA"))
    later = rows.slice(4, 1)
    _delete(landed, "ticks", later.to_pylist()[0])
    _append(landed, "ticks", _changed(later, sequence=rows["sequence"][1].as_py()))


def plant_false_duplicate(landed: Landed) -> None:
    """A good message is in quarantine as the duplicate of nothing."""
    row = _unrepeated(landed).to_pylist()[0]
    held = _rows(landed, "quarantine", EqualTo(term="dataset", value="ticks")).slice(0, 1)
    _delete(landed, "ticks", row)
    position = {name: row[name] for name in ("kafka_partition", "kafka_offset")}
    _append(landed, "quarantine", _changed(held, **position, reason="duplicate", value=None, first_offset=None))


def plant_wrong_price(landed: Landed) -> None:
    row = _rows(landed, "ticks").slice(9, 1)
    _delete(landed, "ticks", row.to_pylist()[0])
    _append(landed, "ticks", _changed(row, price=row["price"][0].as_py() + Decimal("0.00000001")))


def _edit_range(landed: Landed, edit: Callable[[dict[str, Any]], None], *, place: int = 1) -> None:
    """Change the first range of the commit at this place of ticks."""
    query = "SELECT id, ranges FROM k2.commits WHERE table_name = 'market_data.ticks' ORDER BY position"
    found = landed.sql(query + " OFFSET :place LIMIT 1", place=place).one()
    ranges = [dict(one) for one in found.ranges]
    edit(ranges[0])
    landed.sql(
        "UPDATE k2.commits SET ranges = CAST(:ranges AS jsonb) WHERE id = :id", id=found.id, ranges=json.dumps(ranges)
    )


def plant_hole(landed: Landed) -> None:
    _edit_range(landed, lambda one: one.update(start=one["start"] + 4))


def plant_overlap(landed: Landed) -> None:
    _edit_range(landed, lambda one: one.update(start=one["start"] - 4))


def plant_wrong_digest(landed: Landed) -> None:
    _edit_range(landed, lambda one: one.update(digest="00000000deadbeef"))


def plant_wrong_quarantine_digest(landed: Landed) -> None:
    _edit_range(landed, lambda one: one.update(quarantine_digest="00000000deadbeef"))


def plant_wrong_count(landed: Landed) -> None:
    _edit_range(landed, lambda one: one.update(consumed=one["consumed"] + 1))


def plant_fence_beyond_commits(landed: Landed) -> None:
    _edit_range(landed, lambda one: one.update(end=one["end"] - 2), place=2)


def plant_no_baseline(landed: Landed) -> None:
    landed.sql("DELETE FROM k2.baselines WHERE table_name = 'market_data.ticks'")


def plant_foreign_property(landed: Landed) -> None:
    with load_table(landed.catalog, "market_data.ticks").transaction() as transaction:
        transaction.set_properties({"k2.fence": json.dumps({"commit_id": "other", "vector": {}, "heads": {}})})


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (plant_missing, {"missing": 1, "count": 1, "digest": 1}),
        (plant_extra, {"extra": 1, "count": 1, "digest": 1}),
        (plant_beyond_fence, {"extra": 1}),
        (plant_unknown_epoch, {"extra": 1}),
        (plant_doubled_row, {"duplicated": 1, "count": 1, "digest": 1}),
        (plant_doubled_quarantine_row, {"duplicated": 1, "count": 2, "digest": 2}),
        (plant_in_both, {"duplicated": 1, "count": 2, "digest": 2, "wrong_value": 2}),
        (plant_repeated_identity, {"duplicated": 1, "digest": 1, "wrong_value": 1}),
        (plant_false_duplicate, {"wrong_duplicate": 1, "count": 3, "digest": 3}),
        (plant_wrong_price, {"wrong_value": 1}),
        (plant_hole, {"hole": 4}),
        (plant_overlap, {"overlap": 4}),
        (plant_wrong_digest, {"digest": 1}),
        (plant_wrong_quarantine_digest, {"digest": 1}),
        (plant_wrong_count, {"count": 2}),
        (plant_fence_beyond_commits, {"fence": 1}),
        (plant_no_baseline, {"fence": 2}),
        (plant_foreign_property, {"fence": 1}),
    ],
    ids=lambda one: one.__name__ if callable(one) else "",
)
def test_each_planted_fault_is_caught(
    landed: Landed, plant: Callable[[Landed], None], expected: dict[str, int]
) -> None:
    plant(landed)
    found = faults(verify(landed.settings, ["ticks"], all_values=True))
    assert {name: found.get(name) for name in expected} == expected, found
    moved = {"hole", "overlap", "fence"} & set(expected)
    # Moving a commit's bounds also changes what it covers; every other fault is found as itself alone
    assert set(found) <= (set(expected) | ({"count", "digest"} if moved else set()))


def test_a_landed_commit_that_is_not_settled_is_known_by_its_attempt(landed: Landed) -> None:
    newest = "SELECT max(position) FROM k2.commits WHERE table_name = 'market_data.ticks'"
    landed.sql(f"DELETE FROM k2.commits WHERE position = ({newest})")
    assert faults(verify(landed.settings, ["ticks"])) == {}


def test_a_snapshot_without_an_attempt_is_reported(landed: Landed) -> None:
    newest = "SELECT id FROM k2.commits WHERE table_name = 'market_data.ticks' ORDER BY position DESC LIMIT 1"
    commit_id = landed.sql(newest).scalar_one()
    landed.sql("DELETE FROM k2.commits WHERE id = :id", id=commit_id)
    landed.sql("UPDATE k2.attempts SET id = id || '-hidden' WHERE id = :id", id=commit_id)
    try:
        found = faults(verify(landed.settings, ["ticks"]))
    finally:
        landed.sql("UPDATE k2.attempts SET id = :id WHERE id = :id || '-hidden'", id=commit_id)
    assert found["unrecorded"] == 1
    assert found["fence"] >= 1


def test_messages_beyond_the_fence_are_not_judged(landed: Landed) -> None:
    landed.feed.send("quotes", landed.feed.messages("quotes", 10))
    assert faults(verify(landed.settings, ["quotes"])) == {}


def test_a_window_of_time_judges_the_commits_that_it_touches(landed: Landed) -> None:
    stamps = sorted(_rows(landed, "ticks")["kafka_timestamp"].to_pylist())
    middle = stamps[len(stamps) // 2]
    whole = verify(landed.settings, ["ticks"])
    part = verify(landed.settings, ["ticks"], since=middle, until=middle + timedelta(milliseconds=1))
    assert faults(part) == {}
    assert 0 < part.total("rows") < whole.total("rows")
    assert part.total("consumed") == part.total("rows") + part.total("quarantined") == part.total("messages")
    after = verify(landed.settings, ["ticks"], since=datetime.now(UTC))
    assert faults(after) == {}
    assert after.total("rows") == after.total("consumed") == 0


def test_a_window_of_time_finds_the_fault_in_it(landed: Landed) -> None:
    row = _rows(landed, "ticks").slice(7, 1).to_pylist()[0]
    _delete(landed, "ticks", row)
    inside = verify(landed.settings, ["ticks"], until=row["kafka_timestamp"] + timedelta(milliseconds=1))
    assert inside.count("missing") == 1


def test_past_retention_the_commits_prove_the_rows(make_landed: MakeLanded) -> None:
    landed = make_landed()
    topic = topic_name("ticks", landed.exchange)
    rows = _rows(landed, "ticks", EqualTo(term="kafka_partition", value=0))
    cut = rows["kafka_offset"][rows.num_rows // 2].as_py()
    admin = AdminClient(client_config(landed.settings))
    for deletion in admin.delete_records([TopicPartition(topic, 0, cut)]).values():
        assert deletion.result(30).low_watermark == cut

    report = verify(landed.settings, ["ticks"])
    assert list(report.findings()) == []
    proofs = {
        (one.partition, proved.proof): (proved.first_offset, proved.next_offset)
        for one in report.streams[0].partitions
        for proved in one.proofs
    }
    assert proofs[0, "tiling"] == (0, cut)
    assert proofs[0, "offsets"][0] == cut
    assert (1, "tiling") not in proofs

    old = rows.slice(0, 1)
    _delete(landed, "ticks", old.to_pylist()[0])
    assert faults(verify(landed.settings, ["ticks"])) == {"count": 1, "digest": 1}
    _append(landed, "ticks", old)
    assert faults(verify(landed.settings, ["ticks"])) == {}


def test_a_topic_that_was_made_again_has_two_histories(make_landed: MakeLanded) -> None:
    landed = make_landed()
    topic = topic_name("ticks", landed.exchange)
    admin = AdminClient(client_config(landed.settings))
    admin.delete_topics([topic])[topic].result(30)
    assert wait_until(lambda: topic not in describe(landed.settings, [topic]), 30)
    report = verify(landed.settings, ["ticks"])
    assert list(report.findings()) == []
    assert report.streams[0].proofs == ("tiling",)

    initialize(landed.settings, load_profiles(landed.settings.profiles), (landed.exchange,))
    accept_losses(landed.settings, landed.exchange, "ticks", accepted_by="me", reason="test")
    landed.feed.send("ticks", [*landed.feed.messages("ticks", 10), landed.feed.sent["ticks"][0]])
    landed.drain()
    report = verify(landed.settings, ["ticks"])
    assert list(report.findings()) == []
    assert report.streams[0].proofs == ("offsets", "tiling")
    assert report.total("rows") == GOOD + 10
    assert report.total("duplicates") == DUPLICATES + 1


def test_an_accepted_loss_is_no_hole(landed: Landed) -> None:
    plant_hole(landed)
    query = "SELECT ranges FROM k2.commits WHERE table_name = 'market_data.ticks' ORDER BY position OFFSET 1 LIMIT 1"
    one = landed.sql(query).scalar_one()[0]
    landed.sql(
        "INSERT INTO k2.losses (table_name, topic, topic_id, partition, first_offset, next_offset, cause, accepted_by, "
        "reason) VALUES ('market_data.ticks', :topic, :topic_id, :partition, :first, :next, 'retention_overrun', 'me', "
        "'test')",
        topic=one["topic"],
        topic_id=one["topic_id"],
        partition=one["partition"],
        first=one["start"] - 4,
        next=one["start"],
    )
    try:
        assert "hole" not in faults(verify(landed.settings, ["ticks"]))
    finally:
        landed.sql("DELETE FROM k2.losses")
