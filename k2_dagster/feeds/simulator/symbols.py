"""The instruments of a simulated exchange: names, tick sizes, first prices, and how the flow is shared among them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from k2_dagster.schemas.declaration import PRICE_SCALE, SIZE_SCALE
from k2_dagster.schemas.profiles import ExchangeProfile

Int64s = NDArray[np.int64]

# Share of the flow falls with the rank of a symbol to this power (Zipf), as on real exchanges.
ZIPF_EXPONENT = 1.0
# First prices, in ticks. Above the lowest that a book can fall to by far, and five digits as most instruments show.
LOWEST_FIRST_TICKS = 10_000
HIGHEST_FIRST_TICKS = 90_000
# Tick sizes as powers of ten of the quote currency. Equities trade in cents; coins from 1e-6 up to 1.
EQUITY_TICK_EXPONENT = -2
CRYPTO_TICK_EXPONENTS = (-6, 0)

_KNOWN = {
    "equities": ("AAPL", "MSFT", "NVDA", "AMZN", "TSLA", "GOOGL", "META", "JPM", "XOM", "WMT"),
    "crypto": ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT", "BNBUSDT", "ADAUSDT", "LTCUSDT"),
    "futures": ("NK225Z6", "TOPIXZ6", "JGBZ6", "GOLDZ6", "OILZ6"),
}
_PATTERN = {"equities": "Q{}", "crypto": "K{}USDT", "futures": "{}H7"}


@dataclass(frozen=True)
class Instruments:
    """One entry per symbol, most active first. `tick` and `lot` are wire values (scale 8) of one tick and one lot."""

    names: list[str]
    tick: Int64s
    lot: Int64s
    first_ticks: Int64s
    cumulative_share: NDArray[np.float64]


def make_instruments(profile: ExchangeProfile, count: int, rng: np.random.Generator) -> Instruments:
    """The same profile, count and generator state give the same instruments."""
    high = [name for name, priority in profile.priorities.items() if priority == "high"]
    known = [name for name in _KNOWN.get(profile.asset_class, ()) if name not in high]
    names = (high + known)[:count]
    pattern = _PATTERN.get(profile.asset_class, "{}")
    names += [pattern.format(_letters(place)) for place in range(count - len(names))]
    if profile.asset_class == "crypto":
        exponents = rng.integers(CRYPTO_TICK_EXPONENTS[0], CRYPTO_TICK_EXPONENTS[1], count, endpoint=True)
        lots = 10 ** rng.integers(0, SIZE_SCALE, count, endpoint=True)
    else:
        exponents = np.full(count, EQUITY_TICK_EXPONENT)
        lots = np.full(count, 10**SIZE_SCALE)
    shares = 1.0 / np.arange(1, count + 1) ** ZIPF_EXPONENT
    return Instruments(
        names=names,
        tick=10 ** (exponents + PRICE_SCALE).astype(np.int64),
        lot=lots.astype(np.int64),
        first_ticks=rng.integers(LOWEST_FIRST_TICKS, HIGHEST_FIRST_TICKS, count),
        cumulative_share=np.cumsum(shares) / shares.sum(),
    )


def _letters(place: int) -> str:
    """0 -> `AAA`, 1 -> `AAB`: distinct for every place."""
    text = ""
    for _ in range(3):
        place, letter = divmod(place, 26)
        text = chr(ord("A") + letter) + text
    return text if not place else f"{text}{place}"
