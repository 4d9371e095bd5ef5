"""Two lakes filled from the same topics: the same rows, the same refusals, the same coverage ledger."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.coverage.reading import Wanted, one_look, read_received
from k2_dagster.coverage.relations import RELATIONS
from k2_dagster.state.breakers import list_breakers
from k2_dagster.state.database import Database
from proofs.accounting import table_rows
from proofs.common import Lake

_ORDER = [("kafka_partition", "ascending"), ("kafka_offset", "ascending")]
# When a batch was built is no part of the answer. Of a duplicate, its first's offset is told only if both came in one
# batch, and the bytes are left out only then.
_OF_THE_RUN = ("ingest_timestamp",)
_OF_THE_BATCH = ("ingest_timestamp", "first_offset", "value", "headers")
# Row numbers and commits differ from run to run, and so does which batch found that a session is over. When a halt
# was noted and let go is of the run; where it was is not.
_OF_THE_LEDGER = ("id", "commit_id", "changed_at", "is_open", "recorded_at", "opened_at", "acknowledged_at")
_LEDGER = ("gaps", "resets", "connections", "holds")
SHOWN = 3


def compare_lakes(one: Lake, other: Lake, exchanges: Sequence[str]) -> list[str]:
    """Every difference, in words; empty when they are equal."""
    out = []
    for exchange in exchanges:
        for dataset in (*one.profiles.exchange(exchange).datasets, "quarantine"):
            left, right = (_sorted(lake, dataset, exchange) for lake in (one, other))
            out += _differences(f"{exchange}/{dataset}", left, right)
        left_ledger, right_ledger = (ledger(lake, exchange) for lake in (one, other))
        for place, name in ((left_ledger - right_ledger, "first"), (right_ledger - left_ledger, "second")):
            out += [f"{exchange}: only in the {name} ledger: {row}" for row in sorted(place)[:SHOWN]]
    return out


def ledger(lake: Lake, exchange: str) -> Counter[tuple[str, ...]]:
    """The coverage ledger of an exchange (intervals, holes, gaps, sessions, connections, halts), as texts, without what
    differs from run to run. Each row begins with its table."""
    database = Database(lake.settings)
    try:
        with one_look(database) as connection:
            received = read_received(connection, Wanted(exchange=exchange))
            tables = {name: RELATIONS[name](connection).to_pylist() for name in _LEDGER}
        tables["breakers"] = list_breakers(database, exchange)
    finally:
        database.close()
    tables |= {"coverage": received.intervals.to_pylist(), "holes": received.holes.to_pylist()}
    for hold in tables["holds"]:
        del hold["to_time"]
    return Counter(
        (name, *(f"{key}={value}" for key, value in row.items() if key not in _OF_THE_LEDGER))
        for name, table in tables.items()
        for row in table
        if row["exchange"] == exchange
    )


def _sorted(lake: Lake, dataset: str, exchange: str) -> pa.Table:
    rows = table_rows(lake, dataset, exchange)
    rows = rows.drop_columns(list(_OF_THE_BATCH if dataset == "quarantine" else _OF_THE_RUN))
    order = [("topic", "ascending"), *_ORDER] if dataset == "quarantine" else _ORDER
    return rows.sort_by(order).combine_chunks()


def _differences(name: str, left: pa.Table, right: pa.Table) -> list[str]:
    if len(left) != len(right):
        return [f"{name}: {len(left)} rows, {len(right)} in the undisturbed lake"]
    out = []
    for column in left.column_names:
        if not left[column].equals(right[column]):
            at = next(row for row in range(len(left)) if left[column][row] != right[column][row])
            place = {key: left[key][at].as_py() for key in ("kafka_partition", "kafka_offset")}
            out.append(f"{name}.{column} differs at {place}: {left[column][at]} and {right[column][at]}")
    return out


def count_where(table: pa.Table, column: str, value: object) -> int:
    """Rows that have this value."""
    return int(pc.sum(pc.equal(table[column], pa.scalar(value))).as_py() or 0)
