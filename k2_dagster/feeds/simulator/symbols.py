"""The instruments of a simulated exchange: names, tick sizes, first prices, and how the flow is shared among them."""

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from k2_dagster.schemas.declaration import PRICE_SCALE, SIZE_SCALE
from k2_dagster.schemas.profiles import ExchangeProfile

Int64s = NDArray[np.int64]

# Share of the flow falls with the rank of a symbol to this power (Zipf), as on real exchanges.
ZIPF_EXPONENT = 1.0
# First prices of the others, in ticks. Above the lowest that a book can fall to by far, and five digits as most
# instruments show.
LOWEST_FIRST_TICKS = 10_000
HIGHEST_FIRST_TICKS = 90_000
# Their tick sizes as powers of ten of the quote currency. Equities trade in cents; coins from 1e-6 up to 1.
EQUITY_TICK_EXPONENT = -2
CRYPTO_TICK_EXPONENTS = (-6, 0)

# A first price is drawn within this share of the usual one.
FIRST_PRICE_SPREAD = 0.02

# Of symbols that people know: tick, lot and usual price, in the quote currency and the base, so that nobody stumbles
# over a bitcoin of three cents. Lots are chosen for sizes that are usual (an order has up to a thousand).
_KNOWN: dict[str, dict[str, tuple[str, str, str]]] = {
    "equities": {
        "AAPL": ("0.01", "1", "230"), "MSFT": ("0.01", "1", "430"), "NVDA": ("0.01", "1", "130"),
        "AMZN": ("0.01", "1", "190"), "TSLA": ("0.01", "1", "250"), "GOOGL": ("0.01", "1", "170"),
        "META": ("0.01", "1", "550"), "JPM": ("0.01", "1", "210"), "XOM": ("0.01", "1", "115"),
        "WMT": ("0.01", "1", "80"),
    },
    "crypto": {
        "BTCUSDT": ("0.01", "0.001", "62000"), "ETHUSDT": ("0.01", "0.01", "3100"), "SOLUSDT": ("0.01", "0.1", "150"),
        "XRPUSDT": ("0.0001", "10", "0.6"), "DOGEUSDT": ("0.00001", "100", "0.12"),
        "BNBUSDT": ("0.01", "0.01", "580"), "ADAUSDT": ("0.0001", "10", "0.45"), "LTCUSDT": ("0.01", "0.1", "85"),
    },
    "futures": {
        "NK225Z6": ("5", "1", "39000"), "TOPIXZ6": ("0.5", "1", "2700"), "JGBZ6": ("0.01", "1", "143"),
        "GOLDZ6": ("1", "1", "12500"), "OILZ6": ("10", "1", "72000"),
    },
}  # fmt: skip
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
    known = _KNOWN.get(profile.asset_class, {})
    names = [*high, *(name for name in known if name not in high)][:count]
    pattern = _PATTERN.get(profile.asset_class, "{}")
    names += [pattern.format(_letters(place)) for place in range(count - len(names))]
    if profile.asset_class == "crypto":
        exponents = rng.integers(CRYPTO_TICK_EXPONENTS[0], CRYPTO_TICK_EXPONENTS[1], count, endpoint=True)
        lots = 10 ** rng.integers(0, SIZE_SCALE, count, endpoint=True)
    else:
        exponents = np.full(count, EQUITY_TICK_EXPONENT)
        lots = np.full(count, 10**SIZE_SCALE)
    ticks = 10 ** (exponents + PRICE_SCALE).astype(np.int64)
    first_ticks = rng.integers(LOWEST_FIRST_TICKS, HIGHEST_FIRST_TICKS, count)
    spread = rng.uniform(1 - FIRST_PRICE_SPREAD, 1 + FIRST_PRICE_SPREAD, count)
    for place, name in enumerate(names):
        if name in known:
            tick, lot, price = (Decimal(text) for text in known[name])
            ticks[place], lots[place] = int(tick.scaleb(PRICE_SCALE)), int(lot.scaleb(SIZE_SCALE))
            first_ticks[place] = round(float(price / tick) * spread[place])
    shares = 1.0 / np.arange(1, count + 1) ** ZIPF_EXPONENT
    return Instruments(
        names=names,
        tick=ticks.astype(np.int64),
        lot=lots.astype(np.int64),
        first_ticks=first_ticks,
        cumulative_share=np.cumsum(shares) / shares.sum(),
    )


def _letters(place: int) -> str:
    """0 -> `AAA`, 1 -> `AAB`: distinct for every place."""
    text = ""
    for _ in range(3):
        place, letter = divmod(place, 26)
        text = chr(ord("A") + letter) + text
    return text if not place else f"{text}{place}"
