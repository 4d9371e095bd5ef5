"""What is wrong now, as the sources tell it: signals under incident keys, and what a source could not tell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["warning", "error", "critical"]
RANKS: dict[str, int] = {"warning": 1, "error": 2, "critical": 3}
"""How bad a severity is; more is worse."""

SOURCE_SCOPE = "source/"
"""Keys of incidents about the sources themselves."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing that is wrong. `run_id` and `partition` are where the UI shows it; `runbook` is the page's name."""

    severity: Severity
    title: str
    text: str
    what_to_do: str
    runbook: str
    run_id: str = ""
    asset: str = ""
    partition: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one source tells, at one look.

    `scopes` are the keys that it tells about, or their beginnings up to a slash: such a key without a signal is well.
    Except for those that `untold` covers in the same way: nothing is known of them, so nothing opens and nothing is
    resolved.
    """

    source: str
    scopes: Sequence[str]
    signals: Mapping[str, Signal] = field(default_factory=dict)
    untold: Sequence[str] = ()
    failure: str = ""

    def tells(self, key: str) -> bool:
        """Whether the source knows how it stands with this key."""
        return _covers(self.scopes, key) and not _covers(self.untold, key)


def _covers(keys: Iterable[str], key: str) -> bool:
    return any(key.startswith(one) if one.endswith("/") else key == one for one in keys)


def unreadable(source: str, scopes: Sequence[str], failure: str) -> Reading:
    """A source that could not be read: it tells nothing about any of its keys."""
    return Reading(source, scopes, untold=scopes, failure=failure)
