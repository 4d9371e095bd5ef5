"""Several commits of one stream as one: ranges, counts, digests and days added up. Pure.

The last of them lends its id, stamp, snapshot and position, so the moment that it names stays a moment that was: after
it, all of the merged ranges had landed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

DIGEST_MODULUS = 2**64
_SUMMED = ("consumed", "rows", "quarantined")
_DIGESTS = ("digest", "quarantine_digest")
# The one count that is no sum.
_NEWEST = "newest_kafka_timestamp_ms"


def merged_commits(commits: Sequence[Mapping[str, Any]], *, tile: bool) -> dict[str, Any]:
    """What one commit says instead of these of a stream, oldest first.

    `tile`: ranges of the table's commits follow each other without a hole, so only neighbours become one and a jump
    (an accepted loss, another epoch) stays visible. Those of quarantine do not tile, and become their hull.
    """
    seconds = [float(one["commit_seconds"]) for one in commits if one["commit_seconds"] is not None]
    return {
        "id": commits[-1]["id"],
        "ranges": merged_ranges([one for commit in commits for one in commit["ranges"]], tile=tile),
        "counts": _added([commit["counts"] for commit in commits]),
        "days": _added([commit["days"] for commit in commits]),
        "schema_ids": sorted({number for commit in commits for number in commit["schema_ids"]}),
        "commit_seconds": max(seconds, default=None),
    }


def merged_ranges(ranges: Sequence[Mapping[str, Any]], *, tile: bool) -> list[dict[str, Any]]:
    """Ranges in the order of their commits; those of one partition and epoch become one, or neighbours do."""
    out: list[dict[str, Any]] = []
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in ranges:
        place = tuple(one[name] for name in ("topic", "topic_id", "topic_epoch", "partition"))
        known = newest.get(place)
        if known is None or (tile and known["end"] != one["start"]):
            newest[place] = dict(one)
            out.append(newest[place])
            continue
        known["start"], known["end"] = min(known["start"], one["start"]), max(known["end"], one["end"])
        for name in _SUMMED:
            known[name] += one[name]
        for name in _DIGESTS:
            known[name] = f"{(int(known[name], 16) + int(one[name], 16)) % DIGEST_MODULUS:016x}"
    return out


def _added(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for one in counts:
        for name, value in one.items():
            if isinstance(value, Mapping):
                out[name] = _added([out.get(name, {}), value])
            elif name == _NEWEST:
                out[name] = max(out.get(name, 0), value)
            else:
                out[name] = out.get(name, 0) + value
    return out
