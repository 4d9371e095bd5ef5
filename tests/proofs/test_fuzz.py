"""The fuzz, at a small size."""

from pathlib import Path

import pytest

from k2_dagster.devstack.stack import Stack
from proofs import fuzz
from tests.proofs.support import Holds

pytestmark = pytest.mark.stack


def test_fuzz(stack: Stack, tmp_path: Path, holds: Holds) -> None:
    line = holds(fuzz.run(stack, tmp_path, messages=1_500, seed=11))
    assert line["rows"]
    assert line["quarantined"]
    assert line["held_at_unknown_id"]
