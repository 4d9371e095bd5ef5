"""What every test may use: one real development stack per session, settings that share no table, sample data.

With TEST_STACK_HOME set, the stack of that folder is used and left running, which saves its start.
"""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import hypothesis
import psutil
import pytest

from k2_dagster.devstack.postgres import PostgresServer
from k2_dagster.devstack.stack import Stack
from k2_dagster.devstack.state import load_state
from k2_dagster.settings import Settings, load_settings

REPOSITORY = Path(__file__).parent.parent
HOME_PREFIX = "k2-test-"


# How long an example takes says how busy the machine is. `steady` tries the same examples each time (`.ci/run`).
hypothesis.settings.register_profile("searching", deadline=None)
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)


def pytest_configure() -> None:
    """Shells start background jobs with SIGINT ignored, and so would the processes that tests send it to."""
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "searching"))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, for workers that share files out: a long one at the end keeps one worker busy
    while the others have nothing to do. How long a file takes is told by what its tests declare."""
    declared: dict[Path, tuple[float, int]] = {}
    for item in items:
        longest_seconds, on_stack = declared.get(item.path, (0.0, 0))
        timeout = item.get_closest_marker("timeout")
        seconds = float(timeout.args[0]) if timeout else 0.0
        declared[item.path] = (max(longest_seconds, seconds), on_stack + ("stack" in item.keywords))
    items.sort(key=lambda item: declared[item.path], reverse=True)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running stack that the whole session shares: use unique names for topics and exchanges. Do not kill its parts
    without starting them again."""
    kept = os.environ.get("TEST_STACK_HOME")
    if kept:
        shared = Stack(Path(kept))
        shared.up()
        yield shared
        return
    _remove_leftovers()
    with temporary_stack() as own:
        yield own


@contextmanager
def temporary_stack() -> Iterator[Stack]:
    """A stack of a test's own, whose parts may be stopped."""
    # Short, because a socket lives in it, and named after us, so that a later session can tell that we are gone
    home = Path(tempfile.mkdtemp(prefix=f"{HOME_PREFIX}{os.getpid()}-"))
    own = Stack(home)
    try:
        own.up()
        _write_without_waiting(own)
        yield own
    finally:
        own.down(purge=True)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def fresh_database(stack: Stack) -> Iterator[Callable[[], str]]:
    """Makes a database that no other test has; returns its SQLAlchemy URI. Dropped after the test."""
    names: list[str] = []

    def create() -> str:
        names.append(f"test_{uuid.uuid4().hex[:12]}")
        return stack.create_database(names[-1])

    yield create
    with closing(_postgres(stack).connect()) as connection, connection.cursor() as cursor:
        for name in names:
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def settings(stack: Stack, fresh_database: Callable[[], str], tmp_path: Path) -> Settings:
    """Settings for the shared stack, with databases, a home and a warehouse folder of this test's own."""
    own = {
        "K2_HOME": str(tmp_path / "home"),
        "K2_CATALOG_URI": fresh_database(),
        "K2_DAGSTER_URI": fresh_database(),
        "K2_WAREHOUSE": f"file://{tmp_path}/warehouse",
    }
    return load_settings(stack.settings_environment() | own)


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of captured market data; skips where it is not."""
    given = os.environ.get("K2_SAMPLE_DATA", str(Settings.model_fields["sample_data"].default))
    folder = (REPOSITORY / given).resolve()
    if not folder.is_dir():
        pytest.skip(f"no captured market data at {given}: set K2_SAMPLE_DATA to the folder that has them")
    return folder


def _write_without_waiting(own: Stack) -> None:
    """PostgreSQL need not wait for the disk: what it has handed to the system outlives any kill of its processes, and
    no test cuts the power."""
    with closing(_postgres(own).connect()) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER SYSTEM SET fsync = off")
        cursor.execute("SELECT pg_reload_conf()")


def _postgres(own: Stack) -> PostgresServer:
    state = load_state(own.home)
    assert state is not None
    return PostgresServer(own.home, state)


def _remove_leftovers() -> None:
    """End stacks of test sessions that were killed before they could."""
    for home in Path(tempfile.gettempdir()).glob(f"{HOME_PREFIX}*"):
        pid = home.name.removeprefix(HOME_PREFIX).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            if load_state(home) is not None:  # it may have been killed while it cleared up
                Stack(home).down(purge=True)
            shutil.rmtree(home, ignore_errors=True)
