"""Dagster's view of K2: what a person sees in the UI, asked of the definitions themselves."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from k2_dagster.assets.check_findings import CHECKS
from k2_dagster.assets.columns import COLUMN_SCHEMA
from k2_dagster.assets.evaluations import runbook_url
from k2_dagster.definitions import build_definitions
from k2_dagster.devstack.dagster import INSTANCE_FILE
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas.datasets import TABLES, WIRE_DATASETS
from k2_dagster.schemas.declaration import Dataset
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings, load_settings

REPOSITORY = Path(__file__).parent.parent
TOPIC_KEYS = {dg.AssetKey(["kafka", name]) for name in WIRE_DATASETS}
TABLE_KEYS = {dg.AssetKey(name) for name in TABLES}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(Platform(load_settings({}), load_profiles()))


@pytest.fixture(scope="module")
def specs(definitions: dg.Definitions) -> dict[dg.AssetKey, dg.AssetSpec]:
    return {one.key: one for one in definitions.resolve_all_asset_specs()}


def test_definitions_load(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)
    assert {one.name for one in definitions.sensors or ()} == {"lag", "commits"}


def test_every_topic_and_table_is_an_asset(specs: dict[dg.AssetKey, dg.AssetSpec]) -> None:
    assert set(specs) == TOPIC_KEYS | TABLE_KEYS


@pytest.mark.parametrize("key", sorted(TOPIC_KEYS | TABLE_KEYS), ids=lambda key: key.to_user_string())
def test_every_asset_says_what_it_is(specs: dict[dg.AssetKey, dg.AssetSpec], key: dg.AssetKey) -> None:
    spec = specs[key]
    assert spec.group_name
    assert spec.owners
    assert spec.kinds
    assert spec.description
    schema = spec.metadata[COLUMN_SCHEMA]
    assert isinstance(schema, dg.TableSchema)
    dataset = TABLES[key.path[-1]]
    for column in schema.columns:
        unit = dataset[column.name].unit
        assert column.description
        assert column.tags["unit"] == (unit or "none")
        assert f"[{unit}]" in column.description or not unit


def test_a_backfill_starts_a_run_per_partition(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    assert {graph.get(key).backfill_policy for key in TABLE_KEYS} == {dg.BackfillPolicy.multi_run(1)}


@pytest.mark.parametrize("dataset", TABLES.values(), ids=lambda dataset: dataset.name)
def test_lineage_leads_from_the_topics_to_the_table(specs: dict[dg.AssetKey, dg.AssetSpec], dataset: Dataset) -> None:
    upstream = {one.asset_key for one in specs[dg.AssetKey(dataset.name)].deps}
    assert upstream == ({dg.AssetKey(["kafka", dataset.name])} if dataset.name in WIRE_DATASETS else TOPIC_KEYS)


def test_today_is_a_partition_and_tomorrow_is_not(specs: dict[dg.AssetKey, dg.AssetSpec]) -> None:
    partitions = specs[dg.AssetKey("ticks")].partitions_def
    assert isinstance(partitions, dg.MultiPartitionsDefinition)
    days = partitions.get_partitions_def_for_dimension("day").get_partition_keys()
    assert (days[0], days[-1]) == ("2010-01-01", datetime.now(UTC).date().isoformat())


def test_every_table_has_its_checks_and_every_check_its_runbook(definitions: dg.Definitions) -> None:
    keys = definitions.resolve_asset_graph().asset_check_keys
    by_table = {name: {key.name for key in keys if key.asset_key == dg.AssetKey(name)} for name in TABLES}
    assert by_table["ticks"] == set(CHECKS) - {"reasons"}
    assert by_table["quarantine"] == {"accounting", "unique_identity", "schema", "reasons"}
    pages = {page.stem for page in (REPOSITORY / "docs" / "runbooks").glob("*.md")}
    assert set(CHECKS) <= pages
    for name in CHECKS:
        text = (REPOSITORY / "docs" / "runbooks" / f"{name}.md").read_text()
        assert "**What to do**" in text
        assert f"runbooks/{name}.md" in (REPOSITORY / "docs" / "dagster.md").read_text()


def test_runbooks_are_linked_where_the_project_is() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    base = project["urls"]["Changelog"].removesuffix("/CHANGELOG.md")
    assert Settings().documentation_url == f"{base}/docs"
    for name in CHECKS:
        assert runbook_url(name, "https://wiki.example/k2/") == f"https://wiki.example/k2/runbooks/{name}.md"
        page = runbook_url(name, Settings().documentation_url).removeprefix(f"{base}/")
        assert (REPOSITORY / page).is_file()


def test_lanes_of_the_jobs_are_limited_in_the_instance(definitions: dg.Definitions) -> None:
    text = INSTANCE_FILE.read_text()
    lanes = {job.tags["k2/lane"] for job in definitions.jobs or () if isinstance(job, dg.JobDefinition)}
    assert lanes == {"ingest", "checks", "upkeep"}
    assert all(f"value: {lane}" in text for lane in lanes)
