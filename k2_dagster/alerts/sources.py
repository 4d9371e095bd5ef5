"""Sources in turns: each is read when it is due, and one that cannot be read for a while is an incident itself.

A source is read in a thread of its own, so that one which waits in foreign code (object storage that does not answer)
keeps nobody else from being read. Until that look has ended it is not asked again.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from k2_dagster.alerts.signals import SOURCE_SCOPE, Reading, Signal, unreadable
from k2_dagster.errors import K2Error
from k2_dagster.observability.work import Work

logger = logging.getLogger(__name__)

# A server that is restarted is away for seconds; one that is away for longer hides what a person should know.
GRACE_SECONDS = 60.0
# What K2 waits for itself ends sooner (Kafka 15 s, a statement 30 s); beyond that, nobody knows when it ends.
LOOK_SECONDS = 35.0


@dataclass(frozen=True, slots=True)
class Source:
    """Something that can be read. `read` raises K2Error when it cannot; `interval_seconds` is how often it is asked."""

    name: str
    scopes: Sequence[str]
    read: Callable[[], Reading]
    interval_seconds: float = 0.0


@dataclass(slots=True)
class Sources:
    """All that is watched. Times are of any clock that only goes forward (seconds)."""

    sources: Sequence[Source]
    grace_seconds: float = GRACE_SECONDS
    look_seconds: float = LOOK_SECONDS
    _due_at: dict[str, float] = field(default_factory=dict)
    _failing: dict[str, tuple[float, str]] = field(default_factory=dict)
    _read: set[str] = field(default_factory=set)
    _hanging: dict[str, Work[Reading]] = field(default_factory=dict)

    def readings(self, now: float) -> list[Reading]:
        """What the sources that are due tell, and a reading about the sources themselves."""
        found = [self._one(source, now) for source in self.sources if now >= self._due_at.get(source.name, now)]
        return [*found, self._about_themselves(now)]

    def _one(self, source: Source, now: float) -> Reading:
        self._due_at[source.name] = now + source.interval_seconds
        try:
            reading = self._look(source)
        except K2Error as error:
            reading = unreadable(source.name, source.scopes, error.message.splitlines()[0])
        except Exception as error:
            # one of ours must not silence the other sources; it is logged whole, and an incident when it stays
            logger.exception("mistake in a source", extra={"source": source.name})
            reading = unreadable(source.name, source.scopes, f"a mistake of K2's, see its log: {type(error).__name__}")
        if reading.failure:
            if source.name not in self._failing:
                logger.warning("source could not be read", extra={"source": source.name, "problem": reading.failure})
            self._failing[source.name] = (self._failing.get(source.name, (now, ""))[0], reading.failure)
        else:
            self._failing.pop(source.name, None)
        self._read.add(source.name)
        return reading

    def _look(self, source: Source) -> Reading:
        look = self._hanging.pop(source.name, None)
        if look is None:
            look = Work(source.read, f"k2-look-{source.name}")
            look.start()
            look.join(self.look_seconds)
        if look.is_alive():
            self._hanging[source.name] = look
            return unreadable(source.name, source.scopes, f"it has not answered within {self.look_seconds:g} s")
        return look.outcome()

    def _about_themselves(self, now: float) -> Reading:
        signals = {
            SOURCE_SCOPE + name: unreadable_signal(name, failure)
            for name, (since, failure) in self._failing.items()
            if now - since >= self.grace_seconds
        }
        # A start is no proof that a source which failed before it can be read again
        unread = [source.name for source in self.sources if source.name not in self._read]
        young = [name for name in self._failing if SOURCE_SCOPE + name not in signals]
        untold = [SOURCE_SCOPE + name for name in (*unread, *young)]
        scopes = [SOURCE_SCOPE + source.name for source in self.sources]
        return Reading("sources", scopes, signals, untold=untold)


def unreadable_signal(name: str, failure: str) -> Signal:
    """What is told of a source that cannot be read."""
    return Signal(
        severity="critical",
        title=f"`k2 watch` cannot read {name.replace('-', ' ')}",
        text=failure,
        what_to_do="Until it can, nothing that this source tells of is noticed, and none of its incidents is resolved. "
        "`k2 doctor` tries every address.",
        runbook="source",
    )
