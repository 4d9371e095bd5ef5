"""The dead man's switch: an address that is called while the watch works; its owner alarms when that stops."""

import logging
import time
from collections.abc import Callable

import httpx

logger = logging.getLogger(__name__)

# A call that takes longer than this would hold up the next look.
CALL_TIMEOUT_SECONDS = 5.0


class Heartbeat:
    """Calls `url` (GET) at most once in `interval_seconds`; None never calls."""

    def __init__(self, url: str | None, interval_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._next_at = 0.0
        self._failing = False

    def beat(self) -> None:
        """Call, if it is time. A call that fails is logged and made again with the next beat: whoever waits for it
        alarms if that goes on."""
        now = self._clock()
        if self._url is None or now < self._next_at:
            return
        try:
            httpx.get(self._url, timeout=CALL_TIMEOUT_SECONDS, follow_redirects=True).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if not self._failing:
                # the address is the secret: its error's text may hold it
                logger.warning("heartbeat not delivered", extra={"problem": type(error).__name__})
            self._failing = True
            return
        self._failing = False
        self._next_at = now + self._interval_seconds
