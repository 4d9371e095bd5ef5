"""Runs of Dagster that end early, at a small size."""

from pathlib import Path

import pytest

from k2_dagster.devstack.stack import Stack
from proofs import dagster_endings
from tests.proofs.support import Holds

pytestmark = pytest.mark.stack


@pytest.mark.timeout(600)
def test_dagster_endings(stack: Stack, tmp_path: Path, holds: Holds) -> None:
    """One of each that ends a run; how daemons end is in tests/test_jobs.py."""
    proof = dagster_endings.run(stack, tmp_path, terminations=1, others=1, seed=11, compare_mirror=False)
    line = holds(proof)
    assert line["ways"] == {"terminate": 1, "kill worker": 1}
    assert line["ended"] == {"CANCELED": 1, "FAILURE": 1}
