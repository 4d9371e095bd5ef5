"""One committer per table at a time: a PostgreSQL advisory lock that ends with its transaction.

The lock makes waiting cheap. Correctness does not rest on it: a commit on a head that moved is refused by the catalog,
so a lock lost with its connection lets nobody land twice. It is taken by asking again, not by waiting in the server:
whoever waits can be stopped, and can say who keeps it waiting.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from k2_dagster.errors import DatabaseUnavailable
from k2_dagster.state.database import Database

# Commits take tens of milliseconds; a holder that takes this long is stuck and its waiters should say so.
LOCK_TIMEOUT_SECONDS = 20
# A fraction of a commit, for a query of a tenth of a millisecond.
LOCK_POLL_SECONDS = 0.01

_HOLDER = text("""
    select activity.application_name as name, activity.pid,
           extract(epoch from clock_timestamp() - activity.xact_start) as seconds
    from pg_locks held join pg_stat_activity activity using (pid)
    where held.locktype = 'advisory' and held.granted and held.objsubid = 1
      and held.database = (select oid from pg_database where datname = current_database())
      and (held.classid::bigint << 32) | held.objid::bigint = :key
""")


def lock_key(name: str) -> int:
    """Signed 64-bit key of a lock name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


@contextmanager
def table_lock(database: Database, table_name: str) -> Iterator[None]:
    """Hold the commit lock of a table.

    Raises DatabaseUnavailable that names lock and holder when it cannot be had in LOCK_TIMEOUT_SECONDS, or when the
    process is asked to stop before.
    """
    with database.begin() as connection:
        take_lock(database, connection, f"k2:commit:{table_name}")
        yield


def take_lock(database: Database, connection: Connection, name: str) -> None:
    """Take a lock until the end of the connection's transaction, waiting for it. Raises as `table_lock` does."""
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while not try_lock(connection, name):
        late = time.monotonic() > deadline
        if late or database.stop.wait(LOCK_POLL_SECONDS):
            raise _not_had(connection, name, late)


def try_lock(connection: Connection, name: str) -> bool:
    """Take a lock until the end of the transaction, if nobody has it."""
    return bool(connection.execute(text("select pg_try_advisory_xact_lock(:key)"), {"key": lock_key(name)}).scalar())


def _not_had(connection: Connection, name: str, late: bool) -> DatabaseUnavailable:
    found = connection.execute(_HOLDER, {"key": lock_key(name)}).one_or_none()
    holder = "nobody any more" if found is None else f"{found.name} (PostgreSQL process {found.pid})"
    since = "" if found is None or found.seconds is None else f", for {float(found.seconds):.0f} s"
    why = f"within {LOCK_TIMEOUT_SECONDS} s" if late else "before this process was asked to stop"
    return DatabaseUnavailable(
        f"lock {name} could not be had {why}: {holder} holds it{since}",
        advice="a commit takes well under a second: look at that process; `select pg_terminate_backend(...)` ends it",
        lock=name,
        holder=holder,
    )
