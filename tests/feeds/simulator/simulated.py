"""Feeds of exchanges that only these tests know, taken apart into plain rows."""

from typing import Any

import pyarrow as pa

from k2_dagster.feeds.simulator.faults import FaultPlan, parse_fault
from k2_dagster.feeds.simulator.feed import Block, FeedParameters, SimulatedFeed
from k2_dagster.schemas.profiles import ExchangeProfile, Profiles, StreamProfile

START_MICROS = 1_780_000_000_000_000
RATE = 1000.0
# The columns that tests look at: turning all of them into Python objects takes most of the time.
TOLD = (
    "symbol", "session", "channel", "sequence", "previous_sequence", "publisher_sequence", "exchange_timestamp",
    "exchange_timestamp_nanos", "receive_timestamp", "price", "size", "side", "bid_price", "bid_size", "ask_price",
    "ask_size", "action", "bids", "asks",
)  # fmt: skip


def profiles_with(**domains: str) -> Profiles:
    """Profiles of one exchange `sim` with a stream per dataset: `profiles_with(ticks="dense")`."""
    streams = {
        f"{dataset}_stream": StreamProfile.model_validate({"dataset": dataset, "domain": domain})
        for dataset, domain in domains.items()
    }
    exchange = ExchangeProfile.model_validate(
        {
            "title": "Test",
            "asset_class": "crypto",
            "calendar": "24/7",
            "timezone": "UTC",
            "entitlement_class": "test",
            "partitions": 2,
            "on_critical_gap": "mark_stale",
            "streams": streams,
            "gap_grace_messages": 5,
        }
    )
    return Profiles(version=1, exchanges={"sim": exchange})


def run_feed(
    domains: dict[str, str], *, faults: tuple[str, ...] = (), messages: int = 20_000, symbols: int = 12, seed: int = 7,
    rate: float = RATE, random_rate: float = 0.0,
) -> tuple[list[Block], SimulatedFeed]:  # fmt: skip
    """Run a feed to its end: `run_feed({"ticks": "dense"}, faults=("drop:3@1s",), messages=5000)`."""
    plan = FaultPlan(tuple(parse_fault(text) for text in faults), random_rate=random_rate, seed=seed)
    parameters = FeedParameters("sim", symbols, rate, seed, START_MICROS, messages / RATE, plan=plan)
    feed = SimulatedFeed(profiles_with(**domains), parameters)
    return list(feed.blocks()), feed


def _plain(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Times as integer microseconds."""
    columns = [one.cast(pa.int64()) if pa.types.is_timestamp(one.type) else one for one in rows.columns]
    return pa.RecordBatch.from_arrays(columns, names=rows.schema.names)


def rows_of(blocks: list[Block], dataset: str, *, in_kafka: bool = False) -> list[dict[str, Any]]:
    """Rows of a dataset in send order, as they reach the feed handler, or as they reach Kafka."""
    out: list[dict[str, Any]] = []
    for block in blocks:
        for one in block.outgoing:
            if one.dataset == dataset:
                part = one.expanded() if in_kafka else one
                columns = [name for name in TOLD if name in part.rows.schema.names]
                rows = _plain(part.rows.select(columns)).to_pylist()
                extra = zip(rows, part.send_micros.tolist(), part.damage.tolist(), part.version.tolist(), strict=True)
                out += [{**row, "sent": sent, "damage": bad, "version": version} for row, sent, bad, version in extra]
    return out
