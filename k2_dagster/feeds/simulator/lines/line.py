"""What happens to the packets of one line: lost, held up or sent, drawn from a seed."""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.simulator.lines.channel import ReadyPacket
from k2_dagster.schemas.common import MICROS_PER_SECOND


@dataclass(frozen=True)
class LineFaults:
    """Shares of a line's packets that are lost, and that are held up for as long as `delay_seconds` at most."""

    drop: float = 0.0
    delay: float = 0.0
    delay_seconds: float = 0.05

    def __post_init__(self) -> None:
        for name in ("drop", "delay"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigurationError(f"{name} was {value}", advice="valid: a share from 0 to 1", field=name)


@dataclass(frozen=True)
class Fates:
    """Of packets, in their order."""

    dropped: NDArray[np.bool_]
    delay_micros: NDArray[np.int64]


class Line:
    """Draws the fates of one line's packets, and keeps those that are held up. The same seed and name draw the same,
    however the packets are split."""

    def __init__(self, name: str, seed: int, faults: LineFaults) -> None:
        self.name = name
        self._faults = faults
        self._rng = np.random.default_rng([seed, *name.encode()])
        self._held: list[tuple[int, int, ReadyPacket]] = []

    def fates(self, count: int) -> Fates:
        """Of the next packets."""
        draws = self._rng.random((count, 3))
        dropped = draws[:, 0] < self._faults.drop
        held = ~dropped & (draws[:, 1] < self._faults.delay)
        delays = 1 + (draws[:, 2] * self._faults.delay_seconds * MICROS_PER_SECOND).astype(np.int64)
        return Fates(dropped, np.where(held, delays, 0))

    def hold(self, packet: ReadyPacket, until_micros: int) -> None:
        """Keep it until then."""
        heapq.heappush(self._held, (until_micros, packet.first, packet))

    def released(self, now_micros: int | None) -> list[ReadyPacket]:
        """What was held up long enough; at the end (None) everything."""
        out = []
        while self._held and (now_micros is None or self._held[0][0] <= now_micros):
            out.append(heapq.heappop(self._held)[2])
        return out


@dataclass
class LineReport:
    """Packets and messages of one line, as the exchange knows: what was really sent and what was not."""

    packets: int = 0
    messages: int = 0
    dropped_packets: int = 0
    dropped_messages: int = 0
    delayed_packets: int = 0
