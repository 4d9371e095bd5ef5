"""The identity of a message (DESIGN D4), as SQL over its wire columns.

    rule 1   (stream, kind, session, symbol, sequence), where the venue's numbers identify: the dataset's first kind on
             streams of the domains dense, range and linked. On those of the domain range a message has every number
             from `low` on: one whose last number came in another is its duplicate
    rule 2   (publisher session, symbol, publisher sequence), else
    rule 3   besides, of messages with a number of a channel, the dataset's first kind on streams of the domain channel:
             (stream, kind, session, channel, symbol, sequence). A duplicate repeats one by either rule
    none     no publisher pair: the Kafka offset identifies, and there is no duplicate; but a reprocessed message is
             known by where it was refused first, which only its header says (`Staging.add_first_refused`)

A message that a feed handler refused is no record: the pair in its headers identifies it (`Staging.add_refused`).

`identity` is a hash, to find candidates; the columns of `COLUMNS` say whether two are the same.
"""

from k2_dagster.schemas.declaration import Dataset
from k2_dagster.schemas.profiles import Domain, ExchangeProfile

# Columns of a message that identities are made of.
SOURCES = (
    *("stream", "kind", "session", "channel", "symbol", "sequence", "previous_sequence"),
    *("publisher_session", "publisher_sequence"),
)
# Columns that an identity is written in: rule, up to four texts, symbol and number.
COLUMNS = ("rule", "first_text", "second_text", "third_text", "fourth_text", "symbol", "number")
DECLARATION = (
    "rule TINYINT, first_text VARCHAR, second_text VARCHAR, third_text VARCHAR, fourth_text VARCHAR, symbol VARCHAR, "
    "number BIGINT, low BIGINT, identity UBIGINT"
)


def venue_streams(dataset: Dataset, profile: ExchangeProfile | None) -> dict[str, bool]:
    """Streams whose messages are identified by the venue's numbers, and whether a message has a range of them."""
    streams = profile.streams if profile is not None else {}
    return {
        name: one.domain is Domain.RANGE
        for name, one in streams.items()
        if one.dataset == dataset.name and one.domain.judged_by_ingest
    }


def channel_streams(dataset: Dataset, profile: ExchangeProfile | None) -> list[str]:
    """Streams whose messages have numbers of a channel."""
    streams = profile.streams if profile is not None else {}
    return [name for name, one in streams.items() if one.dataset == dataset.name and one.domain is Domain.CHANNEL]


def in_channel(source: str, kept: str) -> str:
    """As `identified`, by rule 3 alone, of the rows that have such an identity.

    It reads the table `channel_streams (stream, kind)`.
    """
    return f"""
        SELECT *, hash({", ".join(COLUMNS)}) AS identity FROM (
            SELECT {kept}, 3::TINYINT AS rule, stream AS first_text, kind AS second_text, session AS third_text,
                   channel AS fourth_text, symbol, sequence AS number, NULL::BIGINT AS low
            FROM {source}
            WHERE sequence IS NOT NULL AND (stream, kind) IN (SELECT (stream, kind) FROM channel_streams)
        )"""


def identified(source: str, kept: str) -> str:
    """A query over `source` giving the columns `kept`, `COLUMNS`, `low` and `identity`, by rules 1 and 2.

    It reads the table `venue_streams (stream, kind, has_ranges)`: the pairs of rule 1.
    """
    return f"""
        SELECT *, CASE WHEN rule IS NOT NULL THEN hash({", ".join(COLUMNS)}) END AS identity FROM (
            SELECT {kept}, rule,
                   CASE rule WHEN 1 THEN stream WHEN 2 THEN publisher_session END AS first_text,
                   CASE rule WHEN 1 THEN kind END AS second_text,
                   CASE rule WHEN 1 THEN session END AS third_text,
                   NULL::VARCHAR AS fourth_text,
                   symbol,
                   CASE rule WHEN 1 THEN sequence WHEN 2 THEN publisher_sequence END AS number,
                   CASE WHEN rule = 1 AND stream IN (SELECT stream FROM venue_streams WHERE has_ranges)
                        THEN previous_sequence + 1 END AS low
            FROM (
                SELECT *, CASE
                    WHEN sequence IS NOT NULL AND (stream, kind) IN (SELECT (stream, kind) FROM venue_streams) THEN 1
                    WHEN publisher_session IS NOT NULL AND publisher_sequence IS NOT NULL THEN 2
                END AS rule FROM {source}
            )
        )"""
