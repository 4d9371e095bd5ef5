import numpy as np
import pytest

from k2_dagster.feeds.simulator.market import FLOOR_TICKS
from k2_dagster.feeds.simulator.symbols import make_instruments
from k2_dagster.schemas.profiles import load_profiles


@pytest.mark.parametrize("exchange", ["sim_equity", "sim_crypto", "sim_futures"])
@pytest.mark.parametrize("count", [1, 3, 20_000])
def test_every_symbol_has_a_name_of_its_own(exchange: str, count: int) -> None:
    instruments = make_instruments(load_profiles().exchange(exchange), count, np.random.default_rng(1))
    assert len(set(instruments.names)) == len(instruments.names) == count
    assert instruments.cumulative_share[-1] == pytest.approx(1.0)
    assert len(instruments.tick) == len(instruments.lot) == len(instruments.first_ticks) == count


def test_symbols_of_high_priority_are_the_busiest() -> None:
    names = make_instruments(load_profiles().exchange("sim_equity"), 5, np.random.default_rng(1)).names
    assert names[:2] == ["AAPL", "MSFT"]


@pytest.mark.parametrize(
    ("exchange", "name", "lowest", "highest", "tick"),
    [
        ("sim_crypto", "BTCUSDT", 50_000, 75_000, 0.01),
        ("sim_crypto", "DOGEUSDT", 0.1, 0.15, 0.00001),
        ("sim_equity", "AAPL", 200, 260, 0.01),
        ("sim_futures", "NK225Z6", 37_000, 41_000, 5),
    ],
)
def test_known_symbols_have_a_price_that_people_know(
    exchange: str, name: str, lowest: float, highest: float, tick: float
) -> None:
    for seed in range(20):
        found = make_instruments(load_profiles().exchange(exchange), 30, np.random.default_rng(seed))
        place = found.names.index(name)
        assert lowest < found.first_ticks[place] * found.tick[place] / 10**8 < highest
        assert found.tick[place] == round(tick * 10**8)
        assert found.first_ticks.min() > 2 * FLOOR_TICKS
