"""Configuration of every Kafka client, and the translation of librdkafka's errors and log into ours."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from k2_dagster.errors import TRY_ADDRESS, ConfigurationError, K2Error, KafkaUnavailable
from k2_dagster.settings import Settings

logger = logging.getLogger(__name__)

# How long one request to a broker may take before it counts as unavailable.
REQUEST_TIMEOUT_SECONDS = 10.0
# librdkafka waits this long before it fetches again after its queue was full; its default of 1000 ms stalls a fast
# consumer for up to a second (5-6 times slower).
FETCH_QUEUE_BACKOFF_MS = 5
# An empty fetch reports the end of a partition, after this wait: how soon "caught up" is known, for a few small
# requests per second on an idle topic.
FETCH_WAIT_MS = 100
# Prefetch per consumer: larger queues are slower (processor cache) and cost memory.
PREFETCH_KILOBYTES = 4_096
# Most of one fetch, of all partitions together. The queue is looked at between fetches only, and every message in it
# costs several times its payload: by default a fetch may add a megabyte of each partition to a queue that is full.
FETCH_BYTES = 2 * 1024 * 1024

# confluent-kafka's own name among librdkafka's: the object that takes the client's log.
LOGGER = "logger"
# What the client says of a connection that it will try again by itself (librdkafka's names of log lines). Whether that
# lasts too long is judged here, and told as an error of ours.
_RETRIED_BY_ITSELF = frozenset({"FAIL", "ERROR"})

_REFUSALS = {
    KafkaError._AUTHENTICATION,  # noqa: SLF001  (librdkafka's public error codes start with an underscore)
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError._SSL,  # noqa: SLF001
    KafkaError._INVALID_ARG,  # noqa: SLF001
}


class ClientLog:
    """librdkafka's log as events of ours. A confluent-kafka client takes it as `logger`, and calls it when polled."""

    def log(self, level: int, text: str, facility: str, client: str, line: str) -> None:
        """A line, with Python's level for librdkafka's; `text` is the format of confluent-kafka's own line."""
        del text
        log_line(level, facility, client, line)


def log_line(level: int, facility: str, client: str, line: str) -> None:
    """One line of a client's log. What it calls an error it goes on after: a warning; what ends it, an error."""
    quiet = facility in _RETRIED_BY_ITSELF or level < logging.WARNING
    ours = logging.DEBUG if quiet else logging.ERROR if level > logging.ERROR else logging.WARNING
    logger.log(ours, "kafka client", extra={"facility": facility, "client": client, "said": line})


def client_config(settings: Settings) -> dict[str, Any]:
    """What every client needs: addresses, TLS and SASL to reach the brokers, and where its log goes."""
    pairs = {
        LOGGER: ClientLog(),
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
        "sasl.mechanism": settings.kafka_sasl_mechanism,
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": settings.kafka_sasl_password and settings.kafka_sasl_password.get_secret_value(),
        "ssl.ca.location": settings.kafka_ssl_ca_location and str(settings.kafka_ssl_ca_location),
        "ssl.certificate.location": settings.kafka_ssl_certificate_location
        and str(settings.kafka_ssl_certificate_location),
        "ssl.key.location": settings.kafka_ssl_key_location and str(settings.kafka_ssl_key_location),
        "ssl.key.password": settings.kafka_ssl_key_password and settings.kafka_ssl_key_password.get_secret_value(),
    }
    return {key: value for key, value in pairs.items() if value is not None}


def producer_config(settings: Settings) -> dict[str, Any]:
    """Idempotent, acknowledged by all in-sync replicas, partitioned as Java does (murmur2 of the key)."""
    return {
        **client_config(settings),
        "partitioner": "murmur2_random",
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",
        "linger.ms": 5,
    }


def consumer_config(settings: Settings) -> dict[str, Any]:
    """For `assign()` only: positions come from the fence, so nothing is committed and nothing resets by itself."""
    return {
        **client_config(settings),
        "group.id": "k2-assigned",  # required by librdkafka, never used: no subscribe, no commit
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": FETCH_QUEUE_BACKOFF_MS,
        "fetch.wait.max.ms": FETCH_WAIT_MS,
        "queued.max.messages.kbytes": PREFETCH_KILOBYTES,
        "fetch.max.bytes": FETCH_BYTES,
    }


@contextmanager
def translated(action: str) -> Iterator[None]:
    """librdkafka's errors as ours; `action` completes "Kafka could not ...". Constructors raise too: they read the
    files of TLS and choose the SASL mechanism."""
    try:
        yield
    except KafkaException as error:
        raise translate(error, action) from error


def translate(error: KafkaException | KafkaError, action: str) -> K2Error:
    """The K2 error for a librdkafka one: refusals are terminal, everything else is the broker being away."""
    inner = error.args[0] if isinstance(error, KafkaException) else error
    code, text = inner.code(), inner.str()
    if code in _REFUSALS:
        return ConfigurationError(
            f"Kafka refused to {action}: {text}", advice="check the K2_KAFKA_* settings with `k2 doctor`", code=code
        )
    return KafkaUnavailable(f"Kafka could not {action}: {text}", advice=TRY_ADDRESS, code=code)
