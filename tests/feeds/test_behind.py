"""Which rows came behind the order of their channel: told by the handler, and said by a header of their own."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.feeds.capture.block import Block, Rows
from k2_dagster.feeds.capture.sending import BlockSender
from k2_dagster.feeds.channels import FeedState, Grace, behind, judge
from k2_dagster.feeds.handler import FeedHandler
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.control import CONTROL
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.schemas.ticks import TICKS

GRACE = Grace(2, 1_000.0)
# Channel, session, number, and whether the row only announces it.
Sent = tuple[str | None, str, int, bool]


def rows(sent: list[Sent]) -> pa.RecordBatch:
    told: list[dict[str, Any]] = [
        {
            "exchange": "sim_lines", "stream": "trade", "kind": "trade", "symbol": "A", "channel": channel,
            "session": session, "sequence": None if is_announced else number,
            "previous_sequence": number if is_announced else None, "exchange_timestamp": 1_000_000 * at,
            "price": 1, "size": 1, "conditions": [],
        }
        for at, (channel, session, number, is_announced) in enumerate(sent)
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(told, schema=wire_schema(TICKS))


def plain(sent: list[Sent]) -> list[bool]:
    """Row by row: not above everything of its channel and session, or of a session that was left."""
    now: dict[str, str] = {}
    left: set[tuple[str, str]] = set()
    highest: dict[tuple[str, str], int] = {}
    out = []
    for channel, session, number, is_announced in sent:
        if channel is None:
            out.append(False)
            continue
        name = (channel, session)
        if name in left:
            out.append(not is_announced)
            continue
        if now.get(channel, session) != session:
            left.add((channel, now[channel]))
        now[channel] = session
        out.append(not is_announced and number <= highest.get(name, -1))
        highest[name] = max(number, highest.get(name, -1))
    return out


SENT = st.tuples(st.sampled_from(("1", "1", "2", None)), st.sampled_from("ssst"), st.integers(0, 12), st.booleans())


@settings(max_examples=300, deadline=None)
@given(st.lists(SENT, min_size=1, max_size=30), st.sets(st.integers(1, 29)))
def test_any_split_agrees_with_looking_at_one_row_after_the_other(sent: list[Sent], cuts: set[int]) -> None:
    state: FeedState = {}
    found: list[bool] = []
    ends = [*sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    for start, end in zip([0, *ends], ends, strict=False):
        batch = rows(sent[start:end])
        found += behind(state, batch).tolist()
        state, _ = judge(state, batch, GRACE)
    assert found == plain(sent)


class Published:
    """Notes what a publisher is asked to publish."""

    def __init__(self) -> None:
        self.said: list[tuple[list[int], bool, list[str]]] = []

    def publish(self, dataset: str, batch: pa.RecordBatch, **told: Any) -> int:
        if dataset == "ticks":
            places = [told["kept_in"](row) for row in range(batch.num_rows)]
            self.said.append((batch.column("sequence").to_pylist(), told["is_behind"], places))
        return int(batch.num_rows)


@pytest.mark.parametrize("has_arrivals", [False, True])
def test_rows_behind_are_published_apart_and_in_their_place(has_arrivals: bool) -> None:
    published: Any = Published()
    sender = BlockSender(published, FeedHandler(published, load_profiles(), "sim_lines"), "run")
    numbers = [1, 2, 5, 3, 4, 6]
    batch = Rows(rows([("1", "s", one, False) for one in numbers]), np.arange(10, 16))
    sender.send(Block(10, 6, {"ticks": batch}, [], arrivals=_heard(batch) if has_arrivals else None))
    assert published.said == [
        ([1, 2, 5], False, ["run:10", "run:11", "run:12"]),
        ([3, 4], True, ["run:13", "run:14"]),
        ([6], False, ["run:15"]),
    ]


def _heard(found: Rows) -> Rows:
    """The same as everything that a channel carried, in control's form: rows that only count."""
    control = wire_schema(CONTROL)
    names = ("exchange", "stream", "symbol", "channel", "session", "sequence", "exchange_timestamp")
    columns = [
        found.batch.column(one.name) if one.name in names else pa.nulls(found.batch.num_rows, one.type)
        for one in control
    ]
    return Rows(pa.RecordBatch.from_arrays(columns, schema=_nullable(control)), found.orders)


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([one.with_nullable(True) for one in schema])
