"""The captures, at a small size."""

from pathlib import Path

import pytest

from k2_dagster.devstack.stack import Stack
from proofs import captures
from tests.proofs.support import Holds

pytestmark = pytest.mark.stack


@pytest.mark.captures
def test_captures(stack: Stack, tmp_path: Path, sample_data: Path, holds: Holds) -> None:
    chosen = ("Coinbase", "Kraken Futures", "twins trade", "twins difference_depth")
    line = holds(captures.run(stack, tmp_path, sample_data, chosen))
    assert line["defects_found"] == {"day": 1, "duplicate": 2, "gap": 2, "times": 2, "rule": 1}


def test_captures_that_are_not_there_are_skipped(stack: Stack, tmp_path: Path, holds: Holds) -> None:
    line = holds(captures.run(stack, tmp_path, tmp_path / "none"))
    assert line["skipped"] is True
