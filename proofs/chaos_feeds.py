"""Producers of the chaos proof: two simulated exchanges that speak all six domains, with faults, in real time."""

import threading
import time
from collections.abc import Callable, Collection

from k2_dagster.errors import K2Error
from k2_dagster.feeds.simulator.faults import FaultPlan
from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.feeds.simulator.simulation import Simulation, SimulationReport
from proofs.common import Lake

# Random faults per million messages: enough that every life of a worker meets some.
FAULTS_PER_MILLION = 3_000.0
SYMBOLS = 40
# Random faults have up to eight messages: the largest of them halt an exchange that halts.
HALTING_PAGE_AT, HALTING_ABOVE = 3, 6
# After `stop`, what was accepted is delivered within the producer's own timeout of two minutes, or it fails.
STOP_TIMEOUT_SECONDS = 150.0

_EXCHANGE = """
[exchanges.{name}]
title = "Simulated for a proof"
asset_class = "crypto"
calendar = "24/7"
timezone = "UTC"
entitlement_class = "simulated"
partitions = {partitions}
on_critical_gap = "{on_critical_gap}"
gap_page_at = {page_at}
gap_halt_above = {halt_above}
gap_grace_seconds = {grace_seconds}
[exchanges.{name}.streams.trade]
dataset = "ticks"
domain = "{ticks}"
[exchanges.{name}.streams.quote]
dataset = "quotes"
domain = "{quotes}"
[exchanges.{name}.streams.book]
dataset = "book"
domain = "{book}"
"""


def profiles_text(
    exchanges: dict[str, tuple[str, str, str]],
    *,
    partitions: int = 2,
    grace_seconds: float = 5.0,
    halting: Collection[str] = (),
) -> str:
    """A profiles file: exchange -> domains of its ticks, quotes and book. Partitions of those in `halting` halt at a
    gap, and one of the random faults' size is critical."""
    marks = {"on_critical_gap": "mark_stale", "page_at": 10, "halt_above": 100}
    halts = {"on_critical_gap": "halt", "page_at": HALTING_PAGE_AT, "halt_above": HALTING_ABOVE}
    own = {"partitions": partitions, "grace_seconds": grace_seconds}
    return "version = 1\n" + "".join(
        _EXCHANGE.format(
            name=name, ticks=ticks, quotes=quotes, book=book, **own, **(halts if name in halting else marks)
        )
        for name, (ticks, quotes, book) in exchanges.items()
    )


class Feeds:
    """Simulations in threads, one per exchange, until `stop`."""

    def __init__(self, lake: Lake, exchanges: list[str], rate: float, seed: int) -> None:
        self._stop = threading.Event()
        self.reports: dict[str, SimulationReport] = {}
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._simulation(lake, one, rate, seed + place),), name=one)
            for place, one in enumerate(exchanges)
        ]

    def start(self) -> None:
        """Begin to publish."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> dict[str, int]:
        """End the feeds and return how many messages each handed over; all of them are delivered."""
        self._stop.set()
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_SECONDS)
            if thread.is_alive():
                self.errors.append(f"the producer of {thread.name} does not end")
        return {name: sum(report.published.values()) for name, report in self.reports.items()}

    def _simulation(self, lake: Lake, exchange: str, rate: float, seed: int) -> Callable[[], SimulationReport]:
        plan = FaultPlan(random_rate=FAULTS_PER_MILLION / 1_000_000, seed=seed)
        parameters = FeedParameters(exchange, SYMBOLS, rate, seed, time.time_ns() // 1000, plan=plan)
        simulation = Simulation(lake.settings, lake.profiles, parameters, flat_out=False, stop=self._stop)
        self.reports[exchange] = simulation.report
        return simulation.run

    def _guarded(self, run: Callable[[], SimulationReport]) -> None:
        try:
            run()
        except K2Error as error:
            self.errors.append(f"a producer failed: {error}")
