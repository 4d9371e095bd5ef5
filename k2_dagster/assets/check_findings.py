"""From the facts of a partition to the outcome of each check. Pure: what passes, how bad it is, and what to show."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from k2_dagster.assets.check_facts import PartitionFacts, Repeats
from k2_dagster.schemas.datasets import TABLES
from k2_dagster.schemas.quarantine import QUARANTINE, REASONS
from k2_dagster.state.gap_states import MISSING_STATES

# Beyond the freshness target, a drain run needs its start (2 s) and its first commit; twice the target is late, ten
# times is an outage.
LATE_TARGETS = 2.0
STALE_TARGETS = 10.0
# Gap rows listed with a failed check.
GAPS_SHOWN = 20

WARN, ERROR = "WARN", "ERROR"
LEVELS = ("warn", "page", "halt")


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check. `metadata` has numbers and JSON-able lists; `severity` counts only when it failed."""

    check: str
    passed: bool
    summary: str
    severity: str = ERROR
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckRule:
    """A check: its line in the UI, how it judges, and which tables it is asked of (`data` or `quarantine`)."""

    description: str
    judge: Callable[[PartitionFacts, float], Finding]
    tables: frozenset[str] = frozenset({"data", "quarantine"})


def rules_for(dataset: str) -> dict[str, CheckRule]:
    """The checks of a table, by name."""
    kind = "quarantine" if TABLES[dataset] is QUARANTINE else "data"
    return {name: rule for name, rule in CHECKS.items() if kind in rule.tables}


def judge(facts: PartitionFacts, freshness_target_seconds: float) -> list[Finding]:
    """Every check of the partition's table."""
    return [rule.judge(facts, freshness_target_seconds) for rule in rules_for(facts.dataset).values()]


def _sequence_gaps(facts: PartitionFacts, _: float) -> Finding:
    """By the ledger alone: what came late or was accepted is no finding any more, whatever the rows look like."""
    unexplained = [one for one in facts.gaps if one["state"] in MISSING_STATES and one["cause"] != "quarantined"]
    messages = sum(max(0, int(one["missing"]) - int(one["filled"]) - int(one["quarantined"])) for one in unexplained)
    levels = {level: sum(one["level"] == level for one in unexplained) for level in LEVELS}
    metadata: dict[str, Any] = {
        "gaps": len(unexplained),
        "messages_missing": messages,
        **{f"gaps_{level}": count for level, count in levels.items()},
        "gaps_filled": sum(one["state"] == "filled" for one in facts.gaps),
    }
    if facts.gaps:
        metadata["by_level_and_state"] = _by_level_and_state(facts.gaps)
    if unexplained:
        metadata["ranges"] = [{name: one[name] for name in _GAP_COLUMNS} for one in unexplained[:GAPS_SHOWN]]
    severity = ERROR if levels["page"] or levels["halt"] else WARN
    total = len(unexplained)
    text = "no sequence gaps" if not total else f"{total} sequence gaps, {messages} messages missing"
    return Finding("sequence_gaps", not total, text, severity, metadata)


