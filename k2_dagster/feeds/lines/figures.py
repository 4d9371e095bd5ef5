"""What each line of a pair brought and lost: the figures that say which one is ill."""

from dataclasses import asdict, dataclass, field

from k2_dagster.feeds.lines.intervals import Intervals
from k2_dagster.feeds.mold.packets import Packet

# Runs of missing numbers that are remembered per line: the newest. What comes of older ones counts as repeated.
MISSING_RUNS_KEPT = 10_000


@dataclass
class LineFigures:
    """Of one line: `messages` in `packets` that were valid; `malformed` packets were not, and count nowhere else.

    `won` messages came here first, `duplicates` had come before, on whichever line; `late` of the won ones came after
    they had been given up. `missing` numbers were skipped and did not come on this line since; `reordered` came behind
    higher ones, `repeated` came again on this line. `stale` messages were of a session that ended long ago.
    """

    packets: int = 0
    messages: int = 0
    malformed: int = 0
    won: int = 0
    duplicates: int = 0
    late: int = 0
    missing: int = 0
    reordered: int = 0
    repeated: int = 0
    stale: int = 0
    heartbeats: int = 0
    last_malformed: str = ""

    def as_document(self) -> dict[str, object]:
        """As JSON has it."""
        return asdict(self)


@dataclass
class LineSession:
    """How far a line has come in one session."""

    next_sequence: int
    missing: Intervals = field(default_factory=Intervals)


def note_packet(figures: LineFigures, here: LineSession, packet: Packet) -> None:
    """Count what a line's packet says of the line itself."""
    first, following = packet.sequence, packet.next_sequence
    if first > here.next_sequence:
        here.missing.add(here.next_sequence, first - 1)
        figures.missing += first - here.next_sequence
        while len(here.missing) > MISSING_RUNS_KEPT:
            here.missing.drop_oldest()
    known = min(following, here.next_sequence) - first
    if known > 0:
        came = here.missing.remove(first, first + known - 1)
        figures.missing -= came
        figures.reordered += came
        figures.repeated += known - came
    here.next_sequence = max(here.next_sequence, following)
