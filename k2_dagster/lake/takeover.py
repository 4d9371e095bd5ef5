"""Whose rules a stream is judged by: told in the table, before a verdict of other rules may land (DESIGN D5, D13).

Two writers that judge alike cannot put one message into two places: the fence lets one of them land, and the other one
starts again. Two that judge by different rules could: one refuses a message that the other has landed, and quarantine
is another table. So whoever has other rules says so in both tables first, and what an older writer still has in hand
is refused like any other commit that the fence has passed.

1. lock      take the table's commit lock
2. reload    load the table as it is now
3. compare   the same rules: nothing to do. Newer ones in the table, or others of the same version: refused
4. tell      one property, no snapshot
"""

import logging
from dataclasses import replace

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from k2_dagster.errors import FenceMoved, RulesDiffer, TransientError
from k2_dagster.lake.catalog import load_table, translated_errors
from k2_dagster.lake.fence import Rules, read_fence, table_properties
from k2_dagster.state.database import Database
from k2_dagster.state.locks import table_lock

logger = logging.getLogger(__name__)

# Other engines may commit between reload and commit, and answers get lost, this often before we give up.
MAX_TRIES = 10


def take_over(catalog: Catalog, database: Database, table_name: str, stream: str, rules: Rules) -> Table:
    """Tell in the table that the stream is judged by these rules from now on. Returns the table as it is then.

    Raises RulesDiffer when it is judged by newer ones, or by others of the same version; FenceDisagrees, FenceMoved
    (lost one race after the other) and other transient errors.
    """
    table = load_table(catalog, table_name)
    if _is_ours(table, stream, rules):
        return table
    for _ in range(MAX_TRIES):
        with table_lock(database, table_name):  # Step 1
            table = load_table(catalog, table_name)  # Step 2
            if _is_ours(table, stream, rules):  # Step 3
                return table
            try:
                _tell(table, stream, rules)  # Step 4
            except (CommitFailedException, TransientError) as error:
                # another commit came first, or the answer was lost: the table says which
                logger.info("take-over not confirmed, looking again", extra={"table": table_name, "why": str(error)})
                continue
            logger.info("stream taken over", extra={"table": table_name, "stream": stream, "rules": rules.version})
            return table
    raise FenceMoved(f"{table_name}: {MAX_TRIES} take-overs in a row failed", advice="another engine is busy")


def _is_ours(table: Table, stream: str, rules: Rules) -> bool:
    found = read_fence(table.metadata).rules.get(stream)
    if found is None or found.version < rules.version:
        return False
    if found.version > rules.version:
        raise RulesDiffer(
            f"{stream} is judged by rules version {found.version}, this process has {rules.version}",
            advice="a newer writer has taken over: start this one again with the newer profiles and code",
            stream=stream,
        )
    if found.profile != rules.profile:
        raise RulesDiffer(
            f"{stream}: the profile says other things than the writer before, under the same rules version "
            f"{rules.version}",
            advice="when a change of the profiles alters verdicts, raise their `version`; or put them back",
            stream=stream,
        )
    return found == rules


def _tell(table: Table, stream: str, rules: Rules) -> None:
    fence = read_fence(table.metadata)
    with translated_errors(), table.transaction() as transaction:
        transaction.set_properties(table_properties(replace(fence, rules={**fence.rules, stream: rules})))
