"""Messages that a feed handler refused: not decoded, but with an identity in their headers that can be judged.

They claim nothing and leave a hole that quarantine explains, like every refused message; but because the handler gave
them a publisher pair, the same one published again is known as a duplicate. They are few, so loops are fine.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from k2_dagster.ingest import kernel
from k2_dagster.ingest.columns import Codes
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.ingest.tracker import Input
from k2_dagster.kafka.batch import Headers
from k2_dagster.schemas.declaration import Dataset
from k2_dagster.schemas.profiles import Domain, ExchangeProfile
from k2_dagster.schemas.refused import Refused, VenueIdentity, read_refused

Int64s = npt.NDArray[np.int64]

REASON = "refused_by_feed"


def refused_by_feed(headers: Mapping[int, Headers]) -> dict[int, Refused]:
    """Row -> what its headers say, for the rows that a feed handler refused."""
    told = ((row, read_refused(found)) for row, found in headers.items())
    return {row: one for row, one in told if one is not None}


def as_refusals(refused: Mapping[int, Refused]) -> list[Refusal]:
    """As refusals of ingest."""
    return [Refusal(row, REASON, _detail(one)) for row, one in refused.items()]


def _detail(refused: Refused) -> str:
    kept = f"; kept whole at {refused.source}" if refused.left_out_bytes is not None and refused.source else ""
    return f"{refused.reason}{kept}"


def with_refused(rows: Input, refused: Mapping[int, Refused], dataset: Dataset, profile: ExchangeProfile) -> Input:
    """The judge's input with the identities of refused messages. What has no publisher pair stays unreadable."""
    known = [(row, one, one.publisher_sequence) for row, one in sorted(refused.items()) if one.publisher_session]
    told = [(row, one, number) for row, one, number in known if number is not None]
    if not told:
        return rows
    at = np.array([row for row, _, _ in told], dtype=np.int64)
    numbers = np.array([number for _, _, number in told], dtype=np.int64)
    out = replace(
        rows,
        flag=_with(rows.flag, at, kernel.REFUSED),
        has_publisher=_with(rows.has_publisher, at, True),
        publisher_sequence=_with(rows.publisher_sequence, at, numbers),
        stream=_with_texts(rows.stream, at, [one.identity.stream for _, one, _ in told]),
        kind=_with_texts(rows.kind, at, [one.identity.kind for _, one, _ in told]),
        session=_with_texts(rows.session, at, [one.identity.session for _, one, _ in told]),
        symbol=_with_texts(rows.symbol, at, [one.identity.symbol for _, one, _ in told]),
        publisher_session=_with_texts(rows.publisher_session, at, [one.publisher_session for _, one, _ in told]),
    )
    domains = [_domain(one.identity, dataset, profile) for _, one, _ in told]
    found = [_numbers(one.identity, domain) for (_, one, _), domain in zip(told, domains, strict=True)]
    by_venue = np.array([one is not None for one in found])
    # Its number is missing and nobody knows which: it may explain a hole of its symbol
    judged = np.array([domain is None or domain.judged_by_ingest for domain in domains])
    return replace(
        out,
        by_venue=_with(rows.by_venue, at, by_venue),
        sparse=_with(rows.sparse, at, np.array([domain is not None and domain.covers_many for domain in domains])),
        sequence=_with(rows.sequence, at, np.array([0 if one is None else one[0] for one in found])),
        previous=_with(rows.previous, at, np.array([0 if one is None else one[1] for one in found])),
        blind=_with(np.zeros(len(rows.flag), dtype=bool), at, judged & ~by_venue),
    )


def _with(column: Any, at: Int64s, values: Any) -> Any:
    changed = column.copy()
    changed[at] = values
    return changed


def _domain(identity: VenueIdentity, dataset: Dataset, profile: ExchangeProfile) -> Domain | None:
    """The domain of its stream; None when the stream is not known."""
    stream = None if identity.stream is None else profile.stream(dataset.name, identity.stream)
    if stream is None:
        return None
    # Only messages of the first kind have the stream's numbers
    return stream.domain if identity.kind in (None, dataset.kinds[0]) else Domain.NONE


def _numbers(identity: VenueIdentity, domain: Domain | None) -> tuple[int, int] | None:
    """Its number and the one before, where the venue's numbers are judged and it tells them."""
    if domain is None or not domain.judged_by_ingest or identity.sequence is None or identity.kind is None:
        return None
    previous = identity.sequence - 1 if domain is Domain.DENSE else identity.previous_sequence
    return None if previous is None or previous >= identity.sequence else (identity.sequence, previous)


def _with_texts(codes: Codes, at: Int64s, texts: list[str | None]) -> Codes:
    values, indices = list(codes.values), codes.indices.copy()
    places = {value: place for place, value in enumerate(values)}
    for row, text in zip(at.tolist(), texts, strict=True):
        if text not in places:
            places[text] = len(values)
            values.append(text)
        indices[row] = places[text]
    return Codes(indices, values)
