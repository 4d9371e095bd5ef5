"""Topics as they are and as they should be: ids, partition counts, retained offsets; `ensure_topics` makes them."""

import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from k2_dagster.errors import ConfigurationError, KafkaUnavailable, NotInitialized, PartitionCountChanged
from k2_dagster.kafka.clients import REQUEST_TIMEOUT_SECONDS, client_config, translate
from k2_dagster.kafka.futures import Waiting
from k2_dagster.kafka.topic_config import differences
from k2_dagster.observability.stopping import NEVER
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings

# Beyond the broker's own answer a future needs a moment to be handed over; only a client that hangs takes longer.
FUTURE_TIMEOUT_SECONDS = REQUEST_TIMEOUT_SECONDS + 5.0
# Metadata and leaders reach every broker within milliseconds of a topic's creation.
METADATA_POLL_SECONDS = 0.05
MILLISECONDS_PER_HOUR = 3_600_000

_LEADERLESS = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,  # a broker that has not heard of the new topic yet
    KafkaError.UNKNOWN_LEADER_EPOCH,  # ... or of its newest leader
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError._NOENT,  # noqa: SLF001  (librdkafka: no leader in the metadata)
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001  (librdkafka: not in the metadata)
}
_UNREADABLE_CONFIGURATION = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_REFUSED_TOPICS = {
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_CONFIG,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_EXCEPTION,
}


@dataclass(frozen=True)
class TopicState:
    """A topic as the brokers know it. `topic_id` changes when a topic is deleted and made again."""

    topic: str
    topic_id: str
    partitions: int


@dataclass(frozen=True)
class TopicOutcome:
    """What `ensure_topics` did for one topic. `differences` say where a confirmed one is not as it would be created."""

    topic: str
    action: Literal["created", "confirmed"]
    partitions: int
    differences: tuple[str, ...] = ()


def describe(settings: Settings, topics: Iterable[str], stop: threading.Event = NEVER) -> dict[str, TopicState]:
    """The topics that exist, by name; a missing one is absent. One request for all.

    Raises KafkaUnavailable (soon, once `stop` is set), ConfigurationError (refused).
    """
    names = list(topics)
    if not names:
        return {}
    return _describe(_admin(settings), names, stop)


def watermarks(
    settings: Settings, topic: str, partitions: int, stop: threading.Event = NEVER
) -> dict[int, tuple[int, int]]:
    """Partition -> (earliest retained offset, end) of one topic; see `all_watermarks`."""
    return all_watermarks(settings, {topic: partitions}, stop)[topic]


def all_watermarks(
    settings: Settings, partitions: Mapping[str, int], stop: threading.Event = NEVER
) -> dict[str, dict[int, tuple[int, int]]]:
    """Topic -> partition -> (earliest retained offset, end), for topic -> partition count; two batched requests.

    The end is where a reader of committed messages can get to: behind a transaction that is still open it waits.
    Raises KafkaUnavailable, NotInitialized (no such topic or partition), ConfigurationError (refused).
    """
    places = [TopicPartition(topic, number) for topic, count in partitions.items() for number in range(count)]
    if not places:
        return {topic: {} for topic in partitions}
    admin = _admin(settings)
    earliest = _offsets(admin, places, OffsetSpec.earliest(), stop)  # type: ignore[no-untyped-call]
    ends = _offsets(admin, places, OffsetSpec.latest(), stop)  # type: ignore[no-untyped-call]
    return {
        topic: {number: (earliest[topic, number], ends[topic, number]) for number in range(count)}
        for topic, count in partitions.items()
    }


def message_limits(settings: Settings, topics: Iterable[str]) -> dict[str, int]:
    """`max.message.bytes` of the topics that exist and whose configuration we may read. Raises KafkaUnavailable."""
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
    admin, limits = _admin(settings), {}
    for resource, future in admin.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_SECONDS).items():
        try:
            limits[resource.name] = int(future.result(FUTURE_TIMEOUT_SECONDS)["max.message.bytes"].value)
        except KafkaException as error:
            if error.args[0].code() not in _UNREADABLE_CONFIGURATION:
                raise translate(error, f"describe the configuration of {resource.name}") from error
    return limits


