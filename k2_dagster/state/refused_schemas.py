"""Schema ids that an operator has refused: the registry does not know them, and nobody will register them.

Messages that name one go to quarantine instead of holding their partition for ever.
"""

import hashlib

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.state.database import Database
from k2_dagster.state.tables import refused_schemas

# 64 bits tell two sets apart.
DIGEST_CHARACTERS = 16


def refuse_schema(database: Database, schema_id: int, *, accepted_by: str, reason: str) -> None:
    """Put the refusal on record. The first record stays."""
    row = {"schema_id": schema_id, "accepted_by": accepted_by, "reason": reason}
    with database.begin() as connection:
        connection.execute(insert(refused_schemas).values(**row).on_conflict_do_nothing())


def refused_schema_ids(database: Database) -> frozenset[int]:
    """Every refused id."""
    with database.begin() as connection:
        return frozenset(connection.execute(select(refused_schemas.c.schema_id)).scalars())


def refusals_digest(schema_ids: frozenset[int]) -> str:
    """Tells two sets of refused ids apart; empty for none."""
    if not schema_ids:
        return ""
    return hashlib.sha256(" ".join(map(str, sorted(schema_ids))).encode()).hexdigest()[:DIGEST_CHARACTERS]
