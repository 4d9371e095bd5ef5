"""When to ask for a book snapshot: at once when one is wanted, and again, ever more rarely, while none comes."""

from dataclasses import dataclass

from k2_dagster.feeds.live.backoff import Backoff

# A snapshot is there within a second or two; when none came for this long, the request or its answer was lost.
ANSWER_SECONDS = 15.0
# Between two requests for one symbol, when its book is lost again and again: one that cannot be kept (a venue's defect,
# or ours) must not become a storm of requests, for which venues ban clients.
PACE = Backoff(1.0, 300.0)
# A book that held this long is not one that cannot be kept.
CALM_SECONDS = 300.0


@dataclass
class _Ask:
    due: float | None = None
    asked: float = float("-inf")
    tries: int = 0


class Asking:
    """Of one connection. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._asks: dict[str, _Ask] = {}

    def expect(self, symbol: str, now: float) -> None:
        """A snapshot is on its way by itself."""
        self._asks[symbol] = _Ask(now + ANSWER_SECONDS, now, 1)

    def want(self, symbol: str, now: float, chance: float = 0.0) -> None:
        """One is needed, as soon as the pace allows."""
        ask = self._asks.setdefault(symbol, _Ask())
        if now - ask.asked > CALM_SECONDS:
            ask.tries = 0
        ask.due = now if not ask.tries else max(now, ask.asked + PACE.delay_seconds(ask.tries, chance))

    def got(self, symbol: str) -> None:
        """One came that fits."""
        if symbol in self._asks:
            self._asks[symbol].due = None

    def due(self, now: float, chance: float = 0.0) -> list[str]:
        """The symbols to ask for now; counts as asked."""
        symbols = [symbol for symbol, ask in self._asks.items() if ask.due is not None and ask.due <= now]
        for symbol in symbols:
            ask = self._asks[symbol]
            ask.asked, ask.tries = now, ask.tries + 1
            ask.due = now + max(ANSWER_SECONDS, PACE.delay_seconds(ask.tries, chance))
        return symbols

    @property
    def waiting(self) -> int:
        """Symbols without a usable snapshot."""
        return sum(ask.due is not None for ask in self._asks.values())
