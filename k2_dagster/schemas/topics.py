"""Names of topics, keys and subjects. The name says dataset and exchange, so a topic alone tells what it carries."""

from typing import Literal

from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.datasets import WIRE_DATASETS

PREFIX = "market"
CONTROL_DATASET = "control"
INSTRUMENTS_DATASET = "instruments"
# Every exchange has these, whatever streams its profile declares. What a feed handler says concerns a whole feed, and
# definitions are few: one partition keeps them in order.
FEED_DATASETS = (CONTROL_DATASET, INSTRUMENTS_DATASET)
FEED_PARTITIONS = 1


def topic_name(dataset: str, exchange: str) -> str:
    """`ticks`, `binance` -> `market.ticks.binance`."""
    return f"{PREFIX}.{dataset}.{exchange}"


def parse_topic(topic: str) -> tuple[str, str]:
    """`market.ticks.binance` -> (`ticks`, `binance`). Raises ConfigurationError for another form."""
    parts = topic.split(".", 2)
    if len(parts) != 3 or parts[0] != PREFIX or parts[1] not in WIRE_DATASETS or not parts[2]:
        raise ConfigurationError(
            f"topic was {topic!r}",
            advice=f"valid: {PREFIX}.DATASET.EXCHANGE with DATASET one of {', '.join(WIRE_DATASETS)}",
            topic=topic,
        )
    return parts[1], parts[2]


def subject_name(topic: str, kind: Literal["AVRO", "JSON"] = "AVRO") -> str:
    """Subject of the topic's values (TopicNameStrategy). A subject has one kind of schema, so JSON has its own."""
    return f"{topic}-value" if kind == "AVRO" else f"{topic}-value-json"


def message_key(exchange: str, symbol: str) -> bytes:
    """`{exchange}.{symbol}`: all messages of a symbol share a partition, so their order survives."""
    return f"{exchange}.{symbol}".encode()
