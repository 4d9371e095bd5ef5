"""Readers of topics: exact offsets in, columns out. Two clients, one behaviour."""

import threading

from k2_dagster.kafka.batch import RawBatch, Reader
from k2_dagster.kafka.exact import ExactReader, MakeClient
from k2_dagster.kafka.native import NativeClient
from k2_dagster.kafka.plain import PlainClient
from k2_dagster.observability.stopping import NEVER
from k2_dagster.settings import Settings

__all__ = ["RawBatch", "Reader", "open_reader"]

_CLIENTS: dict[str, MakeClient] = {"plain": PlainClient, "native": NativeClient}


def open_reader(settings: Settings, stop: threading.Event = NEVER) -> Reader:
    """The reader that `K2_INGEST_READER` names; it connects at `assign`. Once `stop` is set, `read` returns at once."""
    return ExactReader(settings, _CLIENTS[settings.ingest_reader], stop=stop)
