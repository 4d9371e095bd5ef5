"""A simulated exchange on two lines of this machine, in a thread of the test's, and what it sent."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.feeds.simulator.lines.answering import Rates
from k2_dagster.feeds.simulator.lines.channel import ExchangeChannel
from k2_dagster.feeds.simulator.lines.line import LineFaults
from k2_dagster.feeds.simulator.lines.serving import LineSimulation, LinesPlan
from k2_dagster.schemas.profiles import Profiles, load_profiles

HOST = "127.0.0.1"
SYMBOLS = 10
JOIN_SECONDS = 30.0


@dataclass
class Exchange:
    """A simulation that sends from `start` on, and answers before. `truth` has what it did so far."""

    simulation: LineSimulation
    thread: threading.Thread
    stop: threading.Event
    truth_path: Path
    parameters: FeedParameters

    def start(self, *_: object) -> None:
        """Whoever should miss nothing listens by now."""
        self.thread.start()

    @property
    def truth(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.truth_path.read_text().splitlines()]

    def lost(self) -> list[tuple[int, int]]:
        """Ranges of numbers that no line sent."""
        out: list[tuple[int, int]] = []
        for one in self.truth:
            if one["what"] == "lost":
                if out and out[-1][1] == one["first"] - 1:
                    out[-1] = out[-1][0], one["last"]
                else:
                    out.append((one["first"], one["last"]))
        return out


def parameters(exchange: str, *, seconds: float, rate: float, seed: int = 7) -> FeedParameters:
    return FeedParameters(exchange, SYMBOLS, rate, seed, time.time_ns() // 1000, seconds)


def all_messages(profiles: Profiles, given: FeedParameters) -> list[bytes]:
    """Everything that an exchange of these parameters sends, in order."""
    return [message for block in ExchangeChannel(profiles, given).blocks() for message in block.messages]


@contextmanager
def serving(
    profiles: Profiles,
    given: FeedParameters,
    lines: tuple[tuple[str, int], tuple[str, int]],
    folder: Path,
    *,
    faults: LineFaults,
    linger_seconds: float,
    rates: Rates | None = None,
) -> Iterator[Exchange]:
    """Ends when the block is left."""
    stop, path = threading.Event(), folder / "truth.jsonl"
    # The order book is compiled at its first use, which must not count as being late
    next(ExchangeChannel(profiles, given).blocks())
    given = replace(given, start_micros=time.time_ns() // 1000)
    plan = LinesPlan(lines, (HOST, 0), faults, linger_seconds, path)
    simulation = LineSimulation(profiles, given, plan, stop=stop, rates=rates)
    thread = threading.Thread(target=simulation.run, daemon=True)
    try:
        yield Exchange(simulation, thread, stop, path, given)
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join(JOIN_SECONDS)


def free_ports(count: int) -> list[tuple[str, int]]:
    """Addresses on which nobody listens now."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname() for one in sockets]
    finally:
        for one in sockets:
            one.close()


def profiles_of_lines(name: str) -> Profiles:
    """The exchange `sim_lines` of the package, under another name."""
    packaged = load_profiles()
    return packaged.model_copy(update={"exchanges": {name: packaged.exchange("sim_lines")}})
