"""How topics are configured, beside how they should be. Nothing is altered: somebody may have meant it."""

from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from k2_dagster.kafka.clients import REQUEST_TIMEOUT_SECONDS, translate

# Beyond the broker's own answer a future needs a moment to be handed over; only a client that hangs takes longer.
FUTURE_TIMEOUT_SECONDS = REQUEST_TIMEOUT_SECONDS + 5.0
REPLICATION = "replication factor"


def differences(
    admin: AdminClient, topics: Sequence[str], wanted: Mapping[str, str], replicas: int
) -> dict[str, tuple[str, ...]]:
    """Topic -> what is otherwise than wanted (`retention.ms is 1000, would be 604800000`); none for a topic that is as
    it should be. Two batched requests. Raises KafkaUnavailable, ConfigurationError (refused)."""
    if not topics:
        return {}
    resources = {topic: ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics}
    configs = admin.describe_configs(list(resources.values()), request_timeout=REQUEST_TIMEOUT_SECONDS)
    described = admin.describe_topics(TopicCollection(list(topics)), request_timeout=REQUEST_TIMEOUT_SECONDS)
    out = {}
    for topic, resource in resources.items():
        try:
            config = configs[resource].result(FUTURE_TIMEOUT_SECONDS)
            partitions = described[topic].result(FUTURE_TIMEOUT_SECONDS).partitions
        except KafkaException as error:
            raise translate(error, f"describe the configuration of {topic}") from error
        found = {name: config[name].value for name in wanted if name in config}
        found[REPLICATION] = str(min(len(one.replicas) for one in partitions))
        out[topic] = told_differences(found, {**wanted, REPLICATION: str(replicas)})
    return out


def told_differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """One text for each name whose value is another one."""
    return tuple(
        f"{name} is {found.get(name, 'not known')}, would be {value}"
        for name, value in wanted.items()
        if found.get(name) != value
    )
