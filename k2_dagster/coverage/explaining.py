"""One gap in words: what is missing, between what, what was tried, what to do. Pure."""

from collections.abc import Mapping
from typing import Any

from k2_dagster.schemas.topics import topic_name

_WHOSE = {
    "venue": "the venue's numbers of the symbol",
    "publisher": "the publisher's numbers of the symbol: lost between the feed handler and the table",
    "channel": "the venue's numbers of a channel, as the feed handler saw them",
}
_LEVELS = {
    "warn": "below the threshold that pages",
    "page": "pages whoever is on call",
    "halt": "critical: above the profile's gap_halt_above",
}


def explained(gap: Mapping[str, Any]) -> dict[str, str]:
    """Headings and their text, in the order to read them. `gap` is a row of `k2.gaps` with its `events`."""
    return {
        "gap": f"{gap['id']}, {gap['state']}, level {gap['level']} ({_LEVELS.get(gap['level'], '')})",
        "missing": _missing(gap),
        "judged by": _WHOSE.get(gap["numbering"], gap["numbering"]),
        "between": _between(gap),
        "seen": _seen(gap),
        "came since": f"{gap['filled']:,} came late, {gap['quarantined']:,} are in quarantine",
        "tried": "; ".join(_event(one) for one in gap["events"]) or "nothing is on record",
        "what to do": what_to_do(gap),
    }


def what_to_do(gap: Mapping[str, Any]) -> str:
    """Advice for the state that it is in."""
    chosen = f"--dataset {gap['dataset']} --exchange {gap['exchange']}"
    if gap["state"] == "filled":
        return "nothing: every number has come"
    if gap["state"] == "accepted":
        return "nothing: somebody has decided to go on without them"
    if gap["cause"] == "quarantined":
        return (
            f"what did not come is in quarantine: `k2 quarantine list {chosen}` says why; mend it, then "
            f"`k2 quarantine reprocess {chosen}`"
        )
    if gap["state"] == "requested":
        return _while_requested(gap)
    if gap["numbering"] == "publisher":
        return "find out why the publisher lost them (its log, Kafka's); what it publishes again fills the gap"
    told = "the request was given up; " if gap["state"] == "expired" else ""
    return (
        f"{told}`k2 gaps request {gap['id']}` asks the venue for them, where the profile says what gives them again; a "
        "capture that has them fills the gap too (`k2 play`); `k2 gaps accept` goes on without them"
    )


def _while_requested(gap: Mapping[str, Any]) -> str:
    last = gap["events"][-1]["event"] if gap["events"] else "request"
    if last == "fail":
        return "wait: the last attempt failed, and it is tried again by itself (`k2 recover` must run)"
    if last == "recover":
        return "wait: everything was published again; what lands fills the gap by itself"
    return "wait: the numbers have been asked for (`k2 recover` must run); what comes fills the gap by itself"


def _missing(gap: Mapping[str, Any]) -> str:
    first, last, missing = gap["first_sequence"], gap["last_sequence"], gap["missing"]
    numbers = f"number {first}" if first == last else f"numbers {first} to {last}"
    count = "1 message" if missing == 1 else f"{missing:,} messages"
    if missing != last - first + 1:
        count = "at least 1 message"
    named = [("stream", gap["stream"]), ("kind", gap["kind"]), ("channel", gap["channel"]), ("session", gap["session"])]
    where = ", ".join(f"{name} {value}" for name, value in named if value)
    of = "the whole channel" if gap["numbering"] == "channel" else gap["symbol"]
    return f"{count} of {of} ({numbers}) in {gap['exchange']}/{gap['dataset']}" + (f", {where}" if where else "")


def _between(gap: Mapping[str, Any]) -> str:
    before = f"number {gap['first_sequence'] - 1} at {_time(gap['from_time'])}"
    after = f"number {gap['last_sequence'] + 1} at {_time(gap['to_time'])}"
    if gap["numbering"] == "channel":
        return f"before {_time(gap['to_time'])}, when the feed handler gave them up"
    return f"{before} and {after}, by the venue's clock"


def _seen(gap: Mapping[str, Any]) -> str:
    place = f"{topic_name(gap['dataset'], gap['exchange'])} partition {gap['kafka_partition']}"
    opened = f"offset {gap['opened_offset']} of {place} showed the hole"
    if gap["opened_offset"] == gap["reported_offset"]:
        return f"offset {gap['opened_offset']} of {place} reported it at {_time(gap['seen_at'])}"
    return f"{opened}; the grace was over at offset {gap['reported_offset']}, {_time(gap['seen_at'])}"


def _event(event: Mapping[str, Any]) -> str:
    note = f": {event['note']}" if event["note"] else ""
    attempt = "" if event["attempt"] is None else f" (attempt {event['attempt']})"
    due = "" if event["due"] is None else f"; not again before {_time(event['due'])}"
    return f"{_time(event['at'])} {event['event']}{attempt} by {event['by']}{note}{due}"


def _time(value: Any) -> str:
    return "a time that is not known" if value is None else str(value.isoformat(timespec="microseconds"))
