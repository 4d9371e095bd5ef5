"""What proves a duplicate, and what two rows may not share, as SQL over the tables of a staging."""

from k2_dagster.verify.identity import COLUMNS

POSITION = "topic_epoch, kafka_partition, kafka_offset"
SAME = " AND ".join(f"a.{name} IS NOT DISTINCT FROM b.{name}" for name in ("identity", *COLUMNS))
_OF_KEY = " AND ".join(f"a.{name} IS NOT DISTINCT FROM b.{name}" for name in COLUMNS[:-1])
# A message has each number of its range.
WITHIN = f"b.low < b.number AND a.number BETWEEN b.low AND b.number AND {_OF_KEY}"
# Where identities of data rows are: by rules 1 and 2, by rule 3, and those outside the staged window.
_KNOWN = ("data", "numbers", "elsewhere")


def repeated(table: str) -> str:
    """A query for the identities that rows of several positions have: their offsets and how many rows are too many."""
    return f"""
        SELECT {", ".join(COLUMNS)}, list(DISTINCT kafka_offset ORDER BY kafka_offset) AS offsets,
               count(DISTINCT ({POSITION})) - 1 AS surplus
        FROM {table} WHERE identity IN (
            SELECT identity FROM {table} WHERE rule IS NOT NULL GROUP BY identity HAVING count(*) > 1
        ) GROUP BY {", ".join(COLUMNS)} HAVING surplus > 0"""


def unproven(all_read: bool) -> str:
    """A query for partition and offset of duplicates that nothing proves; see `Staging.unproven_claims`.

    A claim has a row for each identity of its message: one that a data row has is enough.
    """
    known = "SEMI JOIN returned USING (kafka_partition, place)" if all_read else ""
    by_number = " UNION ALL ".join(
        f"SELECT kafka_partition, kafka_offset FROM claims a WHERE rule IS NOT NULL "
        f"AND EXISTS (SELECT 1 FROM {table} b WHERE {SAME})"
        for table in _KNOWN
    )
    left = "ANTI JOIN proven USING (kafka_partition, kafka_offset)"
    return f"""
        WITH returned AS (
            SELECT kafka_partition, place FROM data JOIN first_refused USING ({POSITION}) WHERE rule IS NULL
        ), repeats AS (SELECT kafka_partition, kafka_offset FROM first_refused {known}), proven AS ({by_number})
        SELECT kafka_partition, kafka_offset FROM claims {left} ANTI JOIN repeats USING (kafka_partition, kafka_offset)
        WHERE rule IS NULL
        UNION
        SELECT kafka_partition, kafka_offset FROM (
            SELECT * FROM claims {left} WHERE rule IS NOT NULL
        ) a WHERE NOT EXISTS (SELECT 1 FROM data b WHERE {WITHIN})
            AND NOT EXISTS (SELECT 1 FROM elsewhere b WHERE {WITHIN})
        UNION ALL
        SELECT kafka_partition, kafka_offset FROM refused a WHERE duplicate AND NOT EXISTS (
            SELECT 1 FROM refused b WHERE NOT b.duplicate AND a.kafka_partition = b.kafka_partition
            AND a.publisher_session = b.publisher_session AND a.symbol IS NOT DISTINCT FROM b.symbol
            AND a.publisher_sequence = b.publisher_sequence
        )
        UNION ALL
        SELECT kafka_partition, kafka_offset FROM claims_by_offset c WHERE NOT EXISTS (
            SELECT 1 FROM data d WHERE d.topic_epoch = c.topic_epoch AND d.kafka_partition = c.kafka_partition
            AND d.kafka_offset = c.first_offset
        ) ORDER BY ALL"""
