"""Schema ids that an operator has refused: the registry does not know them, and nobody will register them.

Messages that name one go to quarantine instead of holding their partition for ever. A refusal can be withdrawn; both
stay on record.
"""

import hashlib
import threading
import time

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.state.database import Database
from k2_dagster.state.tables import refused_schemas

# 64 bits tell two sets apart.
DIGEST_CHARACTERS = 16
# How soon a refusal, or its withdrawal, reaches streams that are being drained.
REFRESH_SECONDS = 5.0


def refuse_schema(database: Database, schema_id: int, *, accepted_by: str, reason: str) -> None:
    """Put the refusal on record. The first record stays, until it is withdrawn."""
    row = {"accepted_by": accepted_by, "reason": reason}
    withdrawn = {"withdrawn_at": None, "withdrawn_by": None, "withdrawn_reason": None}
    fresh = insert(refused_schemas).values(schema_id=schema_id, **row)
    with database.begin() as connection:
        connection.execute(
            fresh.on_conflict_do_update(
                index_elements=["schema_id"],
                set_={**row, **withdrawn, "accepted_at": func.now()},
                where=refused_schemas.c.withdrawn_at.is_not(None),
            )
        )


def withdraw_refusal(database: Database, schema_id: int, *, withdrawn_by: str, reason: str) -> bool:
    """Accept messages of the id again. Returns whether it was refused."""
    query = update(refused_schemas).where(
        refused_schemas.c.schema_id == schema_id, refused_schemas.c.withdrawn_at.is_(None)
    )
    values = {"withdrawn_at": func.now(), "withdrawn_by": withdrawn_by, "withdrawn_reason": reason}
    with database.begin() as connection:
        return bool(connection.execute(query.values(**values)).rowcount)


def refused_schema_ids(database: Database) -> frozenset[int]:
    """Every refused id."""
    query = select(refused_schemas.c.schema_id).where(refused_schemas.c.withdrawn_at.is_(None))
    with database.begin() as connection:
        return frozenset(connection.execute(query).scalars())


def refusals_digest(schema_ids: frozenset[int]) -> str:
    """Tells two sets of refused ids apart; empty for none."""
    if not schema_ids:
        return ""
    return hashlib.sha256(" ".join(map(str, sorted(schema_ids))).encode()).hexdigest()[:DIGEST_CHARACTERS]


class RefusedSchemas:
    """The refused ids as they were at most REFRESH_SECONDS ago. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._ids: frozenset[int] = frozenset()
        self._read_at: float | None = None

    def are(self, schema_ids: frozenset[int]) -> bool:
        """Whether these are the refused ids. Raises DatabaseUnavailable, NotInitialized."""
        with self._lock:
            old = self._read_at is None or time.monotonic() - self._read_at > REFRESH_SECONDS
            # whoever has others may have read them later than we
            if old or self._ids != schema_ids:
                self._ids = refused_schema_ids(self._database)
                self._read_at = time.monotonic()
            return self._ids == schema_ids
