"""The ground truth: what was really planted, message by message, and what a correct pipeline must say about it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.simulator.faults import Fault, FaultType
from k2_dagster.schemas.profiles import Domain

# What damaged bytes must be quarantined as, in the order in which damages are dealt out.
DAMAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("truncated", ("undecodable", "trailing_bytes")),
    ("flipped", ("undecodable", "trailing_bytes")),
    ("foreign_schema", ("schema_not_for_topic", "undecodable", "trailing_bytes")),
    ("unframed", ("not_framed",)),
)


@dataclass
class FaultRecord:
    """One planted fault. `messages` are the affected ones, in venue order, and `sent` when each of them was sent (or
    would have been); times are send times in microseconds."""

    fault: Fault
    dataset: str
    stream: str
    domain: Domain
    session: str
    channel: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    note: dict[str, Any] = field(default_factory=dict)
    first_micros: int = 0
    last_micros: int = 0
    complete: bool = False

    def cut(self, at_micros: int) -> None:
        """The run was stopped at this time: what came later did not happen."""
        kept = [place for place, micros in enumerate(self.sent) if micros <= at_micros]
        self.messages, self.sent = [self.messages[place] for place in kept], [self.sent[place] for place in kept]
        self.last_micros = min(self.last_micros, at_micros)
        self.complete = False

    def line(self, exchange: str) -> dict[str, Any]:
        """The record as one JSON-able object."""
        sequences = [one["sequence"] for one in self.messages if one.get("sequence") is not None]
        numbers = [one["publisher_sequence"] for one in self.messages if one.get("publisher_sequence") is not None]
        symbols = sorted({one["symbol"] for one in self.messages})
        return {
            "type": self.fault.type.value,
            "asked": str(self.fault),
            "exchange": exchange,
            "dataset": self.dataset,
            "stream": self.stream,
            "domain": self.domain.value,
            "symbol": symbols[0] if len(symbols) == 1 else None,
            "channel": self.channel,
            "session": self.session,
            "count": len(self.messages),
            "first_sequence": self._first_missing(sequences),
            "last_sequence": max(sequences, default=None),
            "first_publisher_sequence": min(numbers, default=None),
            "last_publisher_sequence": max(numbers, default=None),
            "first_sent": self.first_micros,
            "last_sent": self.last_micros,
            "complete": self.complete,
            **self.note,
            "must_report": must_report(self.fault.type, self.domain, self.messages),
            "messages": self.messages,
        }

    def _first_missing(self, sequences: list[int]) -> int | None:
        previous = [one["previous_sequence"] for one in self.messages if one.get("previous_sequence") is not None]
        return min(previous) + 1 if previous else min(sequences, default=None)


def must_report(kind: FaultType, domain: Domain, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What a correct pipeline says: `gaps` (and by whom), `quarantined` (and as what), `late`, `sessions`.

    An empty object: nothing at all, because nobody after the venue can know.
    """
    count = len(messages)
    venue = _venue_gap(domain)
    match kind:
        case FaultType.DROP:
            return {"gaps": 1, "by": venue} if venue else {}
        case FaultType.LOSE:
            by = "ingest, venue and publisher numbers" if domain.judged_by_ingest else "ingest, publisher numbers"
            return {"gaps": len({one["symbol"] for one in messages}), "by": by}
        case FaultType.DUPLICATE:
            return {"quarantined": count, "reasons": ["duplicate"]}
        case FaultType.REORDER:
            return {"gaps": 0, "late": count - 1} if venue else {}
        case FaultType.LATE:
            return {"gaps": 1, "by": venue, "late": count} if venue else {}
        case FaultType.CORRUPT:
            reasons = {reason for one in messages for reason in one["reasons"]}
            return {"quarantined": count, "reasons": sorted(reasons), "gaps": 0}
        case FaultType.OUT_OF_RANGE | FaultType.JUMP:
            reason = "rule_violated" if kind is FaultType.OUT_OF_RANGE else "sequence_jump"
            return {"quarantined": count, "reasons": [reason], "gaps": 0}
        case FaultType.SESSION_RESET:
            return {"sessions": 1, "gaps": 0}
        case FaultType.SCHEMA_CHANGE:
            return {"schema_versions": 1, "quarantined": 0}


def _venue_gap(domain: Domain) -> str | None:
    if domain.judged_by_ingest:
        return "ingest, venue numbers"
    return "feed handler, control topic" if domain is Domain.CHANNEL else None


def open_truth(path: Path) -> IO[str]:
    """The file that the truth is written to. Raises ConfigurationError."""
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{path}: {error.strerror}", advice="--truth needs a file that can be written"
        ) from error
