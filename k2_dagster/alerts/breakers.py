"""Breakers, through a port: halted topic-partitions as signals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from k2_dagster.alerts.signals import Reading, Severity, Signal
from k2_dagster.alerts.sources import Source

SCOPE = "breaker/"


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """A topic-partition that waits for a person. `retention_nears`: Kafka will soon delete what waits there."""

    topic: str
    partition: int
    reason: str
    retention_nears: bool = False


Breakers = Callable[[], Sequence[OpenBreaker]]
"""Every breaker that is open. Raises K2Error when it cannot be told."""


def breaker_source(breakers: Breakers) -> Source:
    """Open breakers as incidents `breaker/TOPIC/PARTITION`: error, critical once retention nears."""
    return Source("breakers", (SCOPE,), lambda: _reading(breakers()))


def _reading(found: Sequence[OpenBreaker]) -> Reading:
    return Reading("breakers", (SCOPE,), {f"{SCOPE}{one.topic}/{one.partition}": _signal(one) for one in found})


def _signal(one: OpenBreaker) -> Signal:
    severity: Severity = "critical" if one.retention_nears else "error"
    nears = " Kafka's retention nears: what waits there will be deleted." if one.retention_nears else ""
    return Signal(
        severity,
        f"{one.topic} partition {one.partition} is halted",
        f"{one.reason}{nears}",
        "Decide on the gap: have it recovered, or let the partition go on with `k2 breaker acknowledge`.",
        "breaker",
    )
