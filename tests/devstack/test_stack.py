"""The stack as a whole, on real servers."""

import httpx
import pytest

from k2_dagster.devstack.stack import Stack
from k2_dagster.settings import Settings

pytestmark = pytest.mark.stack


def test_up_again_reuses_what_runs(stack: Stack) -> None:
    before = {part.name: part.pid for part in stack.status()}
    said: list[str] = []

    stack.up(said.append)

    assert {part.name: part.pid for part in stack.status()} == before
    assert said == []


def test_settings_point_at_the_stack(stack: Stack, settings: Settings) -> None:
    assert httpx.get(f"{settings.schema_registry_url}/config").json() == {"compatibilityLevel": "BACKWARD"}
    assert settings.catalog_uri.get_secret_value() != stack.addresses().catalog_uri
