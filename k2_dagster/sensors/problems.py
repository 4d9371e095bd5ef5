"""Topics that cannot be looked at: which are a problem, and which belong to an exchange that nobody uses here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import select

from k2_dagster.errors import K2Error, NotInitialized
from k2_dagster.ingest.lag import LagReport
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas.topics import topic_name
from k2_dagster.state.tables import topics


@dataclass(frozen=True, slots=True)
class Problems:
    """By topic, what is wrong with it; and exchanges of the profiles that were never initialised."""

    by_topic: Mapping[str, K2Error] = field(default_factory=dict)
    not_initialised: frozenset[str] = frozenset()

    def told(self) -> dict[str, str]:
        """By topic, in a line."""
        return {topic: error.message.splitlines()[0] for topic, error in self.by_topic.items()}


def problems(k2: Platform, report: LagReport) -> Problems:
    """Sort the errors of a look. An exchange without any topic, of which none was ever read, is not initialised: the
    profiles describe more exchanges than one installation has. Raises DatabaseUnavailable, NotInitialized."""
    looked_at = {one.exchange for one in report.lags}
    absent = {name for name in set(k2.profiles.exchanges) - looked_at if _absent(k2, name, report)}
    if absent:
        with k2.database.begin() as connection:
            read = set(connection.execute(select(topics.c.topic).distinct()).scalars())
        absent = {name for name in absent if not read & set(_topics(k2, name))}
    ignored = {topic for name in absent for topic in _topics(k2, name)}
    return Problems({topic: error for topic, error in report.errors.items() if topic not in ignored}, frozenset(absent))


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Problems that are new or other than they were, and topics that have none any more."""
    return {topic: text for topic, text in now.items() if before.get(topic) != text}, sorted(before.keys() - now.keys())


def _absent(k2: Platform, exchange: str, report: LagReport) -> bool:
    return all(isinstance(report.errors.get(topic), NotInitialized) for topic in _topics(k2, exchange))


def _topics(k2: Platform, exchange: str) -> list[str]:
    return [topic_name(dataset, exchange) for dataset in k2.profiles.exchange(exchange).datasets]
