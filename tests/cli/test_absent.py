"""The process `k2 ingest` does without pandas, and judges as it does with it."""

import subprocess
import sys

LEFT_OUT = """
import importlib.metadata, importlib.util, sys
from k2_dagster.cli.absent import leave_out

leave_out("pandas")
assert importlib.util.find_spec("pandas") is None
try:
    import pandas
except ModuleNotFoundError as error:
    assert error.name == "pandas"
else:
    raise AssertionError("found")
import json.tool
assert importlib.metadata.version("pandas"), "what is installed can still be asked"
"""

JUDGED = """
import sys
from k2_dagster.cli import COMMANDS, load
from k2_dagster.cli.absent import leave_out

leave_out(*COMMANDS["ingest"].without)
load(COMMANDS["ingest"].target)
import pytest
status = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "tests/ingest/test_rules.py"])
assert "pandas" not in sys.modules
sys.exit(status)
"""


def run(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_a_package_left_out_is_as_if_it_were_not_installed() -> None:
    run(LEFT_OUT)


def test_rules_are_judged_the_same_without_it() -> None:
    run(JUDGED)


def test_the_program_leaves_it_out_and_the_commands_alone_do_not() -> None:
    """A test or another program that calls `main` is not a process of ours."""
    code = "import sys; sys.argv = ['k2', 'ingest', '--help']\nfrom k2_dagster.cli import {0}\n"
    code += "try:\n    {0}()\nfinally:\n    print('pandas' in sys.modules, file=sys.stderr)\n"
    found = {}
    for name in ("run", "main"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=True, timeout=60
        )
        found[name] = done.stderr.splitlines()[-1]
    assert found == {"run": "False", "main": "True"}
