"""The checks of partitions, evaluated and logged; whoever asks: the job `check`, a run by hand, a refused one.

1. evaluate  each partition is read once; one that cannot be read keeps no other from its checks
2. report    (the job only) what was read, as a materialization: a partition is never shown without its checks
3. log       what passed first, then warnings, then errors: of a check, the asset shows the newest evaluation
4. stand     the worst failure of another partition again, where nothing as bad was found (see `standing.py`)

Steps 2 to 4 happen under the mirror's lock, so that two runs at once do not hide each other's failures.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import dagster as dg
from dagster_duckdb import DuckDBResource

from k2_dagster.assets.check_facts import PartitionFacts, gather
from k2_dagster.assets.check_findings import Finding, judge
from k2_dagster.assets.evaluations import carried_on, evaluation, newest_materialization
from k2_dagster.assets.landed import PartitionSize
from k2_dagster.assets.mirror import last_report, report, reporter
from k2_dagster.assets.partitions import Partition, parse_partition, partition_key
from k2_dagster.assets.standing import PASSED, RANKS, newest_failure, note, worst_elsewhere
from k2_dagster.errors import K2Error, TransientError
from k2_dagster.resources.platform import Platform

# Another check run holds the lock for as long as its events take (10 ms each): seconds.
LOCK_PATIENCE_SECONDS = 60.0

LogEvent = Callable[[dg.AssetCheckEvaluation], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """One partition with what was read and found."""

    partition: Partition
    facts: PartitionFacts
    found: Sequence[Finding]
    seconds: float

    @property
    def key(self) -> str:
        """Its key in Dagster."""
        return partition_key(*self.partition[1:])


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What was checked, and why the rest was not."""

    checked: list[Checked] = field(default_factory=list)
    errors: dict[Partition, K2Error] = field(default_factory=dict)


def evaluate(k2: Platform, duckdb: DuckDBResource, partitions: Iterable[Partition]) -> Evaluated:
    """Every check of the partitions, evaluated now. Never raises for a partition of ours (step 1)."""
    out = Evaluated()
    for partition in partitions:
        began = time.monotonic()
        try:
            parse_partition(k2.profiles, *partition[1:])
            facts = gather(k2, duckdb, *partition)
        except K2Error as error:
            out.errors[partition] = error
            continue
        found = judge(facts, k2.settings.freshness_target_seconds)
        out.checked.append(Checked(partition, facts, found, time.monotonic() - began))
    return out


def record(
    instance: dg.DagsterInstance,
    k2: Platform,
    log_event: LogEvent,
    checked: Sequence[Checked],
    *,
    only: Collection[str] | None = None,
    mirrored: bool = False,
) -> None:
    """Log the outcomes in a run (steps 2 to 4); of the checks named in `only`, or all. With `mirrored`, report what
    landed up to what was read, unless the partition was reported a moment ago.

    Raises TransientError when another process holds the mirror's lock for LOCK_PATIENCE_SECONDS.
    """
    with reporter(k2.database, LOCK_PATIENCE_SECONDS) as mine:
        if not mine:
            raise TransientError(
                f"another process has been reporting to Dagster for {LOCK_PATIENCE_SECONDS:.0f} s",
                advice="look for a check run or a daemon that hangs",
            )
        for one in checked if mirrored else ():  # Step 2
            if time.time() >= last_report(instance, one.partition).next_at:
                size = PartitionSize(one.facts.rows, one.facts.bytes, one.facts.files)
                report(instance, k2, one.partition, one.facts.commits.through, size, one.seconds)
        chosen = [(one, finding) for one in checked for finding in one.found if only is None or finding.check in only]
        targets = {one.partition: newest_materialization(instance, one.partition) for one, _ in chosen}
        url = k2.settings.documentation_url
        for one, finding in sorted(chosen, key=lambda pair: _rank(pair[1])):  # Step 3
            log_event(evaluation(one.partition, finding, targets[one.partition], url))
        for dataset in sorted({one.partition[0] for one, _ in chosen}):  # Step 4
            _stand(instance, log_event, dataset, [pair for pair in chosen if pair[0].partition[0] == dataset])


def _stand(
    instance: dg.DagsterInstance, log_event: LogEvent, dataset: str, logged: Sequence[tuple[Checked, Finding]]
) -> None:
    failures = note(instance, dataset, [(finding.check, one.key, _severity(finding)) for one, finding in logged])
    keys = {one.key for one, _ in logged}
    for check in sorted({finding.check for _, finding in logged}):
        worst_here = max(_rank(finding) for _, finding in logged if finding.check == check)
        for key in worst_elsewhere(failures[check], keys, worse_than=worst_here):
            record = newest_failure(instance, dataset, check, key)
            if record is None:
                # evaluated meanwhile by somebody who does not keep notes
                note(instance, dataset, [(check, key, None)])
                continue
            log_event(carried_on(instance, record))
            break


def _rank(finding: Finding) -> int:
    return PASSED if finding.passed else RANKS[finding.severity]


def _severity(finding: Finding) -> str | None:
    return None if finding.passed else finding.severity
