"""Rows of one stream, staged in a DuckDB file of their own: sorted, counted and joined there, within a memory limit."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.declaration import Dataset
from k2_dagster.settings import Settings
from k2_dagster.verify.compare import Int64s, UInt64s
from k2_dagster.verify.identity import DECLARATION, identified, in_channel
from k2_dagster.verify.proven import POSITION, WITHIN, repeated, unproven
from k2_dagster.verify.report import MAX_EXAMPLES

_INTEGERS = "topic_epoch INTEGER, kafka_partition INTEGER, kafka_offset BIGINT"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one lane and range: their offsets in rising order, with their digests."""

    offsets: Int64s
    digests: UInt64s


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Quarantine rows with the reason `duplicate`, by rising offset. Values are those that quarantine kept."""

    offsets: list[int]
    first_offsets: list[int | None]
    values: list[bytes | None]


class Staging:
    """The rows of one stream. Open it with `open_staging`."""

    def __init__(self, connection: Any, dataset: Dataset, streams: Mapping[str, bool], channels: Sequence[str]) -> None:
        self._connection = connection
        self._run(f"CREATE TABLE data ({_INTEGERS}, digest UBIGINT, {DECLARATION})")
        self._run(f"CREATE TABLE numbers ({_INTEGERS}, {DECLARATION})")
        self._run(
            f"CREATE TABLE quarantine ({_INTEGERS}, digest UBIGINT, duplicate BOOLEAN, first_offset BIGINT, value BLOB)"
        )
        self._run(
            "CREATE TABLE refused (kafka_partition INTEGER, kafka_offset BIGINT, duplicate BOOLEAN, "
            "publisher_session VARCHAR, symbol VARCHAR, publisher_sequence BIGINT)"
        )
        self._run(f"CREATE TABLE first_refused ({_INTEGERS}, place VARCHAR)")
        self._run(f"CREATE TABLE claims (kafka_partition INTEGER, kafka_offset BIGINT, {DECLARATION})")
        self._run(
            "CREATE TABLE claims_by_offset (topic_epoch INTEGER, kafka_partition INTEGER, kafka_offset BIGINT, "
            "first_offset BIGINT)"
        )
        self._run(f"CREATE TABLE elsewhere ({DECLARATION})")
        self._run("CREATE TABLE venue_streams (stream VARCHAR, kind VARCHAR, has_ranges BOOLEAN)")
        for stream, has_ranges in streams.items():
            self._run("INSERT INTO venue_streams VALUES (?, ?, ?)", [stream, dataset.kinds[0], has_ranges])
        self._run("CREATE TABLE channel_streams (stream VARCHAR, kind VARCHAR)")
        for stream in channels:
            self._run("INSERT INTO channel_streams VALUES (?, ?)", [stream, dataset.kinds[0]])
        self._has_channels = bool(channels)
        self._sampled: set[str] = set()

    def add_data(self, rows: pa.Table, digests: UInt64s) -> None:
        """Data rows: position and identity columns."""
        staged = rows.append_column("digest", pa.array(digests))
        self._insert("data", staged, identified("batch", f"{POSITION}, digest"))
        if self._has_channels:
            self._insert("numbers", staged, in_channel("batch", POSITION))

    def add_sampled(self, rows: pa.Table) -> None:
        """Whole data rows, for the comparison of values."""
        self._keep("sampled", rows)

    def add_sampled_quarantine(self, rows: pa.Table) -> None:
        """Whole quarantine rows, for the comparison with the original messages."""
        self._keep("sampled_quarantine", rows)

    def add_quarantine(self, rows: pa.Table, digests: UInt64s) -> None:
        """Quarantine rows: position, reason, first offset, value (kept for duplicates only)."""
        staged = rows.append_column("digest", pa.array(digests))
        self._insert(
            "quarantine",
            staged,
            f"SELECT {POSITION}, digest, reason = 'duplicate', first_offset, "
            "CASE WHEN reason = 'duplicate' THEN value END FROM batch",
        )

    def add_refused(self, rows: pa.Table) -> None:
        """Messages that a feed handler refused, as the table `refused` has them: the first of each, and its duplicates.

        The pair in their headers is their identity; only a message of the same kind can be their first.
        """
        self._insert("refused", rows, "SELECT * FROM batch")

    def add_first_refused(self, rows: pa.Table) -> None:
        """Reprocessed messages: position, and where each was refused first. Without numbers, that is their identity."""
        self._insert("first_refused", rows, f"SELECT {POSITION}, place FROM batch")

    def add_claims(self, claims: pa.Table) -> None:
        """Duplicates whose message is at hand: position and identity columns."""
        for identities in (identified, in_channel) if self._has_channels else (identified,):
            self._insert("claims", claims, identities("batch", "kafka_partition, kafka_offset"))

    def add_claims_by_offset(self, epoch: int, partition: int, offsets: Sequence[int], firsts: Sequence[int]) -> None:
        """Duplicates of which only the offset of their first is known."""
        batch = pa.table({"kafka_offset": pa.array(offsets, pa.int64()), "first_offset": pa.array(firsts, pa.int64())})
        query = f"SELECT {int(epoch)}, {int(partition)}, kafka_offset, first_offset FROM batch"
        self._insert("claims_by_offset", batch, query)

    def add_elsewhere(self, rows: pa.Table) -> None:
        """Identities of data rows outside the staged window, as far as an unproven duplicate claims them."""
        within = f"EXISTS (SELECT 1 FROM claims a WHERE {WITHIN})"
        for identities in (identified, in_channel) if self._has_channels else (identified,):
            wanted = f"SELECT * EXCLUDE (zero) FROM ({identities('batch', '0 AS zero')}) b"
            self._insert("elsewhere", rows, f"{wanted} WHERE identity IN (SELECT identity FROM claims) OR {within}")

    def places(self, table: str) -> list[tuple[int, int]]:
        """Every (epoch, partition) that has rows in `data` or `quarantine`."""
        query = f"SELECT DISTINCT topic_epoch, kafka_partition FROM {table} ORDER BY ALL"
        return [(int(epoch), int(partition)) for epoch, partition in self._run(query).fetchall()]

    def rows(self, table: str, epoch: int, partition: int, first: int, following: int) -> Rows:
        """Rows of one range, by rising offset."""
        found = self._run(
            f"SELECT kafka_offset, digest FROM {table} WHERE topic_epoch = ? AND kafka_partition = ? "
            "AND kafka_offset >= ? AND kafka_offset < ? ORDER BY kafka_offset",
            [epoch, partition, first, following],
        ).fetchnumpy()
        return Rows(np.asarray(found["kafka_offset"], np.int64), np.asarray(found["digest"], np.uint64))

    def total(self, table: str, epoch: int, partition: int) -> tuple[int, int]:
        """Number of rows and digest (as an integer) of everything staged of one epoch and partition."""
        where = f"FROM {table} WHERE topic_epoch = ? AND kafka_partition = ?"
        count, digest = self._run(
            f"SELECT count(*), coalesce(sum(digest), 0) % {2**64}::HUGEINT {where}", [epoch, partition]
        ).fetchone()
        return int(count), int(digest)

    def outside(self, table: str, epoch: int, partition: int, first: int, following: int) -> tuple[int, list[int]]:
        """How many rows lie outside [first, following), and some of their offsets."""
        where = f"FROM {table} WHERE topic_epoch = ? AND kafka_partition = ? AND NOT (kafka_offset BETWEEN ? AND ?)"
        values = [epoch, partition, first, following - 1]
        count = int(self._run(f"SELECT count(*) {where}", values).fetchone()[0])
        some = self._run(f"SELECT kafka_offset {where} ORDER BY 1 LIMIT {MAX_EXAMPLES}", values).fetchall()
        return count, [int(one) for (one,) in some]

    def duplicates(self, epoch: int, partition: int, first: int, following: int) -> Duplicates:
        """The range's duplicates, but for those of refused messages."""
        found = self._run(
            "SELECT kafka_offset, first_offset, value FROM quarantine WHERE duplicate AND topic_epoch = ? "
            "AND kafka_partition = ? AND kafka_offset >= ? AND kafka_offset < ? AND (kafka_partition, kafka_offset) "
            "NOT IN (SELECT (kafka_partition, kafka_offset) FROM refused) ORDER BY kafka_offset",
            [epoch, partition, first, following],
        ).fetchall()
        offsets, firsts, values = zip(*found, strict=True) if found else ((), (), ())
        return Duplicates(list(offsets), list(firsts), list(values))

    def sampled_rows(self, epoch: int, partition: int, first: int, following: int) -> pa.Table | None:
        """Whole data rows of the range that were staged for the comparison of values, by rising offset."""
        return self._kept("sampled", epoch, partition, first, following)

    def sampled_quarantine(self, epoch: int, partition: int, first: int, following: int) -> pa.Table | None:
        """Whole quarantine rows of the range that were staged for the comparison, by rising offset."""
        return self._kept("sampled_quarantine", epoch, partition, first, following)

    def _keep(self, table: str, rows: pa.Table) -> None:
        self._connection.register("batch", rows)
        verb = f"INSERT INTO {table}" if table in self._sampled else f"CREATE TABLE {table} AS"
        self._run(f"{verb} SELECT * FROM batch")
        self._connection.unregister("batch")
        self._sampled.add(table)

    def _kept(self, table: str, epoch: int, partition: int, first: int, following: int) -> pa.Table | None:
        if table not in self._sampled:
            return None
        query = (
            f"SELECT * FROM {table} WHERE topic_epoch = {int(epoch)} AND kafka_partition = {int(partition)} "
            f"AND kafka_offset >= {int(first)} AND kafka_offset < {int(following)} ORDER BY kafka_offset"
        )
        return self._connection.sql(query).to_arrow_table()

    def repeated_identities(self) -> tuple[int, list[str]]:
        """How many data rows repeat an identity at another offset, and some of them in words."""
        tables = ("data", "numbers") if self._has_channels else ("data",)
        self._run(f"CREATE TEMP TABLE repeated AS {' UNION ALL '.join(map(repeated, tables))}")
        total = int(self._run("SELECT coalesce(sum(surplus), 0) FROM repeated").fetchone()[0])
        some = self._run(f"SELECT symbol, number, offsets FROM repeated ORDER BY offsets LIMIT {MAX_EXAMPLES}")
        return total, [f"{symbol} {number} at offsets {offsets[:3]}" for symbol, number, offsets in some.fetchall()]

    def repeated_returns(self) -> tuple[int, list[str]]:
        """How many data rows without a number are reprocessed messages that another row is too, and some in words."""
        self._run(f"""
            CREATE TEMP TABLE returned AS SELECT kafka_partition, place, list(DISTINCT kafka_offset) AS offsets,
                   count(DISTINCT ({POSITION})) AS count
            FROM data JOIN first_refused USING ({POSITION}) WHERE rule IS NULL GROUP BY kafka_partition, place""")
        total = int(self._run("SELECT coalesce(sum(count - 1), 0) FROM returned").fetchone()[0])
        some = self._run(f"SELECT place, list_sort(offsets) FROM returned WHERE count > 1 LIMIT {MAX_EXAMPLES}")
        return total, [f"refused first at {place}, at offsets {offsets[:3]}" for place, offsets in some.fetchall()]

    def unproven_claims(self, all_read: bool = True) -> dict[int, list[int]]:
        """Partition -> offsets of duplicates whose identity (or first) no known data row has.

        `all_read`: whether every message could be read. Only headers say which data row is a reprocessed message, so
        without them nothing is said of a duplicate that has no other identity.
        """
        found = self._run(unproven(all_read)).fetchall()
        out: dict[int, list[int]] = {}
        for partition, offset in found:
            out.setdefault(int(partition), []).append(int(offset))
        return out

    def _insert(self, table: str, rows: pa.Table, query: str) -> None:
        self._connection.register("batch", rows)
        self._run(f"INSERT INTO {table} {query}")
        self._connection.unregister("batch")

    def _run(self, query: str, values: Sequence[Any] = ()) -> Any:
        return self._connection.execute(query, list(values))


