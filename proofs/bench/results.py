"""What a measure says: one JSON object per line of `build/bench.jsonl`, and a table for people."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

RESULTS = Path("build/bench.jsonl")
PACKAGES = ("confluent-kafka", "pyarrow", "pyiceberg", "pyruhvro", "polars", "pandera", "numba", "numpy", "duckdb")


@dataclass(frozen=True)
class Measure:
    """One figure. `against` names what `ratio` divides it by; both are null where it stands alone.

    `goal` is the least ratio that the project promises of it, or the most value, as `goal_text` says.
    """

    measure: str
    value: float
    unit: str
    against: str | None = None
    ratio: float | None = None
    goal_text: str = ""
    holds: bool | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)


def conditions(**own: Any) -> dict[str, Any]:
    """Machine, versions, commit and date, and what the measure adds."""
    return {
        **own,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "memory_gigabytes": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def save(measures: Sequence[Measure], path: Path = RESULTS) -> None:
    """Append one line per measure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        for one in measures:
            out.write(json.dumps(asdict(one), ensure_ascii=False, default=str) + "\n")


def show(measures: Sequence[Measure], console: Console) -> None:
    """A line per measure."""
    table = Table("measure", "value", "unit", "ratio", "against", "goal", "", box=None, header_style="bold")
    for one in measures:
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        verdict = "" if one.holds is None else ("holds" if one.holds else "falls short")
        table.add_row(one.measure, _shown(one.value), one.unit, ratio, one.against or "", one.goal_text, verdict)
    console.print(table)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, range and the values themselves, for conditions."""
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
        "rounds": [round(one, 3) for one in values],
    }


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"


def _commit() -> str:
    """The checkout's commit; with + where files differ from it. Empty outside a checkout."""
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()
