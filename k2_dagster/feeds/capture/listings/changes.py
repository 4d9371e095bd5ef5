"""What of a venue's list is news, given what was published of it before. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.listings.listing import BadItem, Definition, Listing

# A list with fewer than this share of what is known is cut short rather than true: no venue withdraws half of its
# symbols in a day.
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Known:
    """What was published so far, by symbol; `refused` are the bytes of items that could not be read."""

    definitions: Mapping[str, Definition] = field(default_factory=dict)
    refused: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be published: `defined` are new or changed, `withdrawn` are as they were last."""

    defined: Sequence[Definition]
    withdrawn: Sequence[Definition]
    refused: Sequence[BadItem]

    @property
    def any(self) -> bool:
        """Whether there is anything."""
        return bool(self.defined or self.withdrawn or self.refused)


def changes(known: Known, listing: Listing) -> tuple[Known, Changes]:
    """What to publish of a list, and what is known then. A symbol whose item could not be read is not withdrawn.

    Raises CaptureInvalid when the list is much shorter than what is known.
    """
    told = {**listing.definitions}
    unread = {one.symbol for one in listing.refused}
    kept = {symbol for symbol in known.definitions if symbol in told or symbol in unread}
    if len(kept) < LEAST_SHARE * len(known.definitions):
        raise CaptureInvalid(
            f"the list has {len(told)} of the {len(known.definitions)} instruments that are known: it is cut short",
            advice="ask again later",
        )
    defined = [one for symbol, one in told.items() if known.definitions.get(symbol) != one]
    withdrawn = [one for symbol, one in known.definitions.items() if symbol not in kept]
    refused = [one for one in listing.refused if one.raw not in known.refused]
    remaining = {symbol: one for symbol, one in known.definitions.items() if symbol in kept}
    after = Known({**remaining, **told}, frozenset(one.raw for one in listing.refused))
    return after, Changes(defined, withdrawn, refused)