def declared_topics(profiles: Profiles, exchanges: Iterable[str]) -> dict[str, int]:
    """Topic -> partition count, as the profiles of these exchanges declare."""
    return {
        topic_name(dataset, exchange): profile.partitions_of(dataset)
        for exchange, profile in ((name, profiles.exchange(name)) for name in exchanges)
        for dataset in profile.topics
    }


def require_counts(settings: Settings, profiles: Profiles, exchanges: Iterable[str]) -> None:
    """Raises PartitionCountChanged as `ensure_topics` would, and creates nothing. Raises as that does."""
    declared = declared_topics(profiles, exchanges)
    _refuse_other_counts(declared, describe(settings, declared))


def ensure_topics(settings: Settings, profiles: Profiles, exchanges: Iterable[str]) -> list[TopicOutcome]:
    """Create the topics of these exchanges, or confirm those that are there. Idempotent.

    Raises PartitionCountChanged when a topic has another count than its profile declares (then nothing is created),
    KafkaUnavailable, ConfigurationError (refused, or an unknown exchange).
    """
    declared = declared_topics(profiles, exchanges)
    admin = _admin(settings)
    found = _describe(admin, list(declared)) if declared else {}
    _refuse_other_counts(declared, found)
    missing = {topic: count for topic, count in declared.items() if topic not in found}
    created = _create(admin, settings, missing)
    confirmed = [topic for topic in declared if topic not in created]
    told = differences(admin, confirmed, topic_config(settings), settings.kafka_replication_factor)
    return [
        TopicOutcome(topic, "created" if topic in created else "confirmed", count, told.get(topic, ()))
        for topic, count in declared.items()
    ]


def _admin(settings: Settings) -> AdminClient:
    try:
        return AdminClient(client_config(settings))
    except KafkaException as error:
        raise translate(error, "start an admin client") from error


def _describe(admin: AdminClient, names: list[str], stop: threading.Event = NEVER) -> dict[str, TopicState]:
    futures = admin.describe_topics(TopicCollection(names), request_timeout=REQUEST_TIMEOUT_SECONDS)
    states, waiting = {}, Waiting(FUTURE_TIMEOUT_SECONDS, stop)
    for name, future in futures.items():
        try:
            found = waiting.answer(future, f"describe topic {name}")
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                continue
            raise translate(error, f"describe topic {name}") from error
        states[name] = TopicState(name, str(found.topic_id), len(found.partitions))
    return states


