"""Feeds ingest with spoiled messages: nothing crashes, every message is in one place, and every row says what its bytes
say.

    python -m proofs.fuzz --messages 100000 --seed 1

Half of the messages are valid and stay so; each of them must land exactly as an independent decoder reads it, whatever
stands beside it. Of the spoiled ones, each that lands must say what its bytes say. Last, a schema id that nobody knows
holds its stream without moving the fence, until an operator refuses it.
"""

import functools
import itertools
import platform
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import fastavro
import pyarrow as pa
from confluent_kafka import KafkaError, Message, Producer

from k2_dagster.devstack.stack import Stack
from k2_dagster.errors import SchemaUnknown
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.feeds.simulator.feed import FeedParameters, SimulatedFeed
from k2_dagster.ingest import drain as drain_module
from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.kafka.clients import producer_config
from k2_dagster.kafka.registry import RegisteredSchema, Registry
from k2_dagster.lake.fence import read_fence
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.topics import topic_name
from k2_dagster.state.database import Database
from k2_dagster.state.refused_schemas import refuse_schema
from proofs.accounting import account_twice, offset_of, opened, partition_of, table_rows
from proofs.chaos_feeds import profiles_text
from proofs.claims import Claims
from proofs.common import Lake, Proof, conclude, new_lake, new_token, proof_stack, say, scratch_folder
from proofs.mutations import Original, Surroundings, mutate
from proofs.oracle import Oracle, Row, different_fields, frame_id, raw_avro_schema, table_wire_rows
from proofs.sent import Sent, apart

SYMBOLS = 60
MESSAGES_PER_SECOND = 5_000.0
SPOILED_SHARE = 0.5
JSON_SHARE = 0.15
# Rows of the market between two of the feed handler's, so that its topic is fuzzed too.
ROWS_PER_CONTROL = 40
# Ids far above those that a registry gives out.
UNKNOWN_IDS = tuple(range(2_000_000_000, 2_000_000_008))
# Messages in flight; the producer's own queue holds ten times as many.
POLL_EVERY_MESSAGES = 500
FLUSH_TIMEOUT_SECONDS = 120.0
DRAIN_CAP_SECONDS = 600.0
BATCH_ROWS = "20000"
# In the case of the unknown id: how long the drain waits for it, instead of a minute.
SCHEMA_WAIT_SECONDS = 1.5


def run(stack: Stack, folder: Path, messages: int, seed: int) -> Proof:
    """The whole proof on a running stack."""
    proof, chance, exchange = Proof("fuzz"), random.Random(seed), f"fuzz_{new_token()}"
    text = profiles_text({exchange: ("dense", "monotone", "range")})
    lake = new_lake(stack, folder, text, [exchange], K2_INGEST_BATCH_ROWS=BATCH_ROWS)
    sent = _spoil(list(_valid(lake, exchange, messages, seed, chance)), chance)
    say(f"{len(sent)} messages made, {sum(bool(one.way) for one in sent)} of them spoiled")
    schemas = _refuse_unknown_ids(lake, sent)
    sent = apart(lake, exchange, sent, Oracle(schemas))
    _publish(lake, exchange, sent, proof)
    try:
        report = drain_exchange(
            lake.settings, lake.profiles, exchange, cap_seconds=DRAIN_CAP_SECONDS, stop=threading.Event()
        )
        proof.expect("caught up", report.caught_up, True)
    except Exception as error:  # noqa: BLE001  (that nothing is raised is what is proved)
        proof.object_to(f"the drain ended with {type(error).__name__}: {error}")
    say("drained; now every message is looked up")
    account_twice(lake, [exchange], proof)
    proof.expect("messages in the topics", proof.counts["messages"], len(sent))
    _check_rows(lake, exchange, sent, Oracle(schemas), proof)
    _check_unknown_id(stack, folder, seed, proof)
    proof.conditions |= {"seed": seed, "spoiled_share": SPOILED_SHARE, "json_share": JSON_SHARE}
    proof.conditions |= {"machine": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}
    return proof


