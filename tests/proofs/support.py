"""What the tests of the proofs share."""

from collections.abc import Callable

from proofs.common import Proof

Holds = Callable[[Proof], dict[str, object]]
"""Asserts that a proof holds and that its line says so; returns the line."""
