"""Which writer's schemas can carry a dataset."""

import pytest

from k2_dagster.ingest.avro_layout import parse
from k2_dagster.ingest.project import SchemaMismatch, plan
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS


@pytest.mark.parametrize("dataset", WIRE_DATASETS)
def test_a_dataset_is_carried_by_its_own_schema(dataset: str) -> None:
    projection = plan(WIRE_DATASETS[dataset], parse(avro_schema_text(WIRE_DATASETS[dataset])))

    assert all(source == field.name for field, source, _ in projection.columns)


@pytest.mark.parametrize("dataset", ["quotes", "control"])
@pytest.mark.parametrize("other", ["ticks", "book"])
def test_a_schema_of_another_dataset_is_refused_though_nothing_of_ours_is_required(dataset: str, other: str) -> None:
    """Every field that quotes add may be null, so a book's schema used to pass, and landed rows without a price."""
    with pytest.raises(SchemaMismatch):
        plan(WIRE_DATASETS[dataset], parse(avro_schema_text(WIRE_DATASETS[other])))
