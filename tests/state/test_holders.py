"""Whether the process that a lease names is gone: seen by who is on its machine, and by nobody else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import LeaseHeld
from k2_dagster.state import holders
from k2_dagster.state.database import Database
from k2_dagster.state.holders import Process, is_gone, new_holder, process_of
from k2_dagster.state.leases import acquire_lease, read_leases, release_leases

CHILD = "from k2_dagster.state.holders import new_holder; print(new_holder(), flush=True); input()"
SECONDS = 30.0
LONG = 600.0


@contextmanager
def child() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the name that it gives itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def named(process: Process) -> str:
    return f"{process.host}:{process.pid}:{process.started}:{process.machine}:12345678"


def parsed(name: str) -> Process:
    found = process_of(name)
    assert found is not None
    return found


def test_a_name_is_of_its_process_and_no_other() -> None:
    mine = new_holder()
    assert mine != new_holder()
    assert parsed(mine) == parsed(new_holder())
    assert parsed(mine).pid == os.getpid()
    assert not is_gone(mine)


def test_a_killed_process_is_gone_also_before_anybody_has_asked_how_it_ended() -> None:
    with child() as (process, name):
        assert parsed(name) == replace(parsed(new_holder()), pid=process.pid, started=parsed(name).started)
        assert not is_gone(name)
        process.send_signal(signal.SIGSTOP)
        assert not is_gone(name), "one that hangs may go on"
        process.kill()
        # nobody waits for it: it is left as a zombie
        assert wait_until(lambda: is_gone(name), SECONDS)
        process.wait()
        assert is_gone(name)


def test_another_process_with_the_same_id_is_not_taken_for_it() -> None:
    mine = parsed(new_holder())
    assert is_gone(named(replace(mine, started=str(int(mine.started) - 1))))


@pytest.mark.parametrize("changed", [{"host": "elsewhere"}, {"machine": "0" * 12}, {"machine": "-"}, {"started": "-"}])
def test_nobody_can_tell_of_a_process_that_is_elsewhere(changed: dict[str, Any]) -> None:
    with child() as (process, name):
        process.kill()
        process.wait()
        assert not is_gone(named(replace(parsed(name), **changed)))
        assert is_gone(name)


def test_where_the_system_does_not_tell_nobody_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with child() as (process, name):
        process.kill()
        process.wait()
        monkeypatch.setattr(holders, "_PROC", tmp_path)
        assert not is_gone(name)
        mine = parsed(new_holder())
        assert (mine.started, mine.machine) == ("-", "-")
        assert not is_gone(new_holder())


def test_a_process_that_is_there_but_not_to_be_seen_is_not_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Systems may hide other people's processes from /proc; signals still tell that they are there."""
    mine = new_holder()
    monkeypatch.setattr(holders, "_stat", lambda _: None)
    assert not is_gone(mine)


@given(st.text())
def test_any_other_text_names_nobody(text: str) -> None:
    found = process_of(text)
    assert found is None or text.startswith(f"{found.host}:")
    assert not is_gone(text)


@given(st.text(), st.integers(1, 2**22), st.integers(0, 2**60))
def test_what_a_name_says_is_read_again_whatever_the_host_is_called(host: str, pid: int, started: int) -> None:
    process = Process(host, pid, str(started), "0" * 12)
    assert process_of(named(process)) == process


@pytest.mark.stack
def test_the_lease_of_a_killed_process_is_taken_over_at_once_and_said_so(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    mine = new_holder()
    with child() as (process, name):
        acquire_lease(database, "binance", name, LONG, "recovery")
        with pytest.raises(LeaseHeld, match=name):
            acquire_lease(database, "binance", mine, LONG, "recovery")
        process.kill()
        process.wait()
        acquire_lease(database, "binance", mine, LONG, "recovery")
    assert read_leases(database, "recovery")["binance"].holder == mine
    (said,) = [one for one in caplog.records if one.name == "k2_dagster.state.leases"]
    assert "is gone" in said.message
    assert vars(said)["holder"] == name
    release_leases(database, ["binance"], mine, "recovery")


@pytest.mark.stack
def test_a_lease_that_another_took_over_meanwhile_is_theirs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two find that the holder is gone, and one of them is first."""
    with child() as (process, name):
        acquire_lease(database, "binance", name, LONG)
        process.kill()
        process.wait()
    first, second = new_holder(), new_holder()
    looked: list[str] = []

    def is_gone_and_taken(holder: str) -> bool:
        looked.append(holder)
        if len(looked) == 1:
            acquire_lease(database, "binance", first, LONG)
        return is_gone(holder)

    monkeypatch.setattr("k2_dagster.state.leases.is_gone", is_gone_and_taken)
    with pytest.raises(LeaseHeld, match=first):
        acquire_lease(database, "binance", second, LONG)
    assert looked == [name, name]
    assert read_leases(database)["binance"].holder == first
    release_leases(database, ["binance"], first)
