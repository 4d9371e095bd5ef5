"""Which writers' schemas can carry a dataset."""

import itertools
import json

import pytest

from k2_dagster.ingest.avro_layout import parse
from k2_dagster.ingest.project import SchemaMismatch, plan
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.instruments import INSTRUMENTS


@pytest.mark.parametrize(("dataset", "other"), list(itertools.product(WIRE_DATASETS, WIRE_DATASETS)))
def test_a_schema_carries_its_own_dataset_and_no_other(dataset: str, other: str) -> None:
    layout = parse(avro_schema_text(WIRE_DATASETS[other]))
    if dataset == other:
        assert all(source is not None for _, source, _ in plan(WIRE_DATASETS[dataset], layout).columns)
    else:
        with pytest.raises(SchemaMismatch, match="writer's schema has no"):
            plan(WIRE_DATASETS[dataset], layout)


def test_a_schema_of_common_fields_alone_is_refused_with_what_it_lacks() -> None:
    """All that it requires is there; without one field of the dataset's own it would land as a row of nulls."""
    schema = json.loads(avro_schema_text(INSTRUMENTS))
    common = {one.name for one in INSTRUMENTS.wire_fields} - {one.name for one in INSTRUMENTS.own_fields}
    schema["fields"] = [one for one in schema["fields"] if one["name"] in common]

    with pytest.raises(SchemaMismatch, match=r"none of the fields of instruments: .*canonical"):
        plan(INSTRUMENTS, parse(json.dumps(schema)))
