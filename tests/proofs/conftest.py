"""A file for each proof, so that the workers of a test run share them out."""

import json

import pytest

from proofs.common import Proof, conclude
from tests.proofs.support import Holds


@pytest.fixture
def holds(capsys: pytest.CaptureFixture[str]) -> Holds:
    """Asserts that a proof holds, and that its line says so."""

    def assert_holds(proof: Proof) -> dict[str, object]:
        status = conclude(proof)
        line: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert line["findings"] == []
        assert (status, line["holds"], line["proof"]) == (0, True, proof.proof)
        return line

    return assert_holds
