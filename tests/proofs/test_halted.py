"""From the halt to the green check, at a small size."""

from pathlib import Path

import pytest

from k2_dagster.devstack.stack import Stack
from proofs import halted
from tests.proofs.support import Holds

pytestmark = pytest.mark.stack


@pytest.mark.timeout(600)
def test_halted(stack: Stack, tmp_path: Path, holds: Holds) -> None:
    """An incident counts as resolved after a second in place of a minute."""
    line = holds(halted.run(stack, tmp_path, hold_seconds=1.0))
    assert (line["recovered"], line["rows"]) == (halted.MISSING, halted.NEWEST + halted.OTHER_NEWEST)
    assert line["asked_of_the_venue"]
