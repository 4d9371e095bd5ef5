"""Recovery, through a port: gaps that were given up, and requests that nobody serves, as signals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from k2_dagster.alerts.signals import Reading, Severity, Signal
from k2_dagster.alerts.sources import Source

SCOPE = "recovery/"
# Of many gaps, so many are told one by one.
GAPS_SHOWN = 3
# The ledger does not change by the second, and each look reads all gaps that are missing.
INTERVAL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Lost:
    """A gap that was given up: what is missing, and why."""

    gap_id: int
    exchange: str
    dataset: str
    level: str
    missing: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unserved:
    """Requests of an exchange that are due, or made, and that no worker has served for `seconds`."""

    exchange: str
    gaps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """Everything that is wrong with recovery."""

    lost: Sequence[Lost] = ()
    unserved: Sequence[Unserved] = ()


def recovery_source(look: Callable[[], Trouble]) -> Source:
    """Incidents `recovery/EXCHANGE/DATASET` of what was given up and `recovery/EXCHANGE` of what nobody serves. `look`
    raises K2Error when it cannot tell."""
    return Source("recovery", (SCOPE,), lambda: recovery_reading(look()), INTERVAL_SECONDS)


def recovery_reading(found: Trouble) -> Reading:
    """Pure."""
    by_stream: dict[str, list[Lost]] = {}
    for one in found.lost:
        by_stream.setdefault(f"{SCOPE}{one.exchange}/{one.dataset}", []).append(one)
    signals = {key: _given_up(lost) for key, lost in by_stream.items()}
    signals |= {f"{SCOPE}{one.exchange}": _unserved(one) for one in found.unserved}
    return Reading("recovery", (SCOPE,), signals)


def _given_up(lost: Sequence[Lost]) -> Signal:
    shown = [f"gap {one.gap_id}: {one.missing}: {one.reason}" for one in lost[:GAPS_SHOWN]]
    more = f" And {len(lost) - GAPS_SHOWN} more." if len(lost) > GAPS_SHOWN else ""
    severity: Severity = "warning" if all(one.level == "warn" for one in lost) else "error"
    count = "A gap" if len(lost) == 1 else f"{len(lost)} gaps"
    return Signal(
        severity,
        f"{count} of {lost[0].exchange}/{lost[0].dataset} could not be recovered",
        ". ".join(shown) + "." + more,
        "Ask again with `k2 gaps request ID`, play a capture that has them, or go on with `k2 gaps accept ID`.",
        "recovery",
    )


def _unserved(one: Unserved) -> Signal:
    return Signal(
        "error",
        f"Nobody serves the recovery requests of {one.exchange}",
        f"{one.gaps} gaps wait, the oldest for {one.seconds:.0f} s.",
        f"Run `k2 recover {one.exchange}`; its log says what it waits for.",
        "recovery",
    )
