"""The exchange of the ingest tests."""

from tests.ingest.conftest import exchange

__all__ = ["exchange"]
