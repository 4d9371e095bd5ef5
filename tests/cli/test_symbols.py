"""`k2 symbols`: what it prints."""

import json
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from k2_dagster.cli import main
from k2_dagster.cli.symbols import told
from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.query.symbols import Found
from k2_dagster.settings import Settings, as_environment
from tests.feeds.landing import Venue


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Found([{}], 1, 9), None),
        (Found([{}], 7, 9), "only the best 1 of 7 are shown: say more, or --limit more"),
        (Found([], 0, 9), "none of 9 symbols is like 'x'"),
        (Found([], 0, 9, ["XY", "XZ"]), "none of 9 symbols is like 'x'; did you mean XY, XZ?"),
    ],
)
def test_what_is_said_beside_the_table(found: Found, said: str | None) -> None:
    assert told(found, "x", None, None) == said


def test_without_definitions_it_says_who_publishes_them() -> None:
    assert "`k2 feed VENUE` and `k2 simulate`" in str(told(Found([], 0, 0), "", None, None))
    assert str(told(Found([], 0, 0), "", "kraken", "crypto")).startswith("no crypto definitions of kraken have landed")


@pytest.mark.stack
def test_from_the_simulator_to_the_answer(settings: Settings, tmp_path: Path) -> None:
    lake = Venue(settings, tmp_path, "sim_futures")
    environment = as_environment(lake.settings)

    def k2(*arguments: str) -> str:
        result = CliRunner().invoke(main, list(arguments), env=environment)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "no definitions have landed" in k2("symbols")
    k2("simulate", "--exchange", lake.name, "--symbols", "8", "--seconds", "1", "--flat-out",
       "--start", "2026-03-02T00:00:00Z")  # fmt: skip
    drain_exchange(lake.settings, lake.profiles, lake.name, cap_seconds=None, stop=threading.Event())
    (found,) = json.loads(k2("symbols", "nk2", "--asset-class", "futures", "--json"))
    told_ = ("symbol", "exchange", "tick_size", "contract_multiplier", "contract_unit", "expiry", "canonical_symbol")
    assert [found[name] for name in told_] == [
        "NK225Z6", lake.name, "5.00000000", "1000.00000000", "JPY", "2026-12-11T00:00:00+00:00", None,
    ]  # fmt: skip
    assert len(k2("symbols", "--exchange", lake.name).splitlines()) == 1 + 8
    assert "did you mean NK225Z6" in k2("symbols", "NK225Z9")
    assert "no crypto definitions have landed" in k2("symbols", "--asset-class", "crypto")
    result = CliRunner().invoke(main, ["symbols", "--exchange", "nowhere"], env=environment)
    assert result.exit_code == 4
    assert "exchange was 'nowhere'" in result.output
