"""Every rule is about one row: the batch's answer is that of each row alone, and of a plain reading of the rule."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.ingest.rules import Validated, Validator
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.declaration import Dataset, FieldType, Rule
from tests.ingest.helpers import START_MICROS, profile, record

PROFILE = profile(ticks="dense", quotes="none", book="linked")
RECORD_MS = START_MICROS // 1000
DAY_MICROS = 86_400_000_000


def check(dataset: str, records: list[dict[str, Any]], record_ms: int = RECORD_MS) -> Validated:
    declared = WIRE_DATASETS[dataset]
    schema = wire_schema(declared)
    columns = []
    for field in schema:
        values = [one[field.name] for one in records]
        if pa.types.is_timestamp(field.type):
            columns.append(pa.array(values, pa.int64()).view(field.type))
        else:
            columns.append(pa.array(values, field.type))
    wire = pa.RecordBatch.from_arrays(columns, schema=schema)
    times = np.full(len(records), record_ms, dtype=np.int64)
    return Validator(declared, "testex", PROFILE).check(wire, np.arange(len(records)), times)


def tick(**values: Any) -> dict[str, Any]:
    return record(WIRE_DATASETS["ticks"], **{"sequence": 1, **values})


def update(**values: Any) -> dict[str, Any]:
    return record(WIRE_DATASETS["book"], **{"sequence": 9, "previous_sequence": 4, **values})


CASES = [
    ("ticks", tick(), None, False),
    ("ticks", tick(price=0), "rule_violated", False),
    ("ticks", tick(price=10**18), "rule_violated", False),
    ("ticks", tick(price=None), "missing_field", False),
    ("ticks", tick(size=-1), "rule_violated", False),
    ("ticks", tick(side="BUY"), "rule_violated", False),
    ("ticks", tick(exchange_timestamp_nanos=1_000), "rule_violated", False),
    ("ticks", tick(exchange_timestamp=None), "missing_field", False),
    ("ticks", tick(exchange_timestamp=START_MICROS + 2 * DAY_MICROS), "outside_partitions", False),
    ("ticks", tick(exchange_timestamp=START_MICROS + DAY_MICROS), None, False),
    ("ticks", tick(exchange_timestamp=1_262_304_000_000_000 - 1), "outside_partitions", False),
    ("ticks", tick(receive_timestamp=-(2**63)), "rule_violated", False),
    ("ticks", tick(exchange="other"), "wrong_exchange", True),
    ("ticks", tick(stream="other"), "stream_unknown", True),
    ("ticks", tick(stream="book_stream"), "stream_unknown", True),
    ("ticks", tick(kind="quote"), "rule_violated", True),
    ("ticks", tick(symbol=None), "missing_field", True),
    ("ticks", tick(symbol="A B"), "rule_violated", True),
    ("ticks", tick(symbol="A\n"), "rule_violated", True),
    ("ticks", tick(symbol="A" * 65), "rule_violated", True),
    ("ticks", tick(sequence=None), "missing_field", True),
    ("ticks", tick(sequence=2**62 + 1), "rule_violated", True),
    ("ticks", tick(publisher_sequence=0), "rule_violated", True),
    ("ticks", tick(conditions=["@", None]), "missing_field", False),
    ("ticks", tick(kind="correction", sequence=None), None, False),
    ("book", update(), None, False),
    ("book", update(previous_sequence=None), "missing_field", True),
    ("book", update(previous_sequence=9), "rule_violated", True),
    ("book", update(action="other"), "rule_violated", False),
    ("book", update(bids=[{"price": 10**18, "size": 1, "orders": None}]), "rule_violated", False),
    ("book", update(asks=[{"price": -1, "size": 1, "orders": None}]), "rule_violated", False),
    ("book", update(bids=[{"price": 10**18 - 1, "size": 0, "orders": None}]), None, False),
    ("book", update(bids=[None]), "missing_field", False),
    ("book", update(bids=[{"price": 5, "size": None, "orders": 1}]), "missing_field", False),
]


@pytest.mark.parametrize(("dataset", "row", "reason", "identity"), CASES)
def test_each_row_has_its_reason_whatever_stands_beside_it(
    dataset: str, row: dict[str, Any], reason: str | None, identity: bool
) -> None:
    good = tick() if dataset == "ticks" else update()
    for rows, at in (([row], 0), ([good, row, good], 1), ([row, row], 1)):
        found = check(dataset, rows)
        refused = found.refused.get(at)
        assert (refused.reason if refused else None) == reason
        assert (at in found.unnumbered) == identity
        if len(rows) == 3:
            assert found.refused.keys() <= {1}


def test_details_are_for_people() -> None:
    long = check("ticks", [tick(symbol="A" * 100_000, stream="B" * 100_000, exchange="C" * 100_000)])
    assert len(long.refused[0].detail) <= 300
    (one,) = check("ticks", [tick(price=-5)]).refused.values()
    assert one.detail == "price was -5, rule price_positive; valid: 1 to 999999999999999999"


def holds(rule: Rule, value: Any) -> bool:
    if value is None:
        return True
    if rule.allowed is not None:
        return value in rule.allowed
    if rule.pattern is not None:
        return re.fullmatch(rule.pattern.removeprefix("^").removesuffix("$"), value) is not None
    assert rule.minimum is not None
    assert rule.maximum is not None
    return bool(rule.minimum <= value <= rule.maximum)


@st.composite
def rows_of(draw: st.DrawFn, dataset: Dataset) -> dict[str, Any]:
    row = record(dataset)
    for field, rule in dataset.rules:
        if field.source != "wire" or draw(st.integers(0, 3)):
            continue
        if field.type is FieldType.STRING:
            texts = st.sampled_from([*(rule.allowed or ()), "", "a", "é", "a\n", "a\0", "~" * 64, "~" * 65, None])
            row[field.name] = draw(texts)
        else:
            most = 2**31 - 1 if field.type is FieldType.INT else 2**63 - 1
            edges = [one for bound in (rule.minimum or 0, rule.maximum or 0) for one in (bound - 1, bound, bound + 1)]
            row[field.name] = draw(st.sampled_from([max(-most - 1, min(most, one)) for one in edges] + [None]))
    return row


@pytest.mark.parametrize("name", WIRE_DATASETS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_pandera_agrees_with_a_plain_reading_of_the_rules(name: str, data: st.DataObject) -> None:
    dataset = WIRE_DATASETS[name]
    rows = data.draw(st.lists(rows_of(dataset), min_size=1, max_size=6))
    found = check(name, rows)
    broken: dict[str, int] = {}
    for at, row in enumerate(rows):
        wrong = [
            rule.name for field, rule in dataset.rules if field.source == "wire" and not holds(rule, row[field.name])
        ]
        for one in wrong:
            broken[one] = broken.get(one, 0) + 1
        assert not wrong or at in found.refused
    assert found.broken_rules == broken
