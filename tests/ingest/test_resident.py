"""What a draining process gives back, and that it works on without it."""

import subprocess
import sys

import pytest

from k2_dagster.ingest.resident import Mapping, code_of

OWN = "Rss: 8 kB\nPrivate_Dirty: 0 kB\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd ex\n"
COPIED, SWAPPED = OWN.replace("Anonymous: 0", "Anonymous: 4"), OWN.replace("Swap: 0", "Swap: 4")
SMAPS = f"""\
7f0000000000-7f0000002000 r-xp 00001000 08:01 11 /site/llvmlite/binding/libllvmlite.so
{OWN}7f0000002000-7f0000003000 r--p 00003000 08:01 11 /site/llvmlite/binding/libllvmlite.so
{COPIED}7f0000003000-7f0000004000 r--p 00003000 08:01 11 /site/llvmlite/libllvmlite.so
{SWAPPED}7f0000003000-7f0000004000 rw-p 00004000 08:01 11 /site/llvmlite/libllvmlite.so
{OWN}7f0000004000-7f0000005000 r--p 00000000 08:01 12 /a folder/_polars_runtime.abi3.so
{OWN}7f0000005000-7f0000006000 r-xp 00000000 08:01 13 /site/pyarrow/libarrow.so
{OWN}7f0000006000-7f0000007000 r-xp 00000000 00:00 0
{OWN}7f0000007000-7f0000008000 r-xp 00000000 08:01 12 /a folder/_polars_runtime.abi3.so
VmFlags: rd ex
"""


def test_what_is_not_the_files_own_is_not_given_back() -> None:
    """Relocations and variables are this process's; where the system does not say, none is given back."""
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
def judge_twice():
    for _ in range(2):
        outcome = judge_of("ticks").judge(raw_batch(TOPIC.name, sent), {0: 0})
        assert (outcome.counts["rows"], outcome.counts["quarantined"]) == (2, 1), outcome.counts
        resident.give_back_code()

%s
"""
ALONE = "judge_twice()"
# What the loader wrote to is shared with the parent then, and is still not the file's.
FORKED = """
import os
import polars as pl
resident._known.cache_clear()
child = os.fork()
if not child:
    resident.give_back_code()
    assert resident._now_and_then(), "found in the child"
    warm.load_kernels()
    pl.Series([2, 1]).sort().sum()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
@pytest.mark.parametrize("then", [ALONE, FORKED], ids=["alone", "forked"])
def test_code_that_was_given_back_is_found_again(then: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT % then], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
