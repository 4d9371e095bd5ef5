"""Faults of the simulator against the reported ground truth, at a small size."""

from pathlib import Path

import pytest

from k2_dagster.devstack.stack import Stack
from proofs import injected
from tests.proofs.support import Holds

pytestmark = pytest.mark.stack


def test_injected_faults(stack: Stack, tmp_path: Path, holds: Holds) -> None:
    line = holds(injected.run(stack, tmp_path, seeds=1, first_seed=11, seconds=60.0))
    assert line["reported_gaps"]
    assert line["reported_late"]
