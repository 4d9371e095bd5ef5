"""The demo's decisions, and the demo itself at its shortest."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from k2_dagster.devstack.downloads import Artifact, Store
from k2_dagster.errors import ConfigurationError
from k2_dagster.verify.report import Report
from proofs.demo.closing import Outcome, copy_lines, first_rows, links
from proofs.demo.killing import Killer
from proofs.demo.news import News
from proofs.demo.options import DEFAULT_SECONDS, read_options
from proofs.demo.plan import (
    KILL,
    TIMELINE,
    Line,
    due,
    fault_lines,
    feed_options,
    gaps_found,
    read_truth,
    seconds_until_told,
)
from proofs.demo.stage import missing_megabytes
from proofs.demo.state import Totals
from proofs.demo.view import WIDTH_CHARACTERS, View, closing, figures

REPOSITORY = Path(__file__).parents[3]
GAP: dict[str, Any] = {"id": 1, "symbol": "A", "first_sequence": 5, "last_sequence": 11, "missing": 7}
DROP = {"type": "drop", "symbol": "A", "first_sequence": 5, "last_sequence": 11, "count": 7}
TRUTH = [DROP, {"type": "duplicate", "count": 12}, {"type": "corrupt", "count": 3}]


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("DEMO_SECONDS", "soon", "30 to 86400"),
        ("DEMO_SECONDS", "29", "30 to 86400"),
        ("DEMO_SECONDS", "nan", "30 to 86400"),
        ("DEMO_SECONDS", "-90", "30 to 86400"),
        ("DEMO_KEEP", "yes", "1 .* 0"),
        ("CAPTURE", "nowhere.pcap", "captures.md"),
    ],
)
def test_a_wrong_option_is_refused_with_what_would_be_valid(name: str, value: str, valid: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as refused:
        read_options({name: value})
    assert re.search(valid, refused.value.advice)


def test_what_is_not_given_has_its_default_and_ci_keeps_nothing(tmp_path: Path) -> None:
    assert (read_options({}).seconds, read_options({}).keep, read_options({}).capture) == (DEFAULT_SECONDS, True, None)
    assert read_options({"DEMO_SECONDS": "30"}).seconds == 30
    assert not read_options({"CI": "true"}).keep
    assert read_options({"CI": "true", "DEMO_KEEP": "1"}).keep
    assert not read_options({"DEMO_KEEP": "0"}).keep
    assert read_options({"CAPTURE": str(REPOSITORY / "README.md")}).capture is not None


def test_every_fault_of_the_timeline_is_one_the_simulator_plants() -> None:
    faults = feed_options()[1::2]
    assert [fault.split(":")[0] for fault in faults] == ["drop", "duplicate", "corrupt"]
    assert feed_options()[::2] == ["--fault"] * 3


def test_moments_come_in_their_order_once() -> None:
    waiting = list(TIMELINE)
    assert due(waiting, 9.9) == []
    assert due(waiting, 15) == list(TIMELINE[:2])
    assert due(waiting, 15) == []
    assert due(waiting, 60) == list(TIMELINE[2:])
    assert waiting == []
    assert TIMELINE[-1] is KILL


@pytest.mark.parametrize(
    ("elapsed", "left"), [(0.0, 0.0), (9.9, 0.0), (10.0, 7.0), (13.0, 4.0), (17.0, 0.0), (60.0, 0.0)]
)
def test_a_feed_that_is_ended_runs_on_until_the_planted_gap_is_told_of(elapsed: float, left: float) -> None:
    assert seconds_until_told(elapsed) == left


def test_a_gap_counts_only_with_its_exact_range_and_others_are_too_many() -> None:
    assert gaps_found(TRUTH, [GAP]) == (1, 1)
    assert gaps_found(TRUTH, []) == (1, 0)
    assert gaps_found(TRUTH, [GAP | {"last_sequence": 10}]) == (1, 1), "none found, one invented"
    assert gaps_found(TRUTH, [GAP, GAP | {"symbol": "B"}]) == (1, 2)


def test_planted_is_set_beside_found() -> None:
    reasons = Counter({"duplicate": 12, "undecodable": 2, "not_framed": 1})
    assert all(line.holds for line in fault_lines(TRUTH, [GAP], reasons))
    assert [line.what for line in fault_lines(TRUTH, [], reasons) if not line.holds] == ["gap"]
    less = Counter({"duplicate": 11, "undecodable": 4})
    assert [line.what for line in fault_lines(TRUTH, [GAP], less) if not line.holds] == ["duplicates", "quarantine"]
    assert [line.what for line in fault_lines([], [GAP], reasons) if line.holds] == [], "nothing was planted at all"


def test_of_a_capture_faults_are_counts() -> None:
    lines = fault_lines(None, [GAP], Counter({"duplicate": 500}))
    assert [(line.planted, line.found, line.holds) for line in lines] == [(None, n, True) for n in (1, 500, 0)]


def test_the_truth_is_read_by_lines() -> None:
    assert read_truth([json.dumps(DROP), "", "\n"]) == [DROP]


def test_news_are_told_once() -> None:
    news, totals = News(), Totals()
    assert news.of(totals, [], 3.0) == []
    totals.rows, totals.reasons = 5, Counter({"duplicate": 12, "undecodable": 3})
    first, *rest = news.of(totals, [GAP], 21.44)
    assert (first, news.first_rows_seconds) == ("first rows in Iceberg, 21.4 s after the start (30 s promised)", 21.44)
    assert rest == [
        "found: a gap of 7 in A, 5 to 11",
        "found: 12 duplicates, now in quarantine",
        "found: 3 bad messages, now in quarantine",
    ]
    assert news.of(totals, [GAP], 25.0) == []
    totals.reasons["duplicate"] += 1
    assert news.of(totals, [GAP], 26.0) == ["found: 1 duplicates, now in quarantine"]


def test_the_first_rows_are_held_to_their_promise() -> None:
    assert first_rows(29.9).endswith("ok")
    assert first_rows(30.1).endswith("LATE")
    assert "none" in first_rows(None)


def _outcome(killer: Killer, *, truth: bool = True, interrupted: bool = False) -> Outcome:
    totals = Totals(reasons=Counter({"duplicate": 12, "undecodable": 3}))
    return Outcome(totals, [GAP], TRUTH if truth else None, killer, 1.0, None, caught_up=True, interrupted=interrupted)


def _killed(outcome: Outcome) -> tuple[int | None, int]:
    (line,) = [one for one in outcome.lines() if one.what == "killed runs"]
    return line.planted, line.found


def test_a_run_must_have_been_killed_unless_there_was_none() -> None:
    killer = Killer()
    assert _killed(_outcome(killer)) == (0, 0), "it was not time yet"
    killer.armed = True
    assert _killed(_outcome(killer)) == (1, 0)
    assert _killed(_outcome(killer, truth=False)) == (0, 0)
    assert _killed(_outcome(killer, interrupted=True)) == (0, 0)
    killer.run, killer.failed = "r", True
    assert (killer.at_work, _killed(_outcome(killer))) == (True, (1, 0)), "nobody went on"
    killer.successor = "s"
    assert (killer.at_work, _killed(_outcome(killer))) == (False, (1, 1))


def test_without_a_proof_nothing_holds() -> None:
    outcome = _outcome(Killer())
    assert all(line.holds for line in outcome.lines())
    assert not outcome.holds()
    clean = replace(outcome, report=Report([]))
    assert clean.holds()
    assert not replace(clean, caught_up=False).holds()
    assert not replace(clean, gaps=[]).holds()


def test_links_name_the_partition_and_the_check() -> None:
    found = links("http://h", "sim_crypto", "2026-05-01")
    assert found["partition grid of ticks"] == "http://h/assets/ticks?view=partitions&partition=2026-05-01%7Csim_crypto"
    assert found["the check of sequence gaps, with their ranges"].endswith("view=checks&checkDetail=sequence_gaps")


def test_lines_to_copy_fit_a_terminal() -> None:
    lines = copy_lines(Path.cwd() / ".venv/bin/k2", "sim_crypto", "2026-05-01")
    assert any("check run --table ticks --exchange sim_crypto" in line for line in lines)
    assert all(len(line) + 2 <= WIDTH_CHARACTERS for line in lines)


def test_the_view_fits_a_terminal_of_80_columns() -> None:
    totals = Totals(messages=99_999_999, lag_messages=9_999_999, rows=99_999_999, quarantined=99_999)
    totals.commit_seconds = [9.999] * 10
    console = Console(file=StringIO(), width=200)
    for table in (figures(totals), closing([Line("duplicates", 12, 12), Line("gap", None, 4)])):
        console.print(table)
    assert isinstance(console.file, StringIO)
    # beside the frame and its padding
    assert all(len(line.rstrip()) <= WIDTH_CHARACTERS - 4 for line in console.file.getvalue().splitlines())


def test_without_a_terminal_events_are_whole_lines() -> None:
    console = Console(file=StringIO(), width=80)
    with View("title", console) as view:
        view.event("x" * 100 + " [not markup]")
        view.show(Totals())
    assert isinstance(console.file, StringIO)
    (line,) = console.file.getvalue().splitlines()
    assert line.endswith("x [not markup]")


def test_only_what_is_missing_is_to_be_downloaded(tmp_path: Path) -> None:
    lock = [
        Artifact("kafka", "g:a:1:jar", "0" * 64, 3_000_000),
        Artifact("registry", "g:b:1:tar.gz", "1" * 64, 5_000_000),
    ]
    store = Store(tmp_path, lock)
    assert missing_megabytes(store) == 8.0
    (tmp_path / "registry-111111111111").mkdir()
    assert missing_megabytes(store) == 3.0
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / lock[0].file).touch()
    assert missing_megabytes(store) == 0.0


@contextmanager
def _demo(folder: Path, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """The demo in a folder of its own; what it leaves is taken down."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("K2_", "DEMO_", "CI"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "proofs.demo"],
        cwd=folder, env={**inherited, "PYTHONPATH": str(REPOSITORY), "DEMO_KEEP": "0", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        k2 = Path(sys.executable).with_name("k2")
        subprocess.run([k2, "dev", "down", "--purge", "--yes"], cwd=folder, env=inherited, check=False)


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_the_demo_finds_what_it_plants_and_leaves_nothing(tmp_path: Path) -> None:
    with _demo(tmp_path, DEMO_SECONDS="30") as process:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    found = {name: counts for name, *counts in re.findall(r"^  (\w[\w ]*?) +(\d+) +(\d+) +(\w+)", said, re.MULTILINE)}
    assert found == {
        "gap": ["1", "1", "ok"], "duplicates": ["12", "12", "ok"], "quarantine": ["3", "3", "ok"],
        "killed runs": ["1", "1", "ok"], "missing": ["0", "0", "ok"], "extra": ["0", "0", "ok"],
    }, said  # fmt: skip
    assert "k2 verify: clean" in said
    assert re.search(r"first rows in Iceberg: \d+\.\d s after the installation \(30 were promised\): (ok|LATE)", said)
    assert "sequence_gaps: 1 sequence gaps, 7 messages missing" in said
    assert "it went on from the fence" in said
    assert "Traceback" not in said
    assert not (tmp_path / ".k2" / "stack.env").exists()


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_ctrl_c_ends_the_demo_with_its_closing(tmp_path: Path) -> None:
    with _demo(tmp_path, DEMO_SECONDS="600") as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "first rows in Iceberg" in line:
                process.send_signal(signal.SIGINT)
                break
        rest, _ = process.communicate()
    said = "".join(lines) + rest
    assert process.returncode == 0, said
    assert "Ctrl-C: ending the feed" in said
    assert "k2 verify: clean" in said
    assert "Traceback" not in said


@pytest.mark.stack
def test_ctrl_c_before_the_feed_ends_the_demo_without_a_traceback(tmp_path: Path) -> None:
    with _demo(tmp_path) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(1.0)  # somewhere in the start of the servers: where is not the point
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate()
    assert process.returncode == 130, said
    assert "interrupted before there was anything to prove" in said
    assert "Traceback" not in first + said
