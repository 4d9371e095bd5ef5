"""From what is wrong now and what was known before to the incidents as they are, and what is to be told. Pure.

- An incident opens with its signal, at once: sources apply their own thresholds.
- It is resolved when a source that could be read has not had the signal for HOLD_SECONDS. A signal that comes and goes
  faster than that is one incident with a growing count, not a message each time.
- It is worse when its severity rises. While it is open the severity never falls, so one that swings between two is told
  once.
- What nobody could read stays as it is.

Judging the same signals again changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from k2_dagster.alerts.signals import RANKS, Reading, Severity, Signal

# Dagster's sensors, `k2 ingest` and checks try again within seconds to half a minute; a signal that is gone for longer
# has ended.
HOLD_SECONDS = 60.0

# `acknowledged` is what a person says; the others are judged here.
Transition = Literal["opened", "worsened", "resolved", "acknowledged"]


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident as the control database holds it. `signal` is the newest; `severity` the worst since it opened.

    `transitions` counts what was to be told of it since ever, `occurrences` how often its signal came (back).
    `absent_since` is when the signal was first missed.
    """

    key: str
    severity: Severity
    signal: Signal
    opened_at: datetime
    updated_at: datetime
    absent_since: datetime | None = None
    resolved_at: datetime | None = None
    occurrences: int = 1
    transitions: int = 0

    @property
    def is_open(self) -> bool:
        """Not resolved yet."""
        return self.resolved_at is None


@dataclass(frozen=True, slots=True)
class Change:
    """An incident as it is from now on, and the transition that is to be told, if there is one."""

    incident: Incident
    transition: Transition | None = None


def judge(
    known: Mapping[str, Incident], readings: Sequence[Reading], now: datetime, hold_seconds: float = HOLD_SECONDS
) -> list[Change]:
    """What changes, by key. `known` must hold every open incident and, of those that have a signal, the resolved."""
    signals = _merged(readings)
    changes = [_with_signal(known.get(key), key, signal, now) for key, signal in signals.items()]
    gone = (one for key, one in known.items() if one.is_open and key not in signals and _told(readings, key))
    changes += [_without_signal(one, now, hold_seconds) for one in gone]
    found = (one for one in changes if one is not None)
    return sorted(found, key=lambda one: one.incident.key)


def _merged(readings: Iterable[Reading]) -> dict[str, Signal]:
    """The signals of all sources; of two with one key, the worse."""
    out: dict[str, Signal] = {}
    for reading in readings:
        for key, signal in reading.signals.items():
            if reading.tells(key) and (key not in out or RANKS[signal.severity] > RANKS[out[key].severity]):
                out[key] = signal
    return out


def _told(readings: Iterable[Reading], key: str) -> bool:
    return any(reading.tells(key) for reading in readings)


def _with_signal(before: Incident | None, key: str, signal: Signal, now: datetime) -> Change | None:
    if before is None or not before.is_open:
        occurrences, transitions = (0, 0) if before is None else (before.occurrences, before.transitions)
        fresh = Incident(
            key, signal.severity, signal, now, now, occurrences=occurrences + 1, transitions=transitions + 1
        )
        return Change(fresh, "opened")
    returned = before.absent_since is not None
    worse = RANKS[signal.severity] > RANKS[before.severity]
    if not returned and not worse and signal == before.signal:
        return None
    after = replace(
        before,
        severity=signal.severity if worse else before.severity,
        signal=signal,
        updated_at=now,
        absent_since=None,
        occurrences=before.occurrences + returned,
        transitions=before.transitions + worse,
    )
    return Change(after, "worsened" if worse else None)


def _without_signal(before: Incident, now: datetime, hold_seconds: float) -> Change | None:
    if before.absent_since is None and hold_seconds > 0:
        return Change(replace(before, absent_since=now, updated_at=now))
    absent_since = before.absent_since or now
    if now - absent_since < timedelta(seconds=hold_seconds):
        return None
    after = replace(
        before, absent_since=absent_since, resolved_at=now, updated_at=now, transitions=before.transitions + 1
    )
    return Change(after, "resolved")
