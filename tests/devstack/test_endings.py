"""How `k2 dev` ends: by Ctrl-C in the middle, and with a warehouse that is in memory only."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from k2_dagster.cli import main
from k2_dagster.devstack import s3
from k2_dagster.devstack.process import Progress
from k2_dagster.devstack.stack import Stack
from k2_dagster.devstack.state import load_state, save_state
from k2_dagster.errors import StackFailed
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.lake.tables import ensure_tables
from k2_dagster.settings import load_settings

pytestmark = pytest.mark.stack

# Beyond the second and a half that the parts get, Python itself has to end.
PROMPT_SECONDS = 4.0


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="k2-ending-"))
    try:
        yield home
    finally:
        with contextlib.suppress(StackFailed):
            Stack(home).down(purge=True)
        shutil.rmtree(home, ignore_errors=True)


def k2(home: Path, *arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), env={"K2_HOME": str(home)}, input=answer)


def test_ctrl_c_ends_up_soon_says_what_runs_and_up_goes_on() -> None:
    with temporary_home() as home:
        command = [sys.executable, "-m", "k2_dagster.cli", "dev", "up"]
        own = {**os.environ, "K2_HOME": str(home)}
        with subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            # PostgreSQL is there first; the other two need seconds more
            said = next(line for line in process.stderr if "postgres answers" in line)
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            rest = process.stderr.read()
            assert process.wait(30) == 130, said + rest
            assert time.monotonic() - began < PROMPT_SECONDS

        assert re.search(r"these parts run: .*postgres.*; `k2 dev up` goes on, `k2 dev down` ends them", rest)
        assert rest.endswith("k2: interrupted\n")
        running = {part.name: part.pid for part in Stack(home).status() if part.pid is not None}

        Stack(home).up()

        after = {part.name: part.pid for part in Stack(home).status()}
        assert {name: after[name] for name in running} == running


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A stack on moto, as where versitygw cannot be built."""

    def without_go(progress: Progress, _: object = None) -> str:
        progress("taking moto")
        return s3.MOTO

    monkeypatch.setattr("k2_dagster.devstack.composition.choose_program", without_go)
    with temporary_home() as home:
        stack = Stack(home, s3=True)
        stack.up()
        catalog = open_catalog(load_settings(stack.settings_environment()))
        ensure_tables(catalog)
        close_catalog(catalog)
        yield stack


def tables(stack: Stack) -> list[str]:
    catalog = open_catalog(load_settings(stack.settings_environment()))
    try:
        return [".".join(name) for name in catalog.list_tables("market_data")] if catalog.list_namespaces() else []
    finally:
        close_catalog(catalog)


def test_an_ordinary_down_asks_before_it_loses_a_warehouse_in_memory(in_memory: Stack) -> None:
    refused = k2(in_memory.home, "dev", "down", answer="n\n")
    assert refused.exit_code == 1
    assert "the tables go when it ends" in refused.stderr
    assert {part.state for part in in_memory.status()} == {"running"}
    assert len(tables(in_memory)) > 0

    done = k2(in_memory.home, "dev", "down", "--yes")
    assert done.exit_code == 0
    assert "its warehouse and databases are gone; topics and schemas are kept" in done.stdout

    in_memory.up()
    assert tables(in_memory) == []


def test_up_notices_that_moto_was_killed_and_down_mends_it(in_memory: Stack) -> None:
    in_memory.up()
    in_memory.kill("s3")

    for _ in range(2):  # also when moto runs again
        failed = k2(in_memory.home, "dev", "up")
        assert failed.exit_code == 4
        assert "has lost its objects: the catalog names 6 tables, the files of 6 are gone" in failed.stderr
        assert "`k2 dev down` takes the databases along" in failed.stderr

    assert k2(in_memory.home, "dev", "down", "--yes").exit_code == 0
    assert k2(in_memory.home, "dev", "up").exit_code == 0
    assert tables(in_memory) == []


def test_down_where_no_stack_is(tmp_path: Path) -> None:
    done = k2(tmp_path / "none", "dev", "down")

    assert done.exit_code == 0
    assert f"there is no stack in {tmp_path / 'none'}: nothing to end" in done.stdout
    assert not (tmp_path / "none").exists()


def test_a_stack_file_of_another_version_does_not_block_dev() -> None:
    with temporary_home() as home:
        (home / "stack.env").write_text("K2_OF_ANOTHER_VERSION=1\n")

        assert k2(home, "status").exit_code == 4
        assert k2(home, "dev", "status").exit_code == 1
        assert k2(home, "dev", "logs").exit_code == 4
        done = k2(home, "dev", "up")

        assert done.exit_code == 0, done.output
        assert "K2_OF_ANOTHER_VERSION" not in (home / "stack.env").read_text()
        assert json.loads(k2(home, "dev", "status", "--json").stdout)[0]["state"] == "running"
        state = load_state(home)
        assert state is not None
        save_state(home, state)
        gone = k2(home, "dev", "down", "--purge", "--yes")
        assert gone.exit_code == 0
        assert not home.exists()
        assert "downloads stay in" in gone.stdout
