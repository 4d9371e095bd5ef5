"""Each proof at a small size, on the session's stack: they hold, and their line says so."""

import json
from pathlib import Path

import pytest

from k2_dagster.devstack.stack import Stack
from proofs import captures, chaos, dagster_endings, dagster_trickle, fuzz, halted, injected
from proofs.accounting import account
from proofs.chaos import COVERING_KILLS, settle_accounts
from proofs.chaos_feeds import Feeds, profiles_text
from proofs.common import Proof, conclude, new_lake, new_token, proof_stack
from proofs.herd import herd

pytestmark = pytest.mark.stack


def _assert_holds(proof: Proof, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    status = conclude(proof)
    line: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["findings"] == []
    assert (status, line["holds"], line["proof"]) == (0, True, proof.proof)
    return line


def test_fuzz(stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = _assert_holds(fuzz.run(stack, tmp_path, messages=1_500, seed=11), capsys)
    assert line["rows"]
    assert line["quarantined"]
    assert line["held_at_unknown_id"]


def test_injected_faults(stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = _assert_holds(injected.run(stack, tmp_path, seeds=1, first_seed=11, seconds=60.0), capsys)
    assert line["reported_gaps"]
    assert line["reported_late"]


@pytest.mark.captures
def test_captures(stack: Stack, tmp_path: Path, sample_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("Coinbase", "Kraken Futures", "twins trade", "twins difference_depth")
    line = _assert_holds(captures.run(stack, tmp_path, sample_data, chosen), capsys)
    assert line["defects_found"] == {"day": 1, "duplicate": 2, "gap": 2, "times": 2, "rule": 1}


def test_captures_that_are_not_there_are_skipped(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = _assert_holds(captures.run(stack, tmp_path, tmp_path / "none"), capsys)
    assert line["skipped"] is True


@pytest.mark.timeout(600)
def test_dagster_endings(stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of each that ends a run; how daemons end is in tests/test_jobs.py."""
    proof = dagster_endings.run(stack, tmp_path, terminations=1, others=1, seed=11, compare_mirror=False)
    line = _assert_holds(proof, capsys)
    assert line["ways"] == {"terminate": 1, "kill worker": 1}
    assert line["ended"] == {"CANCELED": 1, "FAILURE": 1}


@pytest.mark.timeout(600)
def test_dagster_trickle(stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A target of some seconds in place of the minute that the promise is about."""
    proof = dagster_trickle.run(
        stack, tmp_path, exchanges=2, minutes=0.5, seed=11, compare_mirror=False, K2_FRESHNESS_TARGET_SECONDS="10"
    )
    line = _assert_holds(proof, capsys)
    assert isinstance(line["margin"], float)
    assert line["runs"]


@pytest.mark.timeout(600)
def test_halted(stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An incident counts as resolved after a second in place of a minute."""
    line = _assert_holds(halted.run(stack, tmp_path, hold_seconds=1.0), capsys)
    assert (line["recovered"], line["rows"]) == (halted.MISSING, halted.NEWEST + halted.OTHER_NEWEST)
    assert line["asked_of_the_venue"]


def test_too_many_runs_are_a_finding() -> None:
    proof = Proof("dagster_trickle")
    made = [{"jobName": "drain", "status": "SUCCESS", "startTime": 1.0, "endTime": 2.5}] * 40
    dagster_trickle._judge(proof, made, 2.0)
    assert proof.findings == ["20.0 runs a minute, fewer than 20 were promised"]
    assert (proof.counts["margin"], proof.counts["run_seconds_median"]) == (0.0, 1.5)


@pytest.mark.timeout(1_200)
def test_chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a stack of its own, whose parts are killed too: so many kills that each point and part has its turn."""
    with proof_stack(None) as own:
        line = _assert_holds(chaos.run(own, tmp_path, kills=COVERING_KILLS, seed=11, rate=200.0), capsys)
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
