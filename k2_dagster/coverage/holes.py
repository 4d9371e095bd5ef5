"""Which numbers of a gap have not come yet, out of the tracker's state of the settled head."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, select

from k2_dagster.state.tables import attempts, commits
from k2_dagster.state.tracked import KEY_PARTS, VENUE, numbering_tables, with_columns

Range = tuple[int, int]


def still_missing(connection: Connection, gap: Mapping[str, Any]) -> list[Range] | None:
    """Ranges of a gap (a row of `k2.gaps`, by the venue's numbers of a symbol) that nothing has filled, rising. None
    when the session's numbers are forgotten: what comes of it would not land any more. Raises like `Database.begin`."""
    query = (
        select(attempts.c.state)
        .join(commits, commits.c.id == attempts.c.id)
        .where(attempts.c.state.is_not(None))
        .where(attempts.c.exchange == gap["exchange"], attempts.c.dataset == gap["dataset"])
        .order_by(commits.c.position.desc())
        .limit(1)
    )
    state = connection.execute(query).scalar_one_or_none()
    return None if state is None else holes_of(numbering_tables(bytes(state))[VENUE], gap)


def holes_of(tables: Mapping[str, pa.Table], gap: Mapping[str, Any]) -> list[Range] | None:
    """The same out of the tables of a numbering. Pure."""
    keys, holes = tables["keys"], with_columns(tables["holes"], ("key", "first", "last"))
    named = {
        "partition": gap["kafka_partition"],
        **{name: gap[name] or None for name in ("stream", "kind", "session", "symbol")},
    }
    place = _place(keys, named)
    if place is None:
        return None
    firsts, lasts = holes["first"].to_numpy(), holes["last"].to_numpy()
    chosen = (holes["key"].to_numpy() == place) & (lasts >= gap["first_sequence"]) & (firsts <= gap["last_sequence"])
    low = np.maximum(firsts[chosen], gap["first_sequence"]).tolist()
    high = np.minimum(lasts[chosen], gap["last_sequence"]).tolist()
    return sorted(zip(low, high, strict=True))


def _place(keys: pa.Table, named: Mapping[str, Any]) -> int | None:
    if "part_0" not in keys.column_names:  # nothing was numbered yet
        return None
    matching = np.ones(len(keys), dtype=bool)
    for at, name in enumerate(KEY_PARTS[VENUE]):
        column, wanted = keys[f"part_{at}"], named[name]
        equal = column.is_null() if wanted is None else pc.equal(column, wanted).fill_null(False)
        matching &= equal.to_numpy(zero_copy_only=False) if isinstance(equal, pa.Array) else equal.to_numpy()
    found = np.flatnonzero(matching)
    return int(found[0]) if len(found) else None
