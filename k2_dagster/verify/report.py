"""What a verification found. Counts are exact; the examples of a finding are bounded."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# Examples of one finding: enough to go and look, however many there are.
MAX_EXAMPLES = 20

Fault = Literal[
    "missing",
    "extra",
    "duplicated",
    "wrong_duplicate",
    "wrong_value",
    "hole",
    "overlap",
    "count",
    "digest",
    "fence",
    "unrecorded",
]
FAULTS: dict[Fault, str] = {
    "missing": "a message below the fence is in neither table",
    "extra": "a row has an offset that Kafka does not have, or that no commit covers, or is of a stream nobody knows",
    "duplicated": "an offset is in the tables twice, or an identity in the data table",
    "wrong_duplicate": "quarantine calls a message a duplicate, but no data row has its identity",
    "wrong_value": "a row does not say what its message says, or quarantine does not hold what it was sent",
    "hole": "no commit covers a range of offsets, and nobody accepted its loss",
    "overlap": "two commits cover the same offsets",
    "count": "the tables hold another number of rows of a commit's range than the commit says",
    "digest": "the rows of a commit's range are not the ones that were committed",
    "fence": "the fence is not where the commits end",
    "unrecorded": "a snapshot names a commit that the control database does not know",
}
# What was compared: each offset with Kafka, or (past Kafka's retention) the tables with the record of the commits.
ProofKind = Literal["offsets", "tiling"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`count` faults of one kind in one place; `examples` are offsets or names of some of them."""

    fault: Fault
    count: int
    detail: str
    examples: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Proved:
    """Offsets [first_offset, next_offset) of one epoch, and how they were compared."""

    topic_epoch: int
    first_offset: int
    next_offset: int
    proof: ProofKind


@dataclass(slots=True)
class PartitionReport:
    """One partition of one incarnation of a topic.

    `messages` were counted in Kafka, `consumed` is what the commits say; `rows`, `quarantined` and `duplicates` (those
    of the quarantined with that reason) were counted in the tables.
    """

    topic_id: str
    partition: int
    proofs: list[Proved] = field(default_factory=list)
    messages: int = 0
    consumed: int = 0
    rows: int = 0
    quarantined: int = 0
    duplicates: int = 0
    values_compared: int = 0
    originals_compared: int = 0
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class StreamReport:
    """One dataset of one exchange. `findings` are those that belong to no single partition."""

    exchange: str
    dataset: str
    topic: str
    partitions: list[PartitionReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def all_findings(self) -> Iterator[Finding]:
        """Those of the partitions and the stream's own."""
        yield from self.findings
        for partition in self.partitions:
            yield from partition.findings

    def count(self, fault: Fault) -> int:
        """Faults of one kind."""
        return sum(one.count for one in self.all_findings() if one.fault == fault)

    def total(self, name: str) -> int:
        """Sum of a count over the partitions: `messages`, `consumed`, `rows`, `quarantined`, `duplicates`, ..."""
        return sum(int(getattr(one, name)) for one in self.partitions)

    @property
    def proofs(self) -> tuple[ProofKind, ...]:
        """The kinds of proof that were used."""
        used = {proved.proof for one in self.partitions for proved in one.proofs}
        return tuple(kind for kind in ("offsets", "tiling") if kind in used)

    @property
    def empty(self) -> bool:
        """Whether nothing of this stream has landed and nothing is wrong with that."""
        return not self.partitions and not self.findings


@dataclass(slots=True)
class Report:
    """The whole verification. `tables` maps a table's name to findings that concern no single stream."""

    streams: list[StreamReport] = field(default_factory=list)
    tables: dict[str, list[Finding]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether topics and tables agree in everything that was compared."""
        return not any(self.findings())

    def findings(self) -> Iterator[Finding]:
        """Every finding."""
        for findings in self.tables.values():
            yield from findings
        for stream in self.streams:
            yield from stream.all_findings()

    def count(self, fault: Fault) -> int:
        """Faults of one kind, of all streams and tables."""
        return sum(one.count for one in self.findings() if one.fault == fault)

    def total(self, name: str) -> int:
        """Sum of a count over all streams; see `StreamReport.total`."""
        return sum(stream.total(name) for stream in self.streams)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the verdict, counts by fault, totals, then every stream with its partitions and findings."""
        totals = (
            *("messages", "consumed", "rows", "quarantined", "duplicates"),
            *("values_compared", "originals_compared"),
        )
        return {
            "clean": self.clean,
            **{fault: self.count(fault) for fault in FAULTS},
            **{name: self.total(name) for name in totals},
            "seconds": round(self.seconds, 3),
            "tables": {name: [asdict(one) for one in found] for name, found in self.tables.items() if found},
            "streams": [{**asdict(one), "proofs": list(one.proofs)} for one in self.streams if not one.empty],
        }
