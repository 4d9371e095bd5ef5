import numpy as np
import pytest

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
