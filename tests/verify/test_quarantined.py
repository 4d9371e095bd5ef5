"""Quarantine is held to what was sent, and rows that no stream's verification would look at are told all the same."""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from pyiceberg.expressions import And, EqualTo, IsNull

from k2_dagster.kafka.clients import producer_config
from k2_dagster.lake.catalog import load_table
from k2_dagster.schemas.common import ORIGIN_HEADER, REFUSED_AT_HEADER, REFUSED_FIRST_HEADER
from k2_dagster.schemas.topics import message_key, topic_name
from k2_dagster.verify import proof
from k2_dagster.verify.consume import Original
from k2_dagster.verify.messages import differing_parts
from k2_dagster.verify.proof import verify
from tests.verify.conftest import Landed, MakeLanded
from tests.verify.test_proof import DAMAGED, DUPLICATES, _append, _at, _changed, _delete, _rows, faults

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


def held(landed: Landed, reason: str = "undecodable") -> pa.Table:
    """One quarantine row of the ticks."""
    rows = _rows(landed, "quarantine", EqualTo(term="dataset", value="ticks"))
    at = rows["reason"].to_pylist().index(reason)
    return rows.slice(at, 1)


def replace(landed: Landed, row: pa.Table, **values: Any) -> None:
    (old,) = row.to_pylist()
    of_topic = And(EqualTo(term="topic", value=old["topic"]), _at(old))
    load_table(landed.catalog, "market_data.quarantine").delete(of_topic)
    _append(landed, "quarantine", _changed(row, **values))


def plant_other_value(landed: Landed) -> None:
    row = held(landed)
    replace(landed, row, value=row["value"][0].as_py() + b"x")


def plant_no_value(landed: Landed) -> None:
    replace(landed, held(landed), value=None)


def plant_other_key(landed: Landed) -> None:
    replace(landed, held(landed), key=b"another")


def plant_other_headers(landed: Landed) -> None:
    replace(landed, held(landed), headers=[{"name": "never", "value": b"sent"}])


def plant_other_value_of_a_duplicate(landed: Landed) -> None:
    """It kept its bytes, as one whose first came in another batch does."""
    rows = _rows(landed, "quarantine", EqualTo(term="dataset", value="ticks")).to_pylist()
    at = next(n for n, row in enumerate(rows) if row["reason"] == "duplicate" and row["value"] is not None)
    row = _rows(landed, "quarantine", EqualTo(term="dataset", value="ticks")).slice(at, 1)
    replace(landed, row, key=b"another")


def plant_foreign_topic(landed: Landed) -> None:
    _append(landed, "quarantine", _changed(held(landed), topic="market.ticks.elsewhere"))


def plant_unknown_exchange(landed: Landed) -> None:
    _append(landed, "ticks", _changed(_rows(landed, "ticks").slice(3, 2), exchange="nowhere"))


def plant_unknown_stream(landed: Landed) -> None:
    """The exchange is known, and has no books."""
    _append(landed, "quarantine", _changed(held(landed), dataset="book"))


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (plant_other_value, {"wrong_value": 1}),
        (plant_no_value, {"wrong_value": 1}),
        (plant_other_key, {"wrong_value": 1}),
        (plant_other_headers, {"wrong_value": 1}),
        (plant_other_value_of_a_duplicate, {"wrong_value": 1}),
        (plant_foreign_topic, {"extra": 1}),
        (plant_unknown_exchange, {"extra": 2}),
        (plant_unknown_stream, {"extra": 1}),
    ],
    ids=lambda one: one.__name__ if callable(one) else "",
)
def test_each_planted_fault_is_caught_as_itself_alone(
    landed: Landed, plant: Callable[[Landed], None], expected: Mapping[str, int]
) -> None:
    assert faults(verify(landed.settings)) == {}
    plant(landed)
    assert faults(verify(landed.settings)) == expected


def test_every_quarantined_message_is_compared_or_a_sample_of_them(
    landed: Landed, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ticks,) = verify(landed.settings, ["ticks"], [landed.exchange], all_values=True).streams
    assert ticks.total("originals_compared") == DUPLICATES + DAMAGED
    monkeypatch.setattr(proof, "SAMPLE_MESSAGES", 4)
    (some,) = verify(landed.settings, ["ticks"], [landed.exchange]).streams
    assert 0 <= some.total("originals_compared") < DUPLICATES + DAMAGED


def test_a_choice_of_exchanges_leaves_out_what_belongs_to_none(landed: Landed) -> None:
    plant_unknown_exchange(landed)
    assert faults(verify(landed.settings, exchanges=[landed.exchange])) == {}
    assert faults(verify(landed.settings, ["quotes"])) == {}


SENT = Original(b"k", b"v", (("a", b"1"), ("a", None), ("b", b"")))
ROW: Mapping[str, Any] = {
    "reason": "rule_violated",
    "key": b"k",
    "value": b"v",
    "headers": [{"name": "a", "value": b"1"}, {"name": "a", "value": None}, {"name": "b", "value": b""}],
}


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, []),
        ({"key": None}, ["key"]),
        ({"value": b""}, ["value"]),
        ({"value": None}, ["value"]),
        ({"value": None, "reason": "duplicate"}, []),
        ({"value": b"x", "reason": "duplicate"}, ["value"]),
        ({"headers": None}, ["headers"]),
        ({"headers": list(reversed(ROW["headers"]))}, ["headers"]),
        ({"headers": ROW["headers"][:2]}, ["headers"]),
    ],
)
def test_key_value_and_headers_are_compared_exactly(change: dict[str, Any], differs: list[str]) -> None:
    assert differing_parts({**ROW, **change}, SENT) == differs


def test_a_message_without_key_and_headers_is_as_it_was_sent() -> None:
    row: Mapping[str, Any] = {"reason": "empty", "key": None, "value": None, "headers": []}
    assert differing_parts(row, Original(None, None, ())) == []


def test_what_was_reprocessed_without_a_number_is_proven_by_where_it_was_refused(make_landed: MakeLanded) -> None:
    landed = make_landed()
    record = {**landed.feed.record("quotes", "AAA", 1), "sequence": None, "publisher_session": None}
    value = landed.feed.encode("quotes", {**record, "publisher_sequence": None})
    topic = topic_name("quotes", landed.exchange)
    producer = Producer(producer_config(landed.settings))
    for place in (b"0/0/1", b"0/0/2", b"0/0/1", b"0/0/1"):
        headers: list[tuple[str, str | bytes | None]] = [(ORIGIN_HEADER, b"reprocessed")]
        headers += [(REFUSED_AT_HEADER, place), (REFUSED_FIRST_HEADER, place)]
        producer.produce(topic, value, message_key(landed.exchange, "AAA"), partition=0, headers=headers)
    assert producer.flush(30.0) == 0
    before = len(_rows(landed, "quotes"))
    landed.drain()
    assert len(_rows(landed, "quotes")) == before + 2
    assert faults(verify(landed.settings, all_values=True)) == {}
    reprocessed = _rows(landed, "quotes", IsNull(term="publisher_session")).to_pylist()
    first = min(reprocessed, key=lambda row: int(row["kafka_offset"]))
    _delete(landed, "quotes", first)
    found = faults(verify(landed.settings, all_values=True))
    assert (found["missing"], found["wrong_duplicate"]) == (1, 2)
