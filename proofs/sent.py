"""What the fuzz sends, and which of it may not be sent together."""

from dataclasses import dataclass
from typing import Any

from k2_dagster.schemas.datasets import WIRE_DATASETS
from proofs.claims import Claims
from proofs.common import Lake
from proofs.mutations import Original
from proofs.oracle import Oracle


@dataclass
class Sent:
    """A message in Kafka: `way` is how it was spoiled, empty for a valid one."""

    way: str
    message: Original
    position: tuple[int, int] | None = None


def apart(lake: Lake, exchange: str, sent: list[Sent], oracle: Oracle) -> list[Sent]:
    """Without those that say the same as an earlier one under another key, or under none: they may go to another
    partition, where they land too."""
    claims = {name: Claims(lake, exchange, name, ()) for name in WIRE_DATASETS}

    def identity(one: Sent) -> tuple[Any, ...] | None:
        try:
            row = oracle.decode(WIRE_DATASETS[one.message.dataset], one.message.value)
            return None if row is None else (one.message.dataset, *claims[one.message.dataset].identity(row))
        except (RecursionError, TypeError):
            return None

    kept: list[Sent] = []
    keys: dict[Any, bytes | None] = {}
    for one in sent:
        found = identity(one)
        if found is None or found not in keys or (one.message.key is not None and one.message.key == keys[found]):
            kept.append(one)
            keys.setdefault(found, one.message.key)
    return kept
