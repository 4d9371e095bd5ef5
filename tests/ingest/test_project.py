"""Which writers' schemas can carry a dataset."""

import itertools

import pytest

from k2_dagster.ingest.avro_layout import parse
from k2_dagster.ingest.project import SchemaMismatch, plan
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS


@pytest.mark.parametrize(("dataset", "other"), list(itertools.product(WIRE_DATASETS, WIRE_DATASETS)))
def test_a_schema_carries_its_own_dataset_and_no_other(dataset: str, other: str) -> None:
    layout = parse(avro_schema_text(WIRE_DATASETS[other]))
    if dataset == other:
        assert all(source is not None for _, source, _ in plan(WIRE_DATASETS[dataset], layout).columns)
    else:
        with pytest.raises(SchemaMismatch, match="writer's schema has no"):
            plan(WIRE_DATASETS[dataset], layout)
