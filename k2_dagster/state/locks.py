"""One committer per table at a time: a PostgreSQL advisory lock that ends with its transaction.

The lock makes waiting fair and cheap. Correctness does not rest on it: a commit on a head that moved is refused by the
catalog, so a lock lost with its connection lets nobody land twice.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from k2_dagster.state.database import Database

# Commits take tens of milliseconds; a holder that takes this long is stuck and its waiters should say so.
LOCK_TIMEOUT_SECONDS = 20


def lock_key(name: str) -> int:
    """Signed 64-bit key of a lock name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


@contextmanager
def table_lock(database: Database, table_name: str) -> Iterator[None]:
    """Hold the commit lock of a table. Raises DatabaseUnavailable when it cannot be had in LOCK_TIMEOUT_SECONDS."""
    with database.begin() as connection:
        connection.execute(text(f"set local lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": lock_key(f"k2:commit:{table_name}")})
        yield
