"""Readers of topics: exact offsets in, columns out. Two clients, one behaviour."""

from k2_dagster.kafka.batch import RawBatch, Reader
from k2_dagster.kafka.exact import ExactReader
from k2_dagster.kafka.plain import PlainClient
from k2_dagster.settings import Settings

__all__ = ["RawBatch", "Reader", "open_reader"]


def open_reader(settings: Settings) -> Reader:
    """The reader that `K2_INGEST_READER` names; it connects at `assign`."""
    return ExactReader(settings, PlainClient)
