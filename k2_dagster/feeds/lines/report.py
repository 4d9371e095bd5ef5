"""What became of a feed over lines so far, for the progress line and the summary at the end."""

from collections import Counter
from dataclasses import dataclass, field

from k2_dagster.feeds.lines.arbitration import Arbiter
from k2_dagster.feeds.lines.asking import AskReport
from k2_dagster.feeds.lines.figures import LineFigures


@dataclass
class LinesFeedReport:
    """`rows` by dataset, with those of the feed handler in control; `refused` messages are published for quarantine.

    Of numbers: `given_up` came on no line within the wait, `late` of them came after all, `early` ones came from before
    the first, `forgotten` ones would not be known again. `lines` has what each brought. `queue_dropped` packets found
    the queue full. `undelivered` messages were accepted and then not taken by Kafka.
    """

    exchange: str
    channel: str
    rows: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    refusals: list[str] = field(default_factory=list)
    session: str | None = None
    given_up: int = 0
    late: int = 0
    early: int = 0
    forgotten: int = 0
    queue_dropped: int = 0
    books: int = 0
    undelivered: int = 0
    seconds: float = 0.0
    stopped: bool = False
    lines: dict[str, LineFigures] = field(default_factory=dict)
    asked: AskReport | None = None

    @property
    def missing(self) -> int:
        """Numbers that were given up and have not come."""
        return self.given_up - self.late

    def note(self, arbiter: Arbiter) -> None:
        """Take the arbiter's figures over."""
        self.session = arbiter.session
        self.given_up, self.late = arbiter.given_up, arbiter.late
        self.early, self.forgotten = arbiter.early, arbiter.forgotten

    def as_document(self) -> dict[str, object]:
        """As JSON has it."""
        told = {"rows": dict(self.rows), "lines": {name: one.as_document() for name, one in self.lines.items()}}
        asked = None if self.asked is None else vars(self.asked)
        return {**vars(self), **told, "missing": self.missing, "asked": asked}


def lines_text(lines: dict[str, LineFigures]) -> str:
    """`A: 1,234 messages, 5 missing, 3 duplicates; B: ...`."""
    return "; ".join(
        f"{name}: {one.messages:,} messages, {one.missing:,} missing, {one.duplicates:,} duplicates, {one.late:,} late"
        + (f", {one.malformed:,} packets malformed" if one.malformed else "")
        for name, one in lines.items()
    )
