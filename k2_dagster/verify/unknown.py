"""Rows of streams that nobody knows: no profile declares them and no topic of theirs ever landed."""

from collections import Counter
from collections.abc import Collection

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue

from k2_dagster.lake.catalog import translated_errors
from k2_dagster.schemas.quarantine import QUARANTINE
from k2_dagster.verify.records import PinnedTable
from k2_dagster.verify.report import MAX_EXAMPLES, Finding
from k2_dagster.verify.scan import scan


def unknown_exchanges(table: PinnedTable, known: Collection[str]) -> list[Finding]:
    """From the partitions of a data table; no data file is read."""
    if table.table.current_snapshot() is None:
        return []
    with translated_errors():
        found = table.table.inspect.partitions()
    rows: Counter[str] = Counter()
    for one in found.select(["partition", "record_count"]).to_pylist():
        rows[str(one["partition"]["exchange"])] += int(one["record_count"])
    strange = {name: count for name, count in rows.items() if name not in known}
    return _findings("a row of an exchange that no profile declares and no topic ever had", strange)


def unknown_streams(table: PinnedTable, known: Collection[tuple[str, str]]) -> list[Finding]:
    """From two columns of the quarantine table: its files are partitioned by exchange, not by dataset."""
    rows: Counter[tuple[str, str]] = Counter()
    for batch in scan(table.table, QUARANTINE, ("exchange", "dataset"), [AlwaysTrue()]):
        grouped = pa.table(batch).group_by(["exchange", "dataset"]).aggregate([([], "count_all")])
        for one in grouped.to_pylist():
            rows[one["exchange"], one["dataset"]] += one["count_all"]
    strange = {"/".join(name): count for name, count in rows.items() if name not in known}
    return _findings("a quarantine row of a stream that no profile declares and no topic ever had", strange)


def _findings(detail: str, strange: dict[str, int]) -> list[Finding]:
    names = tuple(sorted(strange))[:MAX_EXAMPLES]
    return [Finding("extra", sum(strange.values()), detail, names)] if strange else []
