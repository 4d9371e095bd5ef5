"""Parts of Dagster that it calls beta or preview, and that K2 uses knowingly; the exact version is pinned."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg


@contextmanager
def knowingly_unstable() -> Iterator[None]:
    """No beta or preview warnings inside: backfill policies, partition mappings and partitioned checks cause one for
    each table in every run's log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        yield
