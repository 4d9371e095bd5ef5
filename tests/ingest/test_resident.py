"""What a draining process gives back, and that it works on without it."""

import subprocess
import sys

import pytest

from k2_dagster.ingest.resident import Mapping, code_of

SMAPS = """\
7f0000000000-7f0000002000 r-xp 00001000 08:01 11 /site/llvmlite/binding/libllvmlite.so
Rss:                   8 kB
Private_Dirty:         0 kB
7f0000002000-7f0000003000 r--p 00003000 08:01 11 /site/llvmlite/binding/libllvmlite.so
Private_Dirty:         4 kB
7f0000003000-7f0000004000 rw-p 00004000 08:01 11 /site/llvmlite/binding/libllvmlite.so
Private_Dirty:         0 kB
7f0000004000-7f0000005000 r--p 00000000 08:01 12 /a folder/_polars_runtime.abi3.so
Private_Dirty:         0 kB
7f0000005000-7f0000006000 r-xp 00000000 08:01 13 /site/pyarrow/libarrow.so
Private_Dirty:         0 kB
7f0000006000-7f0000007000 r-xp 00000000 00:00 0
Private_Dirty:         0 kB
"""


def test_what_was_written_to_is_not_given_back() -> None:
    """Its pages are not the file's any more: relocations, variables."""
    found = code_of(SMAPS.splitlines(), ("libllvmlite", "_polars_runtime"))
    assert found == [Mapping(0x7F0000000000, 0x7F0000002000), Mapping(0x7F0000004000, 0x7F0000005000)]


# In a process of its own: how memory is allocated is the process's.
SCRIPT = """
import threading
from pathlib import Path
import psutil
from k2_dagster.ingest import resident, warm

def megabytes_of_files():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) / 1024

resident.prepare()
resident.allocate_for(1, 320_000)
warm.load_kernels()
before = megabytes_of_files()
resident.give_back_code()
after = megabytes_of_files()
assert after < before - 30, (before, after)
warm.load_kernels()
resident.give_back()
resident.allocate_for(10_000_000, 320_000)

from tests.ingest.test_batch import TOPIC, judge_of
from tests.ingest.helpers import Sent, avro, raw_batch
from k2_dagster.schemas.datasets import WIRE_DATASETS
sent = [Sent(avro(WIRE_DATASETS["ticks"], sequence=at, price=at), 0, at) for at in range(3)]
for _ in range(2):
    outcome = judge_of("ticks").judge(raw_batch(TOPIC.name, sent), {0: 0})
    assert (outcome.counts["rows"], outcome.counts["quarantined"]) == (2, 1), outcome.counts
    resident.give_back_code()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_code_that_was_given_back_is_found_again() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
