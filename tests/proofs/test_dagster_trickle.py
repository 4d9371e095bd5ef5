"""Dagster under a trickle, at a small size."""

from pathlib import Path

import pytest

from k2_dagster.devstack.stack import Stack
from proofs import dagster_trickle
from proofs.common import Proof
from tests.proofs.support import Holds

pytestmark = pytest.mark.stack


@pytest.mark.timeout(600)
def test_dagster_trickle(stack: Stack, tmp_path: Path, holds: Holds) -> None:
    """A target of some seconds in place of the minute that the promise is about."""
    proof = dagster_trickle.run(
        stack, tmp_path, exchanges=2, minutes=0.5, seed=11, compare_mirror=False, K2_FRESHNESS_TARGET_SECONDS="10"
    )
    line = holds(proof)
    assert isinstance(line["margin"], float)
    assert line["runs"]


def test_too_many_runs_are_a_finding() -> None:
    proof = Proof("dagster_trickle")
    made = [{"jobName": "drain", "status": "SUCCESS", "startTime": 1.0, "endTime": 2.5}] * 40
    dagster_trickle._judge(proof, made, 2.0)
    assert proof.findings == ["20.0 runs a minute, fewer than 20 were promised"]
    assert (proof.counts["margin"], proof.counts["run_seconds_median"]) == (0.0, 1.5)
