"""What installation compiles is what a batch needs: nothing is compiled in the middle of a drain."""

import subprocess
import sys

# In a process of its own: other tests call the passes with whatever comes to their mind.
SCRIPT = """
import gc
from numba.core.dispatcher import Dispatcher
from k2_dagster.ingest import warm
from tests.ingest.test_batch import TOPIC, judge_of
from tests.ingest.helpers import Sent, avro, profile, raw_batch
from k2_dagster.schemas.datasets import WIRE_DATASETS

def compiled():
    found = (one for one in gc.get_objects() if isinstance(one, Dispatcher))
    return {
        f"{one.py_func.__module__}.{one.py_func.__name__}": set(one.signatures)
        for one in found
        if one.py_func.__module__.startswith("k2_dagster.ingest")
    }

warm.load_kernels()
before = compiled()

ticks, book = (WIRE_DATASETS[name] for name in ("ticks", "book"))
numbers = (1, 2, 9, 9, 5, 4)
good = [avro(ticks, sequence=at, publisher_sequence=at, publisher_session="p", symbol="AB"[at % 2]) for at in numbers]
others = [avro(ticks, sequence=20), avro(ticks, sequence=21, price=0), b"garbage", None]
levels = [{"price": 1, "size": 2, "orders": None}]
updates = [avro(book, sequence=at, previous_sequence=at - 2, bids=levels) for at in numbers]
for dataset, values in (("ticks", good[:1]), ("ticks", good), ("ticks", good + others), ("book", updates)):
    sent = [Sent(value, at % 2, at // 2) for at, value in enumerate(values)]
    assert judge_of(dataset).judge(raw_batch(TOPIC.name, sent), {0: 0, 1: 0}).counts["consumed"] == len(sent)
for values in (good[:1], good, good + others):
    sent = [Sent(value, at % 2, at // 2) for at, value in enumerate(values)]
    outcome = judge_of("ticks", under=profile(ticks="channel")).judge(raw_batch(TOPIC.name, sent), {0: 0, 1: 0})
    assert outcome.counts["consumed"] == len(sent)
late = {name: sorted(map(str, found - before[name])) for name, found in compiled().items() if found != before[name]}
assert not late, late
"""


def test_a_batch_needs_nothing_that_installation_did_not_compile() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