@contextmanager
def open_staging(
    settings: Settings, dataset: Dataset, streams: Mapping[str, bool], channels: Sequence[str] = ()
) -> Iterator[Staging]:
    """A staging file under the home folder, gone at the end. `streams` are identified by the venue's numbers, of which
    a message has a range where it says true; messages of the streams `channels` have numbers of a channel."""
    with _temporary_folder(settings.home) as folder:
        config: dict[str, Any] = {
            "memory_limit": f"{settings.query_memory_megabytes}MB",
            "threads": settings.query_threads,
            "temp_directory": str(Path(folder) / "spill"),
            "max_temp_directory_size": f"{settings.query_temp_megabytes}MB",
            "preserve_insertion_order": False,
        }
        connection = duckdb.connect(str(Path(folder) / "rows.duckdb"), config=config)
        try:
            connection.execute("BEGIN")
            yield Staging(connection, dataset, streams, channels)
        finally:
            connection.close()


def sampled_mask(offsets: Int64s, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which offsets belong to a sample of this share: the same for rows and messages, without a pattern."""
    if share >= 1:
        return np.ones(len(offsets), dtype=bool)
    mixed = (offsets.view(np.uint64) ^ np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    chosen: npt.NDArray[np.bool_] = mixed < np.uint64(share * 2**64)
    return chosen


def _temporary_folder(home: Path) -> "tempfile.TemporaryDirectory[str]":
    try:
        home.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix="verify-", dir=home)
    except OSError as error:
        raise ConfigurationError(
            f"K2_HOME was {str(home)!r}: {error}", advice="valid: a folder that you may write to"
        ) from error
