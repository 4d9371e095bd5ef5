"""While the control database is away: the one incident that cannot be written down is told directly.

After a grace each target is told once, with the identity that the incident will have. When the database is back, the
incident is written with these deliveries as made, and ends like any other. If the process dies in between, the next one
knows nothing of it; a heartbeat that stops says the same.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from k2_dagster.alerts.delivery import Send
from k2_dagster.alerts.judge import Incident
from k2_dagster.alerts.messages import Links, message
from k2_dagster.alerts.signals import SOURCE_SCOPE, Reading, Signal
from k2_dagster.alerts.sources import GRACE_SECONDS, unreadable_signal
from k2_dagster.alerts.targets import Target, send
from k2_dagster.errors import AlertUndelivered

logger = logging.getLogger(__name__)

CONTROL_DATABASE = "control-database"


class Away:
    """Since when rounds fail, and who has been told of it."""

    key = SOURCE_SCOPE + CONTROL_DATABASE

    def __init__(
        self, targets: Sequence[Target], links: Links, send: Send = send, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self._targets = [one for one in targets if one.wants("critical")]
        self._links = links
        self._send = send
        self._grace_seconds = grace_seconds
        self._since: float | None = None
        self._signal: Signal | None = None
        self._number = 1
        self._told: set[str] = set()

    @property
    def told(self) -> dict[str, frozenset[str]]:
        """By key, the targets that need not be told that it opened."""
        return {self.key: frozenset(self._told)} if self._told else {}

    def reading(self) -> Reading:
        """For the round after: the incident if somebody was told of it, and all is well from then on."""
        signals = {self.key: self._signal} if self._signal is not None else {}
        return Reading(CONTROL_DATABASE, (self.key,), signals)

    def recorded(self, next_number: int) -> None:
        """A round has written everything down."""
        self._since, self._signal, self._told = None, None, set()
        self._number = next_number

    def missed(self, problem: str, now: float) -> None:
        """A round failed at `now` (of a clock that only goes forward, seconds)."""
        if self._since is None:
            self._since = now
        if now - self._since < self._grace_seconds:
            return
        if self._signal is None:
            self._signal = unreadable_signal(CONTROL_DATABASE, problem)
        moment = datetime.now(UTC)
        opened = Incident(self.key, "critical", self._signal, moment, moment, transitions=self._number)
        for target in self._targets:
            if target.name not in self._told:
                self._tell(target, opened, moment)

    def _tell(self, target: Target, opened: Incident, moment: datetime) -> None:
        try:
            self._send(target, message(opened, "opened", self._links, moment))
        except AlertUndelivered as error:
            logger.warning("not delivered", extra={"target": target.name, "problem": error.message})
            return
        self._told.add(target.name)
        logger.info("told directly", extra={"target": target.name, "incident": self.key})
