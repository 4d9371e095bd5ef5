"""The Dagster fixtures."""

from tests.dagster_fixtures import instance, market

__all__ = ["instance", "market"]
