"""What the commands that publish say in the same words."""

from collections.abc import Mapping

from k2_dagster.feeds.capture.report import BlockReport
from k2_dagster.observability.printable import printable


def rows_text(rows: Mapping[str, int]) -> str:
    """`1,234 quotes, 56 ticks`."""
    return ", ".join(f"{count:,} {dataset}" for dataset, count in sorted(rows.items())) or "no rows"


def without_rows(report: BlockReport) -> list[str]:
    """A line on inputs that carry no event, and one on those that were refused, where there were any."""
    lines = []
    if report.skipped:
        lines.append("no market event: " + ", ".join(f"{count:,} {what}" for what, count in report.skipped.items()))
    if report.refused:
        shown = printable("; ".join(report.refusals))
        lines.append(f"refused and published for quarantine: {report.refused:,}; first: {shown}")
    return lines
