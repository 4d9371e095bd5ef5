"""What must be reported of planted faults, and what K2 did report, in one form."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from k2_dagster.errors import SchemaUnknown
from k2_dagster.feeds.simulator.venue import CHANNELS, channel_name
from k2_dagster.kafka.registry import Registry
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import Domain, ExchangeProfile
from k2_dagster.schemas.topics import topic_name
from proofs.accounting import offset_of, partition_of, read_topic, table_rows
from proofs.common import Lake
from proofs.oracle import Oracle, frame_id

Line = dict[str, Any]
Tally = Counter[tuple[Any, ...]]
_SPOILED = ("corrupt", "out_of_range", "jump", "duplicate")


@dataclass
class Reported:
    """Multisets: gaps by (dataset, numbering, session, symbol, first, last, level, state); late rows by dataset;
    quarantined messages by (dataset, symbol, reason or damage, publisher's number); channel gaps by (channel, session,
    first, last); sessions by (stream, channel, session); schema versions by dataset."""

    gaps: Tally = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    quarantined: Tally = field(default_factory=Counter)
    channel_gaps: Tally = field(default_factory=Counter)
    sessions: Tally = field(default_factory=Counter)
    schema_versions: Counter[str] = field(default_factory=Counter)


def expected(truth: list[Line], profile: ExchangeProfile, publisher_session: str) -> Reported:
    """What the ground truth says must be reported, by rules of its own."""
    out = Reported()
    for line in truth:
        domain, kind, messages = Domain(line["domain"]), line["type"], line["messages"]
        if kind in ("drop", "lose", "late") and domain.judged_by_ingest:
            out.gaps[_venue_gap(line, domain, profile)] += 1
        if kind == "lose":
            out.gaps.update(_publisher_gaps(line, profile, publisher_session))
        if kind in ("drop", "late") and domain is Domain.CHANNEL:
            out.channel_gaps[line["channel"], line["session"], line["first_sequence"], line["last_sequence"]] += 1
        if domain.judged_by_ingest and kind in ("late", "reorder"):
            out.late[line["dataset"]] += len(messages) - (kind == "reorder")
        if kind in _SPOILED:
            out.quarantined.update(_quarantined(line))
        if kind == "session_reset":
            # In the channel domain each channel begins anew
            named = [channel_name(line["stream"], place) for place in range(CHANNELS)]
            channels: list[str | None] = [*named] if domain is Domain.CHANNEL else [None]
            out.sessions.update((line["stream"], channel, line["session"]) for channel in channels)
        if kind == "schema_change":
            out.schema_versions[line["dataset"]] += 1
    return out


def _venue_gap(line: Line, domain: Domain, profile: ExchangeProfile) -> tuple[Any, ...]:
    first, last = line["first_sequence"], line["last_sequence"]
    # of a linked stream it is only known that at least one message is missing
    level = _level(1 if domain is Domain.LINKED else last - first + 1, profile)
    state = "filled" if line["type"] == "late" else "open"
    return line["dataset"], "venue", line["session"], line["symbol"], first, last, level, state


def _publisher_gaps(line: Line, profile: ExchangeProfile, session: str) -> Tally:
    out: Tally = Counter()
    for symbol in {one["symbol"] for one in line["messages"]}:
        numbers = [one["publisher_sequence"] for one in line["messages"] if one["symbol"] == symbol]
        first, last = min(numbers), max(numbers)
        level = _level(last - first + 1, profile)
        out[line["dataset"], "publisher", session, symbol, first, last, level, "open"] += 1
    return out


def _level(missing: int, profile: ExchangeProfile) -> str:
    if missing < profile.gap_page_at:
        return "warn"
    return "page" if missing <= profile.gap_halt_above else "halt"


def _quarantined(line: Line) -> Tally:
    """Damaged bytes tell no number, and a number that is damaged tells nothing; the others are known by theirs."""
    if line["type"] == "jump":
        return Counter((line["dataset"], one["symbol"], "sequence_jump", None) for one in line["messages"])
    if line["type"] == "corrupt":
        return Counter((line["dataset"], one["symbol"], one["damage"], None) for one in line["messages"])
    reason = "duplicate" if line["type"] == "duplicate" else "rule_violated"
    return Counter((line["dataset"], one["symbol"], reason, one["publisher_sequence"]) for one in line["messages"])


# What each damage must be called. Kinds that share a reason are told apart by the bytes.
_DAMAGE_REASONS = {
    "truncated": ("undecodable", "trailing_bytes"),
    "flipped": ("undecodable", "trailing_bytes"),
    # a dataset whose own fields are all optional can be read with another one's schema, up to the bytes
    "foreign_schema": ("schema_not_for_topic", "undecodable", "trailing_bytes"),
    "unframed": ("not_framed",),
}


def reported_quarantine(lake: Lake, exchange: str, truth: list[Line]) -> Tally:
    """Quarantined messages in the form of `expected`: a refusal counts as a planted damage that allows its reason."""
    names = ("topic", "kafka_partition", "kafka_offset", "dataset", "symbol", "reason")
    table = table_rows(lake, "quarantine", exchange, names)
    rows = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    # reasons that only one damage allows take theirs first
    rows.sort(key=lambda row: sum(row[-1] in allowed for allowed in _DAMAGE_REASONS.values()))
    numbers = _publisher_numbers(lake, exchange, {(topic, part, at) for topic, part, at, *_ in rows})
    planted: dict[tuple[str, str], list[str]] = {}
    for line in truth:
        for one in line["messages"] if line["type"] == "corrupt" else ():
            planted.setdefault((line["dataset"], one["symbol"]), []).append(one["damage"])
    out: Tally = Counter()
    for topic, partition, offset, dataset, symbol, reason in rows:
        if reason in ("duplicate", "rule_violated"):
            out[dataset, symbol, reason, numbers.get((topic, partition, offset))] += 1
            continue
        left = planted.get((dataset, symbol), [])
        damage = next((one for one in left if reason in _DAMAGE_REASONS[one]), None)
        if damage is not None:
            left.remove(damage)
        out[dataset, symbol, damage or reason, None] += 1
    return out


def _publisher_numbers(lake: Lake, exchange: str, wanted: set[tuple[str, int, int]]) -> dict[tuple[str, int, int], int]:
    """Publisher numbers of messages that can be read, from their bytes in Kafka."""
    values: dict[tuple[str, int, int], tuple[str, bytes | None]] = {}
    for dataset in lake.profiles.exchange(exchange).datasets:
        topic = topic_name(dataset, exchange)
        for message in read_topic(lake.settings, topic):
            place = topic, partition_of(message), offset_of(message)
            if place in wanted:
                value = message.value()
                values[place] = dataset, value if isinstance(value, bytes) else None
    oracle = _oracle(lake, [value for _, value in values.values()])
    decoded = {place: oracle.decode(WIRE_DATASETS[dataset], value) for place, (dataset, value) in values.items()}
    return {place: row["publisher_sequence"] for place, row in decoded.items() if row is not None}


def _oracle(lake: Lake, values: list[bytes | None]) -> Oracle:
    registry, schemas = Registry(lake.settings), {}
    for schema_id in {frame_id(value) for value in values}:
        if schema_id is not None:
            try:
                schemas[schema_id] = registry.schema(schema_id)
            except SchemaUnknown:
                continue
    registry.close()
    return Oracle(schemas)


def reported_sessions(lake: Lake, exchange: str) -> dict[str, Counter[Any]]:
    """What the feed handler told on the control topic, and the rows' schema versions, beyond the first of each."""
    names = ("stream", "kind", "channel", "session", "first_sequence", "last_sequence")
    control = table_rows(lake, "control", exchange, names).to_pylist()
    channel_gaps = [one for one in control if one["kind"] == "gap"]
    sessions = [(one["stream"], one["channel"], one["session"]) for one in control if one["kind"] == "session"]
    versions: Counter[str] = Counter()
    for dataset in ("ticks", "quotes", "book"):
        versions[dataset] = len(table_rows(lake, dataset, exchange, ("schema_id",))["schema_id"].unique()) - 1
    return {
        "channel_gaps": Counter(
            (one["channel"], one["session"], one["first_sequence"], one["last_sequence"]) for one in channel_gaps
        ),
        # every stream starts with a session of its own, which nobody planted
        "sessions": Counter(one for one in sessions if not one[2].endswith(".1")),
        "schema_versions": +versions,
    }
