"""The topic that the measures read: trades of Zipf-distributed symbols around midnight, with planted faults.

Deterministic in its seed. One partition has 40 % of the messages, as a real hot symbol makes one.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Producer

from k2_dagster.feeds.encode import AvroEncoder, message_keys
from k2_dagster.feeds.numbering import totals_within
from k2_dagster.kafka.clients import producer_config
from k2_dagster.kafka.registry import Registry
from k2_dagster.schemas.arrow import TIMESTAMP, wire_schema
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.ticks import TICKS
from k2_dagster.schemas.topics import subject_name, topic_name
from k2_dagster.settings import Settings

Int64s = npt.NDArray[np.int64]

PARTITIONS = 8
SYMBOLS = 500
HOT_PARTITION_SHARE = 0.40
ZIPF_EXPONENT = 1.0
STREAM = "trade"
# Prices walk by ticks, and most trades print at the price of the one before, as real ones do.
TICK = 1_000_000
TICK_STEPS = (-1, 0, 1)
TICK_CHANCES = (0.15, 0.7, 0.15)
# Planted per million messages: what a bad day has, far more than a normal one.
GAPS_PER_MILLION = 100
DUPLICATES_PER_MILLION = 200
BAD_PRICES_PER_MILLION = 10
# Event time advances by this much per message on average; the middle of the topic is midnight.
MICROS_PER_MESSAGE = 50
# Trades of one symbol overtake each other in time by up to this much, so that sorting has something to do.
JITTER_MICROS = 400
# A duplicate comes up to this many messages after its original.
DUPLICATE_DISTANCE_ROWS = 200
CHUNK_ROWS = 100_000
# A paced publisher writes this often: smooth enough for a consumer that looks every 50 ms.
CHUNKS_PER_SECOND = 20
PUBLISHER_SEED = 7
LINGER_MS = 50
FLUSH_SECONDS = 120.0
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Planted:
    """What a filled topic holds. `messages` = `rows` + `duplicates` + `bad_prices`."""

    messages: int
    rows: int
    gaps: int
    duplicates: int
    bad_prices: int
    value_bytes: int


def write_profiles(path: Path, exchanges: list[str]) -> Path:
    """A profile file with these exchanges, each with one dense stream of trades."""
    blocks = [
        f"[exchanges.{name}]\n"
        'title = "Benchmark"\nasset_class = "crypto"\ncalendar = "24/7"\ntimezone = "UTC"\n'
        f'entitlement_class = "public"\npartitions = {PARTITIONS}\non_critical_gap = "mark_stale"\n'
        f'[exchanges.{name}.streams.{STREAM}]\ndataset = "ticks"\ndomain = "dense"\n'
        for name in exchanges
    ]
    path.write_text("version = 1\n" + "\n".join(blocks), encoding="utf-8")
    return path


class Trades:
    """Generates the rows of one topic, a chunk at a time, in wire form."""

    def __init__(self, exchange: str, messages: int, seed: int) -> None:
        self.exchange = exchange
        self.messages = messages
        self._random = np.random.default_rng(seed)
        weights = 1.0 / np.arange(1, SYMBOLS + 1) ** ZIPF_EXPONENT
        self._cumulative = np.cumsum(weights / weights.sum())
        self.partition_of = _deal(weights / weights.sum())
        self._names = pa.array([f"C{number:03d}USDT" for number in range(SYMBOLS)])
        self._last_sequence = np.zeros(SYMBOLS, np.int64)
        self._last_published = np.zeros(SYMBOLS, np.int64)
        midnight = int(time.time()) // SECONDS_PER_DAY * SECONDS_PER_DAY * 1_000_000
        self._start_micros = midnight - messages * MICROS_PER_MESSAGE // 2
        self._prices = self._random.integers(10**5, 10**7, SYMBOLS) * TICK
        self.planted = Planted(0, 0, 0, 0, 0, 0)

    def chunks(self, size: int) -> Iterator[tuple[pa.RecordBatch, npt.NDArray[np.int64]]]:
        """Rows in wire form, and the symbol number of each, `size` at a time."""
        done = 0
        while done < self.messages:
            count = min(size, self.messages - done)
            yield self._chunk(done, count)
            done += count

    def _chunk(self, done: int, count: int) -> tuple[pa.RecordBatch, Int64s]:
        after = self._some(count, DUPLICATES_PER_MILLION)
        originals = count - len(after)
        after = np.minimum(after, originals - 1)
        drawn = np.searchsorted(self._cumulative, self._random.random(originals))
        symbol = np.minimum(drawn, SYMBOLS - 1).astype(np.int64)
        bad = self._some(originals, BAD_PRICES_PER_MILLION)
        gaps = np.setdiff1d(self._some(originals, GAPS_PER_MILLION), bad)
        # A symbol's first number tells nothing of what came before: no gap there
        gaps = gaps[self._last_sequence[symbol[gaps]] > 0]
        steps = np.ones(originals, np.int64)
        steps[gaps] += self._random.integers(1, 10, len(gaps))
        rows = self._rows(done, symbol, steps, bad)
        repeated = np.maximum(0, after - self._random.integers(0, DUPLICATE_DISTANCE_ROWS, len(after)))
        source = np.insert(np.arange(originals), after + 1, repeated)
        bad_count = len(bad) + int(np.isin(repeated, bad).sum())
        self._count(count, len(gaps), count - originals - (bad_count - len(bad)), bad_count)
        return rows.take(pa.array(source)), symbol[source]

    def _some(self, count: int, per_million: int) -> Int64s:
        """Distinct places, in order."""
        return np.unique(self._random.integers(0, max(1, count), round(count * per_million / 1_000_000)))

    def _rows(self, done: int, symbol: Int64s, steps: Int64s, bad: Int64s) -> pa.RecordBatch:
        count = len(symbol)
        sequence = self._advance(self._last_sequence, symbol, steps)
        published = self._advance(self._last_published, symbol, np.ones_like(symbol))
        times = self._start_micros + (done + np.arange(count)) * MICROS_PER_MESSAGE
        times = times + self._random.integers(0, JITTER_MICROS, count)
        price = self._advance(self._prices, symbol, TICK * self._random.choice(TICK_STEPS, count, p=TICK_CHANCES))
        price[bad] = 0
        columns = {
            "exchange": _constant(self.exchange, count),
            "stream": _constant(STREAM, count),
            "kind": _constant("trade", count),
            "symbol": self._names.take(pa.array(symbol)),
            "session": _constant("s1", count),
            "sequence": pa.array(sequence),
            "publisher_session": _constant("bench-1", count),
            "publisher_sequence": pa.array(published),
            "exchange_timestamp": pa.array(times).view(TIMESTAMP),
            "receive_timestamp": pa.array(times + self._random.integers(200, 3_000, count)).view(TIMESTAMP),
            "publish_timestamp": pa.array(times + 3_500).view(TIMESTAMP),
            "price": pa.array(price),
            "size": pa.array(self._random.integers(1, 500, count) * 1_000_000),
            "side": pa.array(["buy", "sell"]).take(pa.array(self._random.integers(0, 2, count))),
        }
        schema = wire_schema(TICKS)
        arrays = [columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in schema]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _advance(self, last: Int64s, symbol: Int64s, steps: Int64s) -> Int64s:
        running, totals = totals_within(symbol, steps, SYMBOLS)
        out: Int64s = running + last[symbol]
        last += totals
        return out

    def _count(self, messages: int, gaps: int, duplicates: int, bad_prices: int) -> None:
        before = self.planted
        self.planted = Planted(
            before.messages + messages,
            before.rows + messages - duplicates - bad_prices,
            before.gaps + gaps,
            before.duplicates + duplicates,
            before.bad_prices + bad_prices,
            before.value_bytes,
        )


def fill(settings: Settings, exchange: str, messages: int, seed: int, per_second: int | None = None) -> Planted:
    """Produce the topic's messages, at a rate if one is given. The topic and its subject must exist."""
    topic = topic_name(TICKS.name, exchange)
    text = avro_schema_text(TICKS)
    registry = Registry(settings)
    encoder = AvroEncoder(text, registry.register(subject_name(topic), text))
    registry.close()
    producer = Producer(producer_config(settings) | {"linger.ms": LINGER_MS, "batch.num.messages": 20_000})
    trades = Trades(exchange, messages, seed)
    value_bytes = 0
    began = time.monotonic()
    for rows, symbol in trades.chunks(CHUNK_ROWS if per_second is None else max(1, per_second // CHUNKS_PER_SECOND)):
        values = encoder.encode(rows)
        value_bytes += values.nbytes - 4 * (len(values) + 1)
        keys = message_keys(exchange, rows.column("symbol"))
        partitions = trades.partition_of[symbol].tolist()
        for key, value, partition in zip(keys, values.to_pylist(), partitions, strict=True):
            _produce(producer, topic, key, value, partition)
        if per_second is not None:
            producer.poll(0)
            time.sleep(max(0.0, began + trades.planted.messages / per_second - time.monotonic()))
    left = producer.flush(FLUSH_SECONDS)
    if left:
        raise RuntimeError(f"{left} messages of the benchmark's topic were not delivered in {FLUSH_SECONDS} s")
    return replace(trades.planted, value_bytes=value_bytes)


def _produce(producer: Producer, topic: str, key: bytes, value: bytes, partition: int) -> None:
    while True:
        try:
            producer.produce(topic, value, key, partition)
        except BufferError:
            producer.poll(0.1)
        else:
            return


def _constant(text: str, count: int) -> pa.Array:
    return pa.array([text]).take(pa.array(np.zeros(count, np.int32)))


def _deal(weights: npt.NDArray[np.float64]) -> Int64s:
    """A partition per symbol: the first gets the largest symbols up to its share, the others the rest evenly."""
    out = np.zeros(len(weights), np.int64)
    load = np.zeros(PARTITIONS)
    for symbol, weight in enumerate(weights):
        partition = 0 if load[0] + weight <= HOT_PARTITION_SHARE else 1 + int(np.argmin(load[1:]))
        out[symbol] = partition
        load[partition] += weight
    return out


def main() -> None:
    """Publish at a rate: brokers, registry, exchange, messages, messages per second."""
    brokers, registry, exchange, messages, per_second = sys.argv[1:]
    settings = Settings(kafka_bootstrap_servers=brokers, schema_registry_url=registry)
    fill(settings, exchange, int(messages), PUBLISHER_SEED, int(per_second))


if __name__ == "__main__":
    main()
