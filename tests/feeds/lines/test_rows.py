import pyarrow as pa

from k2_dagster.feeds.channels import Grace, judge
from k2_dagster.feeds.lines.arbitration import Delivery
from k2_dagster.feeds.lines.rows import Origin, block_of
from k2_dagster.feeds.mold.messages import decode_messages
from tests.feeds.lines.exchange import all_messages, parameters, profiles_of_lines

ORIGIN = Origin("x", "1", "trade")
MESSAGES = all_messages(profiles_of_lines("x"), parameters("x", seconds=0.1, rate=1_000.0))
SECOND = 1_000_000_000


def test_deliveries_become_rows_of_their_numbers_and_times() -> None:
    deliveries = [
        Delivery(5, "S", "A", 1_000, tuple(MESSAGES[4:20])),
        Delivery(21, "S", "A", 2_000),
        Delivery(1, "T", "B", 3_000, tuple(MESSAGES[:10])),
    ]
    block = block_of(ORIGIN, deliveries, 1_780_000_000 * SECOND, 100)
    assert (block.first, block.inputs, block.refusals) == (100, 27, [])
    found = {
        order: row
        for rows in block.rows.values()
        for order, row in zip(rows.orders.tolist(), rows.batch.to_pylist(), strict=True)
    }
    assert sorted(found) == [order for order in range(100, 127) if order != 116]
    assert [(found[order]["session"], found[order]["sequence"]) for order in (100, 115, 117, 126)] == [
        ("S", 5), ("S", 20), ("T", 1), ("T", 10),
    ]  # fmt: skip
    micros = {
        order: round(row["receive_timestamp"].timestamp() * 1e6) - 1_780_000_000_000_000 for order, row in found.items()
    }
    assert (micros[100], micros[117]) == (1, 3)
    assert {row["exchange"] for row in found.values()} == {"x"}


def test_arrivals_are_what_the_channel_carried() -> None:
    deliveries = [Delivery(5, "S", "A", 1_000, (MESSAGES[4], b"\xff", MESSAGES[6])), Delivery(9, "S", "A", 2_000)]
    block = block_of(ORIGIN, deliveries, 1_780_000_000 * SECOND, 0)
    assert block.arrivals is not None
    arrived = block.arrivals.batch
    assert arrived.column("sequence").to_pylist() == [5, 6, 7, None]
    assert arrived.column("previous_sequence").to_pylist() == [None, None, None, 8]
    venue = decode_messages([MESSAGES[4]]).rows
    (rows,) = (batch for _, batch in venue.values())
    times = arrived.column("exchange_timestamp")
    assert times[0].cast(pa.int64()).as_py() == rows.column("exchange_timestamp")[0].cast(pa.int64()).as_py()
    assert arrived.column("exchange_timestamp_source").to_pylist() == [None, "receiver", None, "receiver"]
    (refusal,) = block.refusals
    assert (refusal.order, refusal.place, refusal.raw, refusal.identity.sequence) == (1, 6, b"\xff", 6)
    # A message that cannot be read has come: it is no gap. The one that was announced has not
    _, events = judge({}, arrived, Grace(0, 0.0))
    assert [(event.kind, event.first, event.last) for event in events] == [("session", 5, None)]
    state, _ = judge({}, arrived, Grace(100, 100.0))
    assert [(hole.first, hole.last) for hole in state["channel", "1"].holes] == [(8, 8)]
