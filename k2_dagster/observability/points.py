"""Named points of the dangerous sequences, where the chaos proof may stop the process.

Nothing happens at a point unless `arm` was called in this process. Points are listed here, so that a proof can
enumerate them and a test can check that each is reached.
"""

from collections.abc import Callable

POINTS = (
    "batch.consumed",
    "state.written",
    "files.written",
    "commit.before",
    "commit.landed",
    "settle.before",
    "settle.after",
    "expiry.before",
)
# Those of recovery, which a drain does not pass.
RECOVERY_POINTS = (
    "recovery.asked",
    "recovery.fetched",
    "recovery.published",
    "recovery.recorded",
)
# Those of telling people.
ALERT_POINTS = (
    "alerts.grouped",
    "alerts.sent",
)

_action: Callable[[str], None] | None = None


def arm(action: Callable[[str], None] | None) -> None:
    """Call `action` with the point's name whenever one is reached; None disarms."""
    global _action
    _action = action


def reached(point: str) -> None:
    """Mark a point. Costs one comparison when nothing is armed."""
    if _action is not None:
        _action(point)
