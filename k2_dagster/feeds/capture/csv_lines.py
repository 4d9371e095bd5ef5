"""CSV lines without quoting, to text columns."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.errors import CaptureInvalid


def fields_of(lines: Sequence[bytes], count: int) -> list[pa.StringArray]:
    """The `count` fields of each line, by column. Raises CaptureInvalid when a line has another number of fields, and
    as Arrow does when one is not UTF-8."""
    text = pa.array(lines, pa.binary()).cast(pa.string())
    split = pc.split_pattern(text, ",")
    if not pc.all(pc.equal(pc.list_value_length(split), count)).as_py():
        raise CaptureInvalid(f"the line does not have {count} fields", advice="the first line says which", fields=count)
    flat = split.flatten()
    return [flat.take(pa.array(np.arange(place, len(flat), count))) for place in range(count)]
