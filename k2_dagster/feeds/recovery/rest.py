"""A venue's REST interface, asked with manners: paced, bounded, and its refusals told apart."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import orjson
import pyarrow as pa

from k2_dagster import __version__
from k2_dagster.errors import ConfigurationError, RecoveryRefused, VenueUnavailable
from k2_dagster.feeds.capture.lines import Collector, Event, Stream
from k2_dagster.feeds.live.backoff import BUSY_STATUSES, pause_seconds
from k2_dagster.feeds.recovery.source import MissingRange, Recovered, require_range

# An answer comes within a second; a stop waits for one that is under way, and a process must end within five.
ANSWER_SECONDS = 4.0
# Between two requests. Pages of old trades cost up to 25 of the 6,000 (futures: 20 of 2,400) that a minute has at
# Binance; Coinbase takes ten a second of everybody.
BETWEEN_SECONDS = 0.5
# A page of a thousand trades is 150 kB.
MOST_BYTES = 4_194_304
# Pages for one range: ids may jump, but an answer that never gets on must end.
MOST_PAGES = 50
QUOTED_CHARACTERS = 200
HTTP_UNAUTHORIZED, HTTP_FORBIDDEN, HTTP_ERROR, HTTP_SERVER_ERROR = 401, 403, 400, 500
NANOS_PER_MICRO = 1_000

Trade = Mapping[str, Any]


class RestClient:
    """Asks one venue. `key` names the setting and header of its key, if it has one."""

    def __init__(
        self,
        url: str,
        stop: threading.Event,
        headers: Mapping[str, str] | None = None,
        key_setting: str = "",
        between_seconds: float = BETWEEN_SECONDS,
    ) -> None:
        self._stop = stop
        self._key_setting = key_setting
        self._between_seconds = between_seconds
        self._asked_at = float("-inf")
        named = {"User-Agent": f"k2/{__version__}", **(headers or {})}
        self._client = httpx.Client(base_url=url, timeout=ANSWER_SECONDS, headers=named)

    def trades(self, path: str, query: Mapping[str, str | int]) -> list[Trade]:
        """A page: a list of objects. Raises VenueUnavailable (away, busy, or an answer that is none),
        ConfigurationError (the key), RecoveryRefused (anything else that it objects to)."""
        self._pause()
        try:
            answer = self._client.get(path, params=dict(query))
            self._judge(answer)
        except httpx.HTTPStatusError as error:
            raise self._refused(error) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise VenueUnavailable(
                f"{self._client.base_url} did not answer: {type(error).__name__}: {error}", advice="it is tried again"
            ) from error
        try:
            found = orjson.loads(answer.content)
        except orjson.JSONDecodeError as error:
            raise self._none(answer, f"it is not JSON ({error})") from error
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self._none(answer, "it is not a list of trades")
        return found

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def _pause(self) -> None:
        wait = self._asked_at + self._between_seconds - time.monotonic()
        if wait > 0:
            self._stop.wait(wait)
        if self._stop.is_set():
            raise VenueUnavailable("asked to stop before the venue was asked", advice="it is tried again")
        self._asked_at = time.monotonic()

    def _judge(self, answer: httpx.Response) -> None:
        answer.raise_for_status()
        if len(answer.content) > MOST_BYTES:
            raise self._none(answer, f"{len(answer.content):,} bytes are more than any page")

    def _refused(self, error: httpx.HTTPStatusError) -> Exception:
        answer = error.response
        status, text = answer.status_code, _quoted(answer)
        if status in BUSY_STATUSES:
            wait = pause_seconds(error)
            return VenueUnavailable(
                f"{answer.url.host} has too many requests from here (status {status}): it wants {wait:g} s",
                advice="it is asked again after that",
                wait_seconds=wait,
            )
        if status >= HTTP_SERVER_ERROR:
            return VenueUnavailable(f"{answer.url.host} answered {status}: {text}", advice="it is tried again")
        if status in (HTTP_UNAUTHORIZED, HTTP_FORBIDDEN) or '"code":-2014' in text or '"code":-2015' in text:
            return ConfigurationError(
                f"{answer.url.host} does not let us in ({status}): {text}",
                advice=f"set {self._key_setting} to a valid key" if self._key_setting else "look at the venue's terms",
            )
        return RecoveryRefused(
            f"{answer.url.host} refused {answer.url.path} ({status}): {text}", advice="is the symbol the venue's?"
        )

    def _none(self, answer: httpx.Response, why: str) -> VenueUnavailable:
        return VenueUnavailable(
            f"the answer of {answer.url.host} is none: {why}: {_quoted(answer)}", advice="it is tried again"
        )


def require_trades(missing: MissingRange, exchange: str, stream: str, aggregated: str = "") -> None:
    """Raises RecoveryRefused unless these are single trades of a symbol of the exchange, and ConfigurationError for a
    range that cannot be. `aggregated` is the stream of aggregated trades, if the venue has one."""
    require_range(missing, least=0)
    if missing.exchange != exchange:
        raise RecoveryRefused(
            f"this source has the trades of {exchange}, not of {missing.exchange}",
            advice="ask the source that the exchange's profile names",
        )
    if missing.stream == stream and missing.dataset == "ticks" and missing.symbol and not missing.channel:
        return
    if aggregated and missing.stream == aggregated:
        raise RecoveryRefused(
            f"{missing.stream} has aggregated trades, whose ids are not those of the trades that the venue gives again",
            advice=f"subscribe to {stream} instead",
        )
    raise RecoveryRefused(
        f"the venue gives past trades again, and nothing of {missing.dataset}/{missing.stream}",
        advice=f"only ticks/{stream} can be asked for",
    )


def as_rows(missing: MissingRange, stream: Stream, messages: Sequence[Trade]) -> tuple[pa.RecordBatch | None, str]:
    """Messages in the form of the live feed as rows in wire form, by what reads the live feed, in the session that they
    were missed in; and what is told of those that could not be read."""
    collector = Collector(missing.exchange)
    now = time.time_ns() // NANOS_PER_MICRO * NANOS_PER_MICRO
    for number, message in enumerate(messages):
        collector.add(stream, Event(number, orjson.dumps(message), now, message, finer=False))
    block = collector.block(0, len(messages))
    told = f"{len(block.refusals):,} trades cannot be read: {block.refusals[0].reason}" if block.refusals else ""
    if stream.dataset not in block.rows:
        return None, told
    rows = block.rows[stream.dataset].batch
    if missing.session:
        place = rows.schema.get_field_index("session")
        rows = rows.set_column(place, rows.schema.field(place), pa.repeat(missing.session, rows.num_rows))
    return rows, told


def answer_of(missing: MissingRange, stream: Stream, messages: Sequence[Trade], *, at_end: bool) -> Recovered:
    """What a source returns. `at_end`: the venue has shown all that it has of the range."""
    rows, told = as_rows(missing, stream, messages)
    reason = told or ("the venue has no more of them" if at_end else f"{MOST_PAGES} pages did not reach the end")
    return Recovered({} if rows is None else {stream.dataset: rows}, exhausted=at_end and not told, reason=reason)


def whole_number(trade: Trade, key: str) -> int | None:
    """An id, or None for what is none."""
    found = trade.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def _quoted(answer: httpx.Response) -> str:
    text = answer.text
    return text if len(text) <= QUOTED_CHARACTERS else text[:QUOTED_CHARACTERS] + "..."
