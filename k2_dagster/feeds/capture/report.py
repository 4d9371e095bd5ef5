"""What became of blocks that were published, in the same words for captures and live feeds."""

from collections import Counter
from dataclasses import dataclass, field, fields

from k2_dagster.feeds.capture.block import Block
from k2_dagster.feeds.publisher import Publisher

# Refusals kept for a report; all are counted, and all are published.
REFUSALS_SHOWN = 5


@dataclass(kw_only=True)
class BlockReport:
    """`rows` by dataset, with those of the feed handler in control. `refused` are published for quarantine; `too_large`
    of them were rows. `skipped` carried no market event. `undelivered` messages were accepted and then not taken by
    Kafka. `stopped` is whether it ended early."""

    rows: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    too_large: int = 0
    refusals: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    undelivered: int = 0
    seconds: float = 0.0
    stopped: bool = False

    def as_document(self) -> dict[str, object]:
        """The report as JSON has it: first what it is about, then what is common to all reports."""
        common = {one.name for one in fields(BlockReport)}
        document = {**vars(self), "rows": dict(self.rows), "skipped": dict(self.skipped)}
        return {name: document[name] for name in sorted(document, key=common.__contains__)}

    def count(self, block: Block) -> None:
        """Add what a published block holds besides its rows."""
        self.skipped.update(one.what for one in block.skips)
        room = REFUSALS_SHOWN - len(self.refusals)
        self.refusals += [f"{one.place}: {one.reason}" for one in block.refusals[:room]]

    def note(self, publisher: Publisher) -> None:
        """Take over what the publisher has refused so far."""
        self.too_large = publisher.too_large
        self.refused = publisher.refused + publisher.too_large
