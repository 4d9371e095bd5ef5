"""The root of the command line: loading on demand, errors, exit statuses."""

import errno
import os
import shlex
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import k2_dagster.cli
from k2_dagster.cli import COMMANDS, Entry, load, main
from k2_dagster.cli.exits import MEANINGS, exit_status
from k2_dagster.errors import (
    ConfigurationError,
    InputLost,
    K2Error,
    KafkaUnavailable,
    QueryRefused,
    VerificationFailed,
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_helps(name: str) -> None:
    assert isinstance(load(COMMANDS[name].target), click.Command)
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: k2 {name}")


def test_help_names_every_command_and_exit_status() -> None:
    result = CliRunner().invoke(main, ["--help"])

    assert result.exit_code == 0
    for word in (*COMMANDS, *(str(code) for code in MEANINGS)):
        assert f"\n  {word} " in result.output


def test_help_imports_no_command() -> None:
    code = (
        "import sys\nfrom k2_dagster.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in sys.modules if name in ('duckdb', 'pyarrow', 'pydantic', 'confluent_kafka')])"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.splitlines()[-1] == "[]"


def test_the_nearest_command_is_suggested() -> None:
    result = CliRunner().invoke(main, ["querry"])

    assert result.exit_code == 2
    assert "Did you mean `k2 query`?" in result.stderr


def test_no_command_is_like_nonsense() -> None:
    result = CliRunner().invoke(main, ["zzzzzz"])

    assert result.exit_code == 2
    assert "`k2 --help` lists the commands" in result.stderr


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Adds the command `break`, which raises what the test puts into this list."""
    raised: list[BaseException] = []

    @click.command("break")
    def command() -> None:
        raise raised[0]

    monkeypatch.setitem(COMMANDS, "break", Entry("tests:break", "raises"))
    monkeypatch.setattr(k2_dagster.cli, "load", lambda target: command if target == "tests:break" else load(target))
    return raised


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KafkaUnavailable("no broker", advice="start one"), 3),
        (ConfigurationError("wrong value"), 4),
        (InputLost("range [1, 2) is gone"), 4),
        (QueryRefused("no such table"), 4),
        (VerificationFailed("1 missing"), 1),
    ],
)
def test_an_error_is_one_message_and_a_status(error: K2Error, status: int, broken: list[BaseException]) -> None:
    broken.append(error)

    result = CliRunner().invoke(main, ["break"])

    assert result.exit_code == status == exit_status(error)
    assert result.stderr == f"k2: {error}\n"
    assert result.stdout == ""


@pytest.mark.parametrize("level", ["DEBUG", "debug"])
def test_a_traceback_is_shown_on_demand(level: str, broken: list[BaseException]) -> None:
    broken.append(ConfigurationError("wrong value"))

    result = CliRunner().invoke(main, ["break"], env={"K2_LOG_LEVEL": level})

    assert result.exit_code == 4
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("k2: wrong value\n")


def test_ctrl_c_ends_with_130(broken: list[BaseException]) -> None:
    broken.append(KeyboardInterrupt())

    result = CliRunner().invoke(main, ["break"])

    assert result.exit_code == 130


def test_a_mistake_of_ours_keeps_its_traceback_and_has_a_status_of_its_own(broken: list[BaseException]) -> None:
    broken.append(KeyError("postgresql://ann:swordfish@db/k2"))

    result = CliRunner().invoke(main, ["break"])

    assert result.exit_code == 70
    assert "Traceback" in result.stderr
    assert "KeyError: 'postgresql://ann:***@db/k2'" in result.stderr
    assert result.stderr.endswith("k2: a mistake of K2's: please report it with the traceback\n")


@pytest.mark.parametrize(("error", "status"), [(click.UsageError("wrong"), 2), (click.Abort(), 1), (SystemExit(5), 5)])
def test_endings_of_the_command_line_stay_what_they_are(
    error: BaseException, status: int, broken: list[BaseException]
) -> None:
    broken.append(error)

    result = CliRunner().invoke(main, ["break"])

    assert result.exit_code == status
    assert "Traceback" not in result.stderr


def test_a_reader_that_goes_away_is_no_mistake() -> None:
    code = "from k2_dagster.cli import main; main(['settings', '--json'])"
    pipeline = f"{sys.executable} -c {shlex.quote(code)} | true; echo ${{PIPESTATUS[0]}}"

    shown = subprocess.run(["bash", "-c", pipeline], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() in ("0", "1")
    assert "mistake" not in shown.stderr


def test_help_of_a_command_survives_a_wrong_setting() -> None:
    helped = CliRunner().invoke(main, ["settings", "--help"], env={"K2_LOG_LEVLE": "INFO"})
    used = CliRunner().invoke(main, ["status"], env={"K2_LOG_LEVLE": "INFO"})

    assert helped.exit_code == 0
    assert used.exit_code == 4
    assert "did you mean K2_LOG_LEVEL?" in used.stderr


def test_a_message_cannot_steer_the_terminal(broken: list[BaseException]) -> None:
    broken.append(QueryRefused("symbol \x1b[2J\x9b was refused\nfor a reason"))

    result = CliRunner().invoke(main, ["break"])

    assert result.stderr == "k2: symbol \\x1b[2J\\x9b was refused\nfor a reason\n"


def test_a_full_disk_is_no_mistake_of_ours(broken: list[BaseException]) -> None:
    broken.append(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "answer.csv"))

    result = CliRunner().invoke(main, ["break"])

    assert (result.exit_code, result.stderr) == (4, "k2: No space left on device: answer.csv\n")
