"""How a gap goes from one state to the next: a table, and nothing else.

    open        reported; nobody has asked for the numbers
    requested   the numbers have been asked for again
    filled      all of them have come
    expired     asked for, and given up
    accepted    a person goes on without them, with a reason

Coming wins over asking and giving up: whatever comes late fills its gap. What a person has accepted stays accepted.
"""

from collections.abc import Mapping
from typing import Literal, get_args

GapState = Literal["open", "requested", "filled", "expired", "accepted"]
# An attempt begins with `request`, and ends with `recover` (everything was published), `fail` (asking again may help)
# or `refuse` (it cannot). How an attempt ended changes no state: only what lands does.
GapEvent = Literal["fill", "request", "recover", "fail", "refuse", "expire", "accept"]

GAP_STATES: tuple[GapState, ...] = get_args(GapState)
# States in which numbers are missing, and somebody should care.
MISSING_STATES: tuple[GapState, ...] = ("open", "requested", "expired")

# What is not here changes nothing. `fill` is the last of the numbers.
_NEXT: Mapping[tuple[GapState, GapEvent], GapState] = {
    ("open", "fill"): "filled",
    ("open", "request"): "requested",
    ("open", "accept"): "accepted",
    ("requested", "fill"): "filled",
    ("requested", "expire"): "expired",
    ("requested", "accept"): "accepted",
    ("expired", "fill"): "filled",
    ("expired", "request"): "requested",
    ("expired", "accept"): "accepted",
}


def next_state(state: GapState, event: GapEvent) -> GapState:
    """The state after the event; the same where the event says nothing to it."""
    return _NEXT.get((state, event), state)