def _valid(lake: Lake, exchange: str, messages: int, seed: int, chance: random.Random) -> Iterator[Original]:
    """Valid messages in the order of a simulated feed, most in Avro, some in JSON."""
    seconds = 2.0 * messages / MESSAGES_PER_SECOND
    start = time.time_ns() // 1000 - int(seconds * 1_000_000)
    parameters = FeedParameters(exchange, SYMBOLS, MESSAGES_PER_SECOND, seed, start, seconds)
    blocks = SimulatedFeed(lake.profiles, parameters).blocks()
    parts = (part for block in blocks for part in block.outgoing)
    with (
        Publisher(lake.settings, lake.profiles, exchange, publisher_session="avro") as avro,
        Publisher(lake.settings, lake.profiles, exchange, publisher_session="json", wire="json") as documents,
    ):
        both = (
            (dataset, *one)
            for part in parts
            for dataset, rows in ((part.dataset, part.rows), *_of_the_feed(exchange, part.rows.num_rows))
            for one in zip(*avro.framed(dataset, rows), documents.framed(dataset, rows)[1], strict=True)
        )
        for dataset, key, value, document in itertools.islice(both, messages):
            in_json = chance.random() < JSON_SHARE
            yield Original(dataset, "json" if in_json else "avro", key, document if in_json else value)


