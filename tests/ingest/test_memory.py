"""What is done about memory before the first drain is done once."""

import subprocess
import sys

SCRIPT = """
import gc
from k2_dagster.ingest.memory import settle_memory

settle_memory()
frozen = gc.get_freeze_count()
assert frozen > 0
later = [[] for _ in range(1000)]
settle_memory()
assert gc.get_freeze_count() <= frozen, "what was made after the first drain is looked at"
"""


def test_the_second_time_nothing_is_done() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