def _offsets(
    admin: AdminClient, places: list[TopicPartition], spec: OffsetSpec, stop: threading.Event
) -> dict[tuple[str, int], int]:
    """Offsets of all places; those without a leader (just created, or electing) are asked again for a while."""
    offsets: dict[tuple[str, int], int] = {}
    deadline = time.monotonic() + REQUEST_TIMEOUT_SECONDS
    while places:
        futures = admin.list_offsets(
            dict.fromkeys(places, spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=REQUEST_TIMEOUT_SECONDS,
        )
        refused: dict[TopicPartition, KafkaException] = {}
        waiting = Waiting(FUTURE_TIMEOUT_SECONDS, stop)
        for place, future in futures.items():
            try:
                found = waiting.answer(future, f"list the offsets of {place.topic}")
                offsets[place.topic, place.partition] = int(found.offset)
            except KafkaException as error:
                refused[place] = error
        _raise_unless_leaderless(admin, refused, deadline)
        places = list(refused)
        if places and stop.wait(METADATA_POLL_SECONDS):
            raise KafkaUnavailable(f"{places[0].topic} has no leader, and this process was asked to stop")
    return offsets


def _raise_unless_leaderless(
    admin: AdminClient, refused: Mapping[TopicPartition, KafkaException], deadline: float
) -> None:
    """Raise for a refusal that waiting cannot mend, or that has lasted; a topic that is not there has no leader."""
    for place, error in refused.items():
        if error.args[0].code() not in _LEADERLESS or time.monotonic() > deadline:
            raise translate(error, f"list the offsets of {place.topic}") from error
    states = _describe(admin, sorted({place.topic for place in refused})) if refused else {}
    for place, error in refused.items():
        state = states.get(place.topic)
        if state is None or place.partition >= state.partitions:
            raise NotInitialized(
                f"topic {place.topic} has no partition {place.partition}", advice="run `k2 init`", topic=place.topic
            ) from error


def count_changed(declared: Mapping[str, int], found: Mapping[str, int]) -> PartitionCountChanged | None:
    """The error for topics whose partition count (topic -> count in `found`) is not the declared one; None without."""
    changed = [
        f"{topic} has {count}, its profile declares {declared[topic]}"
        for topic, count in found.items()
        if count != declared[topic]
    ]
    if not changed:
        return None
    return PartitionCountChanged(
        f"partition count changed: {'; '.join(changed)}",
        advice="another count sends a symbol's messages to another partition and breaks their order. If the profile "
        "was changed, put it back. If the topic was altered, it cannot be put back: move to a new topic with a "
        "hand-over offset (docs/schemas.md, 'Changing the partition count')",
        topics=changed,
    )


def _refuse_other_counts(declared: Mapping[str, int], found: Mapping[str, TopicState]) -> None:
    changed = count_changed(declared, {topic: state.partitions for topic, state in found.items()})
    if changed is not None:
        raise changed


def topic_config(settings: Settings) -> dict[str, str]:
    """The configuration of K2's topics."""
    return {
        # Broker time, so that freshness and retention do not depend on the publishers' clocks
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(settings.kafka_retention_hours * MILLISECONDS_PER_HOUR),
        # An election among replicas that are behind would shrink the log under the fence
        "unclean.leader.election.enable": "false",
        "min.insync.replicas": str(max(1, settings.kafka_replication_factor - 1)),
    }


def _create(admin: AdminClient, settings: Settings, missing: Mapping[str, int]) -> set[str]:
    """Create the topics; returns those that this call made (another process may be quicker)."""
    if not missing:
        return set()
    config = topic_config(settings)
    futures = admin.create_topics(
        [NewTopic(topic, count, settings.kafka_replication_factor, config=config) for topic, count in missing.items()],
        operation_timeout=REQUEST_TIMEOUT_SECONDS,
        request_timeout=REQUEST_TIMEOUT_SECONDS,
    )
    waiting = Waiting(FUTURE_TIMEOUT_SECONDS)
    created = {topic for topic, future in futures.items() if _was_created(topic, future, waiting)}
    _await_visible(admin, missing)
    _refuse_other_counts(missing, _describe(admin, list(missing)))
    return created


def _was_created(topic: str, future: Future[Any], waiting: Waiting) -> bool:
    try:
        waiting.answer(future, f"create topic {topic}")
    except KafkaException as error:
        code = error.args[0].code()
        if code == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        if code in _REFUSED_TOPICS:
            raise ConfigurationError(
                f"Kafka refused to create {topic}: {error.args[0].str()}",
                advice="K2_KAFKA_REPLICATION_FACTOR must not exceed the number of brokers",
                topic=topic,
            ) from error
        raise translate(error, f"create topic {topic}") from error
    return True


def _await_visible(admin: AdminClient, topics: Iterable[str]) -> None:
    """Wait until the broker that answers us knows the new topics: metadata follows the controller's word."""
    waiting, deadline = set(topics), time.monotonic() + REQUEST_TIMEOUT_SECONDS
    while waiting := waiting - _describe(admin, sorted(waiting)).keys():
        if time.monotonic() > deadline:
            raise KafkaUnavailable(
                f"created topics are not visible yet: {', '.join(sorted(waiting))}", advice="run `k2 init` again"
            )
        time.sleep(METADATA_POLL_SECONDS)
