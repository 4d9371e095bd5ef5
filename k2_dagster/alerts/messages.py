"""What a person is told of a transition: title and body, with where to look and what to do. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import quote

from k2_dagster.alerts.judge import Incident, Transition
from k2_dagster.alerts.signals import Severity
from k2_dagster.observability.masking import mask
from k2_dagster.settings import Settings

# Services cut or refuse long messages; the smallest limit of those in wide use is about this (Discord, Telegram).
TEXT_CHARACTERS = 1_200
# Of a group, the members that its message names, and what it says of each: a screen of a telephone.
MEMBERS_NAMED = 5
LINE_CHARACTERS = 160
PREFIXES: dict[Transition, str] = {
    "opened": "",
    "worsened": "Worse: ",
    "resolved": "Resolved: ",
    "acknowledged": "Acknowledged: ",
}


@dataclass(frozen=True, slots=True)
class Message:
    """One transition in words. `key` and `number` identify it: a second delivery carries the same."""

    key: str
    number: int
    transition: Transition
    severity: Severity
    title: str
    body: str

    @property
    def identity(self) -> str:
        """`KEY#NUMBER`, which the body carries too."""
        return identity(self.key, self.number)


@dataclass(frozen=True, slots=True)
class Links:
    """Where pages are: Dagster's web server (empty: no links to it) and the documentation."""

    dagster_url: str
    documentation_url: str

    def to_dagster(self, incident: Incident) -> str:
        """The run or partition in the UI; the overview of runs, sensors or daemons where there is neither."""
        base = self.dagster_url.rstrip("/")
        signal = incident.signal
        if not base:
            return ""
        if signal.asset and signal.partition:
            # of two dimensions, Dagster's keys have the one first whose name is first: day, exchange
            stored = "|".join(reversed(signal.partition.split("|")))
            return f"{base}/assets/{quote(signal.asset)}?view=partitions&partition={quote(stored)}"
        if signal.run_id:
            return f"{base}/runs/{quote(signal.run_id)}"
        pages = {"daemon": "deployment/daemons", "code-server": "deployment/locations", "sensor": "automation"}
        page = pages.get(incident.key.split("/")[0], "")
        return f"{base}/{page}" if page else ""

    def to_runbook(self, incident: Incident) -> str:
        """The runbook page."""
        return f"{self.documentation_url.rstrip('/')}/runbooks/{incident.signal.runbook}.md"


def links_of(settings: Settings) -> Links:
    """Where incidents link to, by the settings."""
    return Links(settings.dagster_url or "", settings.documentation_url)


def identity(key: str, number: int) -> str:
    """Names one transition for ever."""
    return f"{key}#{number}"


def message(incident: Incident, transition: Transition, links: Links, now: datetime, note: str = "") -> Message:
    """What is told of an incident that has just made this transition; `note` is added where a person had a
    part in it."""
    signal = incident.signal
    number = incident.transitions
    lines = [mask(signal.text)[:TEXT_CHARACTERS]]
    if transition == "resolved":
        lines = [
            f"It was: {lines[0]}",
            *([note] if note else []),
            f"Open from {_time(incident.opened_at)} to {_time(now)}.",
        ]
    elif transition == "acknowledged":
        lines = [note, f"It is: {lines[0]}"]
    else:
        lines += [f"What to do: {signal.what_to_do}", f"Runbook: {links.to_runbook(incident)}"]
    if link := links.to_dagster(incident):
        lines.append(f"Dagster: {link}")
    lines.append(f"Incident: {identity(incident.key, number)}")
    title = f"{PREFIXES[transition]}[{incident.severity}] {signal.title}"
    return Message(incident.key, number, transition, incident.severity, title, "\n".join(lines))


def together(told: Sequence[Message], kind: str, group: int) -> Message:
    """One message for several of a kind and transition (`told`, oldest first, at least two); `group` identifies it. It
    names the first few, and says of the first what to do."""
    first = told[0]
    named = [f"- {one.key}: {one.title}"[:LINE_CHARACTERS] for one in told[:MEMBERS_NAMED]]
    if len(told) > MEMBERS_NAMED:
        named.append(f"- and {len(told) - MEMBERS_NAMED} more: `k2 incidents list` shows those that are open")
    last = f"Incident: {first.identity} and {len(told) - 1} more (group {group})"
    lines = [f"{len(told)} incidents of {kind}, {first.transition}:", *named, "The first of them:"]
    body = "\n".join([*lines, *first.body.splitlines()[:-1], last])
    return replace(first, title=f"{first.title} (and {len(told) - 1} more of {kind})", body=body)


def _time(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")
