"""What is new since the last look, in words for the event log. Pure but for its memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from proofs.demo.plan import FIRST_ROWS_SECONDS
from proofs.demo.state import Totals


class News:
    """Compares each look with the one before."""

    def __init__(self) -> None:
        self.first_rows_seconds: float | None = None
        self._duplicates = 0
        self._damaged = 0
        self._gaps: set[int] = set()

    def of(self, totals: Totals, gaps: Sequence[Mapping[str, Any]], since_start_seconds: float) -> list[str]:
        """Lines about what was found since the last call."""
        lines = []
        if totals.rows and self.first_rows_seconds is None:
            self.first_rows_seconds = since_start_seconds
            lines.append(f"first rows in Iceberg, {since_start_seconds:.1f} s after the start ({promised()})")
        for gap in gaps:
            if gap["id"] not in self._gaps:
                self._gaps.add(gap["id"])
                lines.append(
                    f"found: a gap of {gap['missing']} in {gap['symbol']}, {gap['first_sequence']} to "
                    f"{gap['last_sequence']}"
                )
        duplicates = totals.reasons["duplicate"]
        damaged = totals.reasons.total() - duplicates
        if duplicates > self._duplicates:
            lines.append(f"found: {duplicates - self._duplicates} duplicates, now in quarantine")
        if damaged > self._damaged:
            lines.append(f"found: {damaged - self._damaged} bad messages, now in quarantine")
        self._duplicates, self._damaged = duplicates, damaged
        return lines


def promised() -> str:
    """What the first rows are held to."""
    return f"{FIRST_ROWS_SECONDS:.0f} s promised"
