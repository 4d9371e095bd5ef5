"""Rows of the ledger in a form that can be compared, and the proof's own table of what becomes of a gap."""

from collections import Counter
from typing import Any

Row = tuple[tuple[str, Any], ...]
Ledger = dict[str, Counter[Row]]
# What people say of a gap, and its state then; anything else changes nothing.
NEXT_STATES = {
    ("open", "request"): "requested",
    ("requested", "expire"): "expired",
    ("expired", "request"): "requested",
    **{(state, "accept"): "accepted" for state in ("open", "requested", "expired")},
}


def row(**values: Any) -> Row:
    """A row, whatever the order of its columns."""
    return tuple(sorted(values.items()))
