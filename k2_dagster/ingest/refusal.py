"""A message that is not a row."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Its place in the raw batch, the reason code (schemas/quarantine.py) and what was found."""

    row: int
    reason: str
    detail: str
