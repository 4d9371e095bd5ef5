"""Home folders of stacks: broken, deep, closed, of no use, and gone without a trace."""

import shutil
import tempfile
from pathlib import Path

import httpx
import psycopg2
import pytest

from k2_dagster.devstack.stack import Stack
from k2_dagster.devstack.state import load_state
from k2_dagster.devstack.ways import close_ways, open_way
from k2_dagster.errors import ConfigurationError, StackFailed
from k2_dagster.settings import Settings, load_settings


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"brokers": "1", "s3": false, "cluster_id": "x"}', '{"brokers": 1, "s3": 0}', "\xff"]
)
def test_a_state_that_is_broken_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_bytes(content.encode("latin-1"))

    with pytest.raises(StackFailed, match=r"stack\.json is not a stack's state"):
        Stack(tmp_path).status()


def test_a_home_that_cannot_be_one_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for home in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(ConfigurationError, match="K2_HOME was"):
            Stack(home).up()


def test_what_is_opened_for_postgres_is_told_and_closed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    closed, nobody = tmp_path / "closed", 65_534
    one, other = closed / "one", closed / "other"
    for home in (one, other):
        home.mkdir(parents=True)
    closed.chmod(0o700)
    said: list[str] = []

    open_way(one / "data", nobody, one, said.append)
    open_way(other / "data", nobody, other, said.append)

    assert closed.stat().st_mode & 0o777 == 0o701
    assert [line for line in said if str(closed) in line] == [
        f"letting others pass through {closed} (not list it): PostgreSQL does not run as root"
    ]
    close_ways(one)
    assert closed.stat().st_mode & 0o777 == 0o701
    close_ways(other)
    assert closed.stat().st_mode & 0o777 == 0o700


def test_a_folder_without_a_stack(tmp_path: Path) -> None:
    empty = Stack(tmp_path / "none")

    assert empty.status() == []
    empty.down(purge=True)
    assert not (tmp_path / "none").exists()
    with pytest.raises(StackFailed, match="no stack in"):
        empty.addresses()
    with pytest.raises(ConfigurationError, match="2 brokers"):
        Stack(tmp_path, brokers=2)


@pytest.mark.stack
def test_a_deep_home_has_its_socket_elsewhere() -> None:
    top = Path(tempfile.mkdtemp(prefix="k2-deep-"))
    deep = Stack(top / ("a" * 60) / ("b" * 60))
    try:
        deep.up()
        state = load_state(deep.home)
        assert state is not None
        socket_folder = Path(state.socket_folder)
        assert deep.home not in socket_folder.parents
        assert socket_folder.stat().st_mode & 0o077 == 0
        psycopg2.connect(host=state.socket_folder, user="postgres", dbname="k2").close()
        (deep.home / "cache" / "data-files").mkdir(parents=True)  # what `k2 query` leaves
    finally:
        deep.down(purge=True)
        left = deep.home.exists()
        shutil.rmtree(top)
    assert not socket_folder.exists()
    assert not left


@pytest.mark.stack
def test_a_stack_keeps_the_shape_it_was_made_with(stack: Stack) -> None:
    with pytest.raises(ConfigurationError, match=r"was made with 1 broker\(s\) and no S3"):
        Stack(stack.home, brokers=3).up()
    with pytest.raises(ConfigurationError, match=r"(?s)no part 'zookeeper'.*choose one of kafka-1, registry, postgres"):
        stack.kill("zookeeper")


@pytest.mark.stack
def test_settings_point_at_the_stack(stack: Stack, settings: Settings) -> None:
    assert httpx.get(f"{settings.schema_registry_url}/config").json() == {"compatibilityLevel": "BACKWARD"}
    assert settings.kafka_bootstrap_servers == stack.addresses().kafka_bootstrap_servers
    assert settings.catalog_uri.get_secret_value() != stack.addresses().catalog_uri
    from_file = load_settings({"K2_HOME": str(stack.home)})
    assert from_file.warehouse == stack.addresses().warehouse
    assert from_file.catalog_uri.get_secret_value() == stack.addresses().catalog_uri