def _by_level_and_state(gaps: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How many of each, those that are in quarantine under a state of their own."""
    out: dict[str, dict[str, int]] = {}
    for gap in gaps:
        missing = gap["state"] in MISSING_STATES
        state = "quarantined" if missing and gap["cause"] == "quarantined" else str(gap["state"])
        of_level = out.setdefault(str(gap["level"]), {})
        of_level[state] = of_level.get(state, 0) + 1
    return out


_GAP_COLUMNS = (
    *("id", "numbering", "stream", "kind", "symbol", "channel", "session", "first_sequence", "last_sequence"),
    *("missing", "filled", "level", "state", "kafka_partition", "reported_offset"),
)


def _accounting(facts: PartitionFacts, _: float) -> Finding:
    said, there = facts.commits.rows, facts.rows
    metadata: dict[str, Any] = {
        "rows_in_table": there,
        "rows_in_commits": said,
        "difference": there - said,
        "commits": facts.commits.commits,
        "unbalanced_ranges": len(facts.commits.broken),
    }
    if facts.commits.broken:
        metadata["unbalanced"] = list(facts.commits.broken[:GAPS_SHOWN])
    passed = said == there and not facts.commits.broken
    text = f"{there} rows, as the commits say" if passed else f"{there} rows in the table, {said} in the commits"
    if facts.commits.broken:
        text += f"; {len(facts.commits.broken)} ranges where consumed differs from rows + quarantined"
    return Finding("accounting", passed, text, ERROR, metadata)


def _unique_identity(facts: PartitionFacts, _: float) -> Finding:
    offsets, identities = facts.repeated_offsets, facts.repeated_identities
    metadata = {"repeated_offsets": offsets.rows, "repeated_identities": identities.rows}
    passed = not offsets.rows and not identities.rows
    text = "every row is there once"
    if not passed:
        text = f"{offsets.rows} rows repeat a Kafka offset, {identities.rows} repeat an identity"
    return Finding("unique_identity", passed, text, ERROR, metadata | _examples(offsets, identities))


def _symbol_order(facts: PartitionFacts, _: float) -> Finding:
    metadata = {"out_of_order": facts.backwards.rows, "split_symbols": facts.split_symbols.rows}
    passed = not facts.backwards.rows and not facts.split_symbols.rows
    text = "each symbol in its publisher's order"
    if not passed:
        text = (
            f"{facts.backwards.rows} messages reached Kafka behind a later one of their symbol, "
            f"{facts.split_symbols.rows} symbols on more than one Kafka partition"
        )
    severity = ERROR if facts.split_symbols.rows else WARN
    return Finding("symbol_order", passed, text, severity, metadata | _examples(facts.backwards, facts.split_symbols))


def _times(facts: PartitionFacts, _: float) -> Finding:
    skewed, against = facts.skewed, facts.against_sequence
    metadata = {"beyond_bounds": skewed.rows, "against_sequence": against.rows}
    passed = not skewed.rows and not against.rows
    text = "times agree with the receiver's clock and with the numbers"
    if not passed:
        text = (
            f"{skewed.rows} rows were received too long before or after they happened, "
            f"{against.rows} happened before one with a lower number"
        )
    return Finding("times", passed, text, WARN, metadata | _examples(skewed, against))


def _freshness(facts: PartitionFacts, target_seconds: float) -> Finding:
    found = facts.freshness
    if not found.judged:
        return Finding("freshness", True, "closed day: nothing is expected any more")
    if found.error:
        return Finding("freshness", False, f"cannot be told: {found.error}", WARN, {"lag_messages": found.lag_messages})
    age = 0.0 if found.oldest is None else max(0.0, (datetime.now(UTC) - found.oldest).total_seconds())
    metadata: dict[str, Any] = {
        "lag_messages": found.lag_messages,
        "oldest_unlanded_seconds": round(age, 3),
        "target_seconds": target_seconds,
    }
    if found.oldest is not None:
        metadata["oldest_unlanded"] = found.oldest.isoformat()
    passed = age <= LATE_TARGETS * target_seconds
    text = f"{found.lag_messages} messages wait, the oldest for {age:.1f} s"
    severity = ERROR if age > STALE_TARGETS * target_seconds else WARN
    return Finding("freshness", passed, text, severity, metadata)


def _schema(facts: PartitionFacts, _: float) -> Finding:
    differences = list(facts.schema_differences)
    text = "as declared" if not differences else f"{len(differences)} differences from the declaration"
    metadata: dict[str, Any] = {"differences": len(differences)}
    if differences:
        metadata["columns"] = differences
    return Finding("schema", not differences, text, ERROR, metadata)


def _rules(facts: PartitionFacts, _: float) -> Finding:
    broken = {name: count for name, count in sorted(facts.commits.rules.items()) if count}
    refused = sum(facts.commits.reasons.get(name, 0) for name in _RULE_REASONS)
    text = "no row broke a rule" if not refused else f"{refused} messages broke a rule and went to quarantine"
    metadata = {"refused": refused, **{f"rule_{name}": count for name, count in broken.items()}}
    return Finding("rules", not refused, text, WARN, metadata)


# Refusals for what a message says; the others are for what it is (bytes, schema) or for being there already.
_RULE_REASONS = (
    "rule_violated",
    "missing_field",
    "not_exact",
    "wrong_exchange",
    "stream_unknown",
    "outside_partitions",
)


def _reasons(facts: PartitionFacts, _: float) -> Finding:
    unknown = sorted(set(facts.reasons) - set(REASONS))
    damage = sum(count for reason, count in facts.reasons.items() if reason != "duplicate")
    text = f"{damage} refused messages besides duplicates" if damage else "nothing but duplicates"
    if unknown:
        text += f"; reasons that no code declares: {', '.join(unknown)}"
    metadata = {"refused": damage, **{f"reason_{name}": count for name, count in sorted(facts.reasons.items())}}
    return Finding("reasons", not damage and not unknown, text, ERROR if unknown else WARN, metadata)


def _examples(*repeats: Repeats) -> dict[str, Any]:
    shown = [dict(one) for repeat in repeats for one in repeat.examples]
    return {"examples": shown} if shown else {}


_DATA = frozenset({"data"})
CHECKS: dict[str, CheckRule] = {
    "sequence_gaps": CheckRule("Numbers that never came, by level: WARN below the page threshold, ERROR from it on.",
                               _sequence_gaps, _DATA),
    "accounting": CheckRule("Rows in the table equal those of the commits; every range adds up.", _accounting),
    "unique_identity": CheckRule("No Kafka offset and no identity is in the partition twice.", _unique_identity),
    "symbol_order": CheckRule("Each symbol on one Kafka partition, in its publisher's order.", _symbol_order, _DATA),
    "times": CheckRule("Exchange times within the profile's bounds of receive times, and in the order of the numbers.",
                       _times, _DATA),
    "freshness": CheckRule("Age of the oldest message that has not landed, by Kafka's clock.", _freshness, _DATA),
    "schema": CheckRule("Columns and partitioning of the table equal the declaration.", _schema),
    "rules": CheckRule("Messages of these commits that broke a declared rule, by rule.", _rules, _DATA),
    "reasons": CheckRule("Refused messages by reason; duplicates alone are no finding.", _reasons,
                         frozenset({"quarantine"})),
}  # fmt: skip