def _of_the_feed(exchange: str, market_rows: int) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Rows of the datasets that every exchange has: heartbeats and definitions."""
    now = time.time_ns() // 1000
    common = {"exchange": exchange, "exchange_timestamp": now, "receive_timestamp": now}
    beat = {"stream": "trade", "kind": "heartbeat", "symbol": "*"}
    defined = {
        "stream": "instruments", "kind": "definition", "symbol": "BTCUSDT", "canonical_symbol": "BTC-USDT",
        "asset_class": "crypto", "tick_size": 1_000_000, "lot_size": 1_000, "expiry": now, "status": "trading",
    }  # fmt: skip
    for dataset, row in (("control", beat), ("instruments", defined)):
        rows = [common | row] * (1 + market_rows // ROWS_PER_CONTROL)
        yield dataset, pa.RecordBatch.from_pylist(rows, schema=wire_schema(WIRE_DATASETS[dataset]))


def _spoil(originals: list[Original], chance: random.Random) -> list[Sent]:
    ids = {name: {frame_id(one.value) or 0 for one in originals if one.dataset == name} for name in WIRE_DATASETS}
    schemas = {
        name: fastavro.parse_schema(raw_avro_schema(avro_schema_text(one))) for name, one in WIRE_DATASETS.items()
    }
    around = {
        name: Surroundings(
            originals,
            sorted(set().union(*(ids[other] for other in ids if other != name))),
            list(UNKNOWN_IDS),
            schemas,
        )
        for name in ids
    }
    sent = []
    for original in originals:
        if chance.random() >= SPOILED_SHARE:
            sent.append(Sent("", original))
            continue
        way, spoiled = mutate(chance, original, around[original.dataset])
        sent += [Sent(way, spoiled) for _ in range(2 if way == "unchanged_twice" else 1)]
    return sent


def _publish(lake: Lake, exchange: str, sent: list[Sent], proof: Proof) -> None:
    producer = Producer(producer_config(lake.settings))

    def told(one: Sent, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            proof.object_to(f"Kafka refused a message ({one.way}): {error}")
        else:
            one.position = partition_of(message), offset_of(message)

    for place, one in enumerate(sent):
        producer.produce(
            topic_name(one.message.dataset, exchange), one.message.value, one.message.key,
            headers=list(one.message.headers), on_delivery=functools.partial(told, one),
        )  # fmt: skip
        if place % POLL_EVERY_MESSAGES == 0:
            producer.poll(0)
    if left := producer.flush(FLUSH_TIMEOUT_SECONDS):
        proof.object_to(f"{left} messages were not delivered")


def _refuse_unknown_ids(lake: Lake, sent: list[Sent]) -> dict[int, RegisteredSchema]:
    """Ask the registry for every id that a message names; refuse the unknown ones, as an operator would."""
    known: dict[int, RegisteredSchema] = {}
    registry, database = Registry(lake.settings), Database(lake.settings)
    for schema_id in {frame_id(one.message.value) for one in sent} - {None}:
        assert schema_id is not None
        try:
            known[schema_id] = registry.schema(schema_id)
        except SchemaUnknown:
            refuse_schema(database, schema_id, accepted_by="proofs.fuzz", reason="planted")
    registry.close()
    database.close()
    return known


def _check_rows(lake: Lake, exchange: str, sent: list[Sent], oracle: Oracle, proof: Proof) -> None:
    """Every row says what its message says; every valid message is a row, or a duplicate of one."""
    names = ("topic", "kafka_partition", "kafka_offset", "reason", "detail")
    quarantine = table_rows(lake, "quarantine", exchange, names)
    places = zip(*(quarantine[name].to_pylist() for name in names), strict=True)
    refused = {(topic, (partition, offset)): found for topic, partition, offset, *found in places}
    outcomes: dict[str, Counter[str]] = {}
    unjudged = forgotten = 0
    for dataset, declared in WIRE_DATASETS.items():
        rows = table_wire_rows(declared, table_rows(lake, dataset, exchange))
        landed = Claims(lake, exchange, dataset, rows.values())
        for one in sent:
            if one.message.dataset != dataset or one.position is None:
                continue
            try:
                said = oracle.decode(declared, one.message.value)
            except RecursionError:
                unjudged += 1
                continue
            reason, detail = refused.get((topic_name(dataset, exchange), one.position), ("landed", ""))
            outcomes.setdefault(one.way or "valid", Counter())[reason] += 1
            row = rows.get(one.position)
            if row is not None:
                _check_row(one, dataset, row, said, proof)
            elif not one.way and said is not None and reason == "identity_horizon" and landed.may_be_forgotten(said):
                forgotten += 1
            elif not one.way and (said is None or reason != "duplicate" or not landed.holds(said)):
                proof.object_to(f"valid {dataset} message at {one.position} is not a row: {reason} {detail}")
            elif said is not None and reason in ("undecodable", "trailing_bytes"):
                proof.object_to(
                    f"{dataset} message at {one.position} ({one.way}) can be read, and is {reason}: {detail}"
                )
    proof.counts["nested_too_deeply_for_the_second_opinion"] = unjudged
    proof.counts["valid_but_forgotten_among_many_that_are_missing"] = forgotten
    proof.counts["outcomes"] = {way: dict(found) for way, found in sorted(outcomes.items())}


def _check_row(one: Sent, dataset: str, row: Row, said: Row | None, proof: Proof) -> None:
    where = f"{dataset} row at {one.position} ({one.way or 'valid'})"
    if said is None:
        proof.object_to(f"{where}: its bytes cannot be read")
    elif different := different_fields(row, said):
        name = different[0]
        proof.object_to(f"{where}: {name} is {row[name]!r:.60}, said {said[name]!r:.60}")


def _check_unknown_id(stack: Stack, folder: Path, seed: int, proof: Proof) -> None:
    """Good messages, one with an unknown id, good messages: held without moving the fence, until it is refused."""
    say("a schema id that nobody knows")
    exchange = f"fuzz_{new_token()}"
    lake = new_lake(stack, folder, profiles_text({exchange: ("dense", "monotone", "range")}, partitions=1), [exchange])
    valid = _valid(lake, exchange, 4_000, seed, random.Random(seed))
    ticks = [Sent("", one) for one in valid if one.dataset == "ticks"][:30]
    unknown = Sent("unknown", replace(ticks[0].message, value=b"\0" + UNKNOWN_IDS[0].to_bytes(4, "big") + b"x"))
    stop = threading.Event()

    def drained() -> int:
        report = drain_exchange(lake.settings, lake.profiles, exchange, datasets=["ticks"], cap_seconds=None, stop=stop)
        return report.rows

    _publish(lake, exchange, ticks[:10], proof)
    proof.expect("rows before the unknown id", drained(), 10)
    before = _fence(lake)
    _publish(lake, exchange, [unknown, *ticks[10:]], proof)
    patient, drain_module.SCHEMA_WAIT_SECONDS = drain_module.SCHEMA_WAIT_SECONDS, SCHEMA_WAIT_SECONDS
    try:
        drained()
        proof.object_to("the drain went over an unknown schema id")
    except SchemaUnknown:
        proof.expect("the fence at an unknown id", _fence(lake), before)
    finally:
        drain_module.SCHEMA_WAIT_SECONDS = patient
    database = Database(lake.settings)
    refuse_schema(database, UNKNOWN_IDS[0], accepted_by="proofs.fuzz", reason="planted")
    database.close()
    proof.expect("rows after it was refused", drained(), 20)
    quarantine = table_rows(lake, "quarantine", exchange, ("reason",))
    proof.expect("what became of the unknown id", quarantine["reason"].to_pylist(), ["schema_unknown"])
    proof.counts["held_at_unknown_id"] = True


def _fence(lake: Lake) -> dict[str, int]:
    with opened(lake) as catalog:
        return dict(read_fence(catalog.load_table("market_data.ticks").metadata).vector)


@click.command()
@click.option("--messages", default=100_000, show_default=True, help="Valid messages to begin with.")
@click.option("--seed", default=1, show_default=True)
@click.option("--home", type=click.Path(path_type=Path), help="Use the stack of this folder and leave it running.")
def main(messages: int, seed: int, home: Path | None) -> None:
    """Prove that no message can stop ingest, get lost in it, or change its neighbours."""
    with proof_stack(home) as stack, scratch_folder() as folder:
        proof = run(stack, folder, messages, seed)
    sys.exit(conclude(proof))


if __name__ == "__main__":
    main()
