"""Parts of Dagster that it calls beta or preview, and that K2 uses knowingly; the exact version is pinned."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg


@contextmanager
def knowingly_unstable() -> Iterator[None]:
    """No beta or preview warnings inside: backfill policies, partition mappings and partitioned checks cause one for
    each table in every run's log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        yield


def sensor(**arguments: Any) -> Callable[[Callable[..., dg.SensorResult]], dg.SensorDefinition]:
    """`dg.sensor` without the warning that its own decorator causes, by a beta parameter, in every run's log."""

    def define(evaluate: Callable[..., dg.SensorResult]) -> dg.SensorDefinition:
        with knowingly_unstable():
            return dg.sensor(**arguments)(evaluate)

    return define
