"""One `k2 recover` for each exchange: it works under a lease, as `k2 ingest` does, so that a venue is asked once.

1. The lease is taken, or LeaseHeld names who has it.
2. A thread renews it. Who is cut off from the database for longer than the lease lives loses it to the next.
3. The worker looks before each request whether the lease is still its own, and ends when it is not.
4. It is given back at the end. After a kill the next one on the same machine takes it over at once, others once it is
   stale.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.holders import new_holder
from k2_dagster.state.leasing import leasing


@contextmanager
def recovery_lease(settings: Settings, exchange: str, stop: threading.Event) -> Iterator[Callable[[], None]]:
    """Hold the lease; what is given raises LeaseHeld once another process has taken it over.

    Raises LeaseHeld when another process holds it, DatabaseUnavailable, NotInitialized.
    """
    with (
        closing(Database(settings, stop)) as database,
        leasing(database, new_holder(), settings.lease_stale_seconds, "recovery") as leases,
    ):
        leases.acquire(exchange)
        taken: list[Exception] = []

        def may_go_on() -> None:
            taken.extend(leases.lost().values())
            if taken:
                raise taken[0]

        yield may_go_on
