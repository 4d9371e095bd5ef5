"""Numbers that are refused for being far beyond the last one (`kernel.JUMP`): which, and what is said of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from k2_dagster.ingest import kernel


@dataclass(frozen=True, slots=True)
class Jump:
    """The field whose number is doubted, the number, the last one before it, and how far beyond that is believed."""

    field: str
    value: int
    last: int
    bound: int

    @property
    def detail(self) -> str:
        """For a person."""
        return (
            f"{self.field} was {self.value}, {self.value - self.last} beyond the last one, {self.last}, and no other "
            f"confirmed it; believed at once: at most {self.bound} beyond (jump_above)"
        )


def returning(flags: npt.NDArray[np.int8], originals: Mapping[int, object]) -> npt.NDArray[np.int8]:
    """The flags, in which rows that come back from quarantine are told from others."""
    if not originals:
        return flags
    out, at = flags.copy(), np.array(sorted(originals), dtype=np.int64)
    for plain, back in ((kernel.GOOD, kernel.RETURNED), (kernel.REFUSED, kernel.RETURNED_REFUSED)):
        out[at[flags[at] == plain]] = back
    return out


def taking_part(flags: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """Which rows have numbers that are judged."""
    out: npt.NDArray[np.bool_] = (flags != kernel.UNREADABLE) & (flags != kernel.SKIPPED)
    return out
