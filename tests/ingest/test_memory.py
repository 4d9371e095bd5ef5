"""What a process has loaded is put aside a few times, and never again."""

import subprocess
import sys

import pytest

from k2_dagster.ingest.memory import SWITCH_SECONDS, switching_often

SCRIPT = """
import gc
from k2_dagster.ingest.memory import SETTLED_TIMES, Collector

collector = Collector()
kept = []
for _ in range(SETTLED_TIMES):
    kept.append([[] for _ in range(1000)])
    before = gc.get_freeze_count()
    collector.collect()
    assert gc.get_freeze_count() >= before + 1000
frozen = gc.get_freeze_count()
kept.append([[] for _ in range(1000)])
collector.collect()
assert gc.get_freeze_count() <= frozen, "what was made later is looked at"
"""


def test_what_comes_later_is_looked_at() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_turns_are_short_for_the_time_of_a_drain() -> None:
    before = sys.getswitchinterval()
    with switching_often():
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    assert sys.getswitchinterval() == before
