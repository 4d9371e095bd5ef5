"""Work in a thread of its own, whose outcome is asked for in another thread."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Outcome = TypeVar("Outcome")


class Work(threading.Thread, Generic[Outcome]):
    """Does one thing, once started. A daemon: one that hangs does not hold up the end of the process."""

    def __init__(self, body: Callable[[], Outcome], name: str | None = None) -> None:
        super().__init__(name=name, daemon=True)
        self._body = body
        self._returned: list[Outcome] = []
        self.error: BaseException | None = None
        """What it raised."""

    def run(self) -> None:
        """Do it."""
        try:
            self._returned.append(self._body())
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that asks for the outcome)
            self.error = error

    def outcome(self) -> Outcome:
        """What it returned; raises what it raised. To be asked only when it has ended (`join`, `is_alive`)."""
        if self.error is not None:
            raise self.error
        return self._returned[0]
