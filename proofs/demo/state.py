"""What the demo shows while it runs, read from Kafka and the control database: nothing is reported by the parts."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import select

from k2_dagster.kafka.ends import TopicEnd, TopicEnds
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.tables import commits, gaps

QUARANTINE = table_name("quarantine")


@dataclass
class Totals:
    """Figures since the demo began."""

    messages: int = 0
    rows: int = 0
    quarantined: int = 0
    commit_seconds: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    runs: set[str] = field(default_factory=set)

    @property
    def lag_messages(self) -> int:
        """Messages in Kafka that are in no table yet."""
        return max(0, self.messages - self.rows - self.quarantined)

    def commit_milliseconds(self, percentile: float) -> float:
        """Percentile of the commit times; 0 before the first."""
        return float(np.percentile(self.commit_seconds, percentile) * 1000) if self.commit_seconds else 0.0


class Watch:
    """Reads the totals of one exchange, from the moment it is made."""

    def __init__(self, settings: Settings, profiles: Profiles, exchange: str) -> None:
        self.database = Database(settings)
        self.exchange = exchange
        self._ends = TopicEnds(settings)
        self._topics = [topic_name(dataset, exchange) for dataset in profiles.exchange(exchange).datasets]
        self._position = 0
        self.totals = Totals()
        self._messages_before = self._messages()
        self._gaps_before = {row["id"] for row in self.gaps()}
        self._read_commits()
        self.totals = Totals()

    def read(self) -> Totals:
        """The totals now."""
        self._read_commits()
        self.totals.messages = self._messages() - self._messages_before
        return self.totals

    def gaps(self) -> list[dict[str, Any]]:
        """Gaps in the venue's numbers that were reported since the start."""
        query = select(gaps).where(gaps.c.exchange == self.exchange, gaps.c.numbering == "venue")
        with self.database.begin() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return [row for row in rows if row["id"] not in getattr(self, "_gaps_before", set())]

    def close(self) -> None:
        """Give the connections back."""
        self.database.close()

    def _messages(self) -> int:
        found = self._ends.read(self._topics)
        return sum(sum(one.ends.values()) for one in found.values() if isinstance(one, TopicEnd))

    def _read_commits(self) -> None:
        query = (
            select(commits)
            .where(
                commits.c.position > self._position,
                commits.c.exchange == self.exchange,
                commits.c.table_name != QUARANTINE,
            )
            .order_by(commits.c.position)
        )
        with self.database.begin() as connection:
            for row in connection.execute(query).mappings():
                self._position = row["position"]
                self.totals.rows += row["counts"]["rows"]
                self.totals.quarantined += row["counts"]["quarantined"]
                self.totals.reasons.update(row["counts"]["reasons"])
                self.totals.runs.add(row["run_id"])
                if row["commit_seconds"] is not None:
                    self.totals.commit_seconds.append(row["commit_seconds"])
