"""Fixtures of the Dagster rooms' tests; import them where they are used."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from k2_dagster.settings import Settings
from tests.dagster_support import Market, dagster_yaml, make_market


@pytest.fixture
def market(settings: Settings, tmp_path: Path) -> Iterator[Market]:
    """One fresh exchange on the real stack."""
    made = make_market(settings, tmp_path)
    yield made
    made.platform.close()


@pytest.fixture
def instance(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance as the package's dagster.yaml makes it, on a PostgreSQL database of its own."""
    assert settings.dagster_uri is not None
    monkeypatch.setenv("K2_DAGSTER_URI", settings.dagster_uri.get_secret_value())
    made = dg.DagsterInstance.from_config(dagster_yaml(tmp_path / "dagster", settings))
    yield made
    made.dispose()
