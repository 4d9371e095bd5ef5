"""Chaos, at a small size, and its account when something is missing."""

from pathlib import Path

import pytest

from k2_dagster.devstack.stack import Stack
from proofs import chaos
from proofs.accounting import account
from proofs.chaos import COVERING_KILLS, settle_accounts
from proofs.chaos_feeds import Feeds, profiles_text
from proofs.common import Proof, new_lake, new_token, proof_stack
from proofs.herd import herd
from tests.proofs.support import Holds

pytestmark = pytest.mark.stack


@pytest.mark.timeout(1_200)
def test_chaos(tmp_path: Path, holds: Holds) -> None:
    """On a stack of its own, whose parts are killed too: so many kills that each point and part has its turn."""
    with proof_stack(None) as own:
        line = holds(chaos.run(own, tmp_path, kills=COVERING_KILLS, seed=11, rate=200.0))
    assert (line["missing"], line["duplicated"], line["extra"], line["differences_to_undisturbed"]) == (0, 0, 0, 0)
    assert int(str(line["kills"])) >= COVERING_KILLS
    assert isinstance(line["parts_killed"], dict)
    assert set(line["parts_killed"]) == {"kafka-1", "postgres", "registry"}
    assert (line["zombies"], line["lost_answers"]) == (5, 2)


def test_what_is_not_drained_is_missing_and_what_differs_is_told(stack: Stack, tmp_path: Path) -> None:
    """The proof can fail: a topic that goes on after the drain has messages in no table."""
    exchange = f"small_{new_token()}"
    lake = new_lake(stack, tmp_path, profiles_text({exchange: ("dense", "monotone", "range")}), [exchange])
    proof = Proof("chaos")
    with herd(tmp_path / "workers") as workers:
        for seed in (1, 2):
            feeds = Feeds(lake, [exchange], rate=200.0, seed=seed)
            feeds.start()
            published = sum(feeds.stop().values())
            if seed == 1:
                settle_accounts(workers, stack, lake, [exchange], tmp_path, proof)
                assert proof.findings == []
    accounting = account(lake, [exchange])
    assert accounting.missing == published
    assert not accounting.clean
