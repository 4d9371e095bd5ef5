"""Failures that still stand, whatever was checked after them.

Dagster shows as the state of an asset's check its newest evaluation, of whichever partition: a check that passes for
one exchange would hide what fails for another. What K2 makes of it: **a check of an asset passes when it passes in
every partition that was checked, and else shows the worst that stands**, an error before a warning. So whoever logs
evaluations logs the worst failure of another partition again, if nothing as bad was found just now.

Which failures stand is kept in Dagster's storage, beside what it is about. An entry is believed only after a look at
the partition's newest evaluation.
"""

import json
from collections.abc import Iterable, Mapping

import dagster as dg
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from k2_dagster.assets.check_findings import ERROR, WARN

_KEY = "k2/standing/"
# How bad it is: the rank of what passed, and of each severity of what did not.
PASSED = 0
RANKS = {WARN: 1, ERROR: 2}

# By check, then by partition key: the severity of the failure.
Failures = dict[str, dict[str, str]]


def standing(instance: dg.DagsterInstance, dataset: str) -> Failures:
    """The failures noted for a table."""
    key = _KEY + dataset
    stored = instance.daemon_cursor_storage.get_cursor_values({key}).get(key)
    found: Failures = json.loads(stored) if stored else {}
    return found


def note(instance: dg.DagsterInstance, dataset: str, outcomes: Iterable[tuple[str, str, str | None]]) -> Failures:
    """Note (check, partition key, severity, or None for passed) and return what stands now. Call it as the only one
    who does (`mirror.reporter`)."""
    before = standing(instance, dataset)
    after: Failures = {check: dict(of_check) for check, of_check in before.items()}
    for check, partition, severity in outcomes:
        of_check = after.setdefault(check, {})
        of_check.pop(partition, None)
        if severity is not None:
            of_check[partition] = severity
    if after != before:
        instance.daemon_cursor_storage.set_cursor_values({_KEY + dataset: json.dumps(after)})
    return after


def worst_elsewhere(failures: Mapping[str, str], checked: Iterable[str], worse_than: int) -> list[str]:
    """Partitions with a failure that is worse than what was found in those just checked, the worst and newest first."""
    others = {key: RANKS[severity] for key, severity in failures.items() if key not in set(checked)}
    worse = [key for key, rank in others.items() if rank > worse_than]
    return sorted(worse, key=lambda key: (others[key], key), reverse=True)


def newest_failure(
    instance: dg.DagsterInstance, dataset: str, check: str, partition: str
) -> AssetCheckExecutionRecord | None:
    """The partition's newest evaluation of a check, with its run, if it is a failure."""
    key = dg.AssetCheckKey(dg.AssetKey(dataset), check)
    of_partition = PartitionKeyFilter(key=partition)
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key([key], of_partition).get(key)
    return found if found is not None and _failed(found) else None


def _failed(record: AssetCheckExecutionRecord) -> bool:
    evaluation = record.evaluation
    # of a run that is still to evaluate it, there is only a plan
    return isinstance(evaluation, dg.AssetCheckEvaluation) and not evaluation.passed
