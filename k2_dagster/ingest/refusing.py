"""Good messages that their numbers send to quarantine."""

import numpy as np

from k2_dagster.ingest import kernel
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.ingest.tracker import Input, Verdicts

JUMP_REASON = "sequence_jump"
_SAID = (
    (kernel.DUPLICATE, "duplicate", "the identity has landed before"),
    (kernel.HORIZON, "identity_horizon", "its number is older than what is remembered of its session"),
)


def refused_by_number(rows: Input, verdicts: Verdicts) -> list[Refusal]:
    """Duplicates, what is beyond the horizon, and numbers that are too far ahead to be believed."""
    out, good = [], rows.flag == kernel.GOOD
    for verdict, reason, detail in _SAID:
        at = np.flatnonzero(good & (verdicts.verdict == verdict)).tolist()
        out += [Refusal(row, reason, detail) for row in at]
    return out + [Refusal(row, JUMP_REASON, jump.detail) for row, jump in verdicts.jumps.items()]
