"""A control database of a test's own, and what the tests of alerts share."""

from collections.abc import Iterator

import pytest

from k2_dagster.alerts.outbox import Outbox
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import upgrade
from tests.alerts.support import LINKS, Receiver, Sent, receiving


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """With the control schema."""
    made = Database(settings)
    upgrade(made)
    yield made
    made.close()


@pytest.fixture
def outbox(database: Database) -> Outbox:
    """Resolves at once."""
    return Outbox(database, LINKS, hold_seconds=0)


@pytest.fixture
def sent() -> Sent:
    """Services that take everything."""
    return Sent()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook on loopback."""
    with receiving() as made:
        yield made
