"""The local S3 servers, each as a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from k2_dagster.devstack import process as process_module
from k2_dagster.devstack import s3 as s3_module
from k2_dagster.devstack.s3 import BUCKET, S3Server, choose_program, versitygw_program
from k2_dagster.devstack.state import StackState, find_free_port
from k2_dagster.errors import ConfigurationError

pytestmark = pytest.mark.stack


@pytest.fixture(params=["moto", "versitygw"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[S3Server]:
    if request.param == "versitygw" and not s3_module.versitygw_program().exists():
        pytest.skip("versitygw is not built here: `k2 dev up --s3` builds it where Go is at hand")
    state = StackState(
        brokers=1,
        s3=True,
        cluster_id="",
        ports={"s3": find_free_port(set())},
        s3_program=request.param,
        s3_access_key_id="key",
        s3_secret_access_key="secret-for-the-test",
    )
    part = S3Server(tmp_path, state)
    yield part
    found = part.find()
    if found is not None:
        found.kill()


def test_the_bucket_takes_objects(server: S3Server) -> None:
    said: list[str] = []

    assert server.ensure(said.append)
    assert not server.ensure(said.append)

    assert server._call("HEAD", BUCKET).status_code == httpx.codes.OK
    assert server._call("PUT", f"{BUCKET}/warehouse/object").is_success
    assert server._call("HEAD", f"{BUCKET}/warehouse/object").status_code == httpx.codes.OK
    assert server.has(f"s3://{BUCKET}/warehouse/object")
    assert not server.has(f"s3://{BUCKET}/warehouse/other")
    assert any(server.state.s3_program in line for line in said)


def test_a_server_whose_record_is_lost_is_found_again(server: S3Server) -> None:
    server.ensure(lambda _: None)
    before = server.find()
    server.record.unlink()

    assert server.find() == before
    assert not server.ensure(lambda _: None)


def without_a_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_go_it_is_moto_and_without_both_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_a_build(monkeypatch, tmp_path)
    said: list[str] = []

    assert choose_program(said.append) == "moto"

    assert "Go is not here to build versitygw; taking moto" in said[-1]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "moto" else object())
    with pytest.raises(ConfigurationError, match="needs Go"):
        choose_program(said.append)


GO = """#!/bin/sh
echo "proxy=$GOPROXY flags=$GOFLAGS home=$GOPATH"
{ending}
"""


def fake_go(tmp_path: Path, ending: str) -> None:
    (tmp_path / "go").write_text(GO.format(ending=ending))
    (tmp_path / "go").chmod(0o755)


def test_a_build_that_fails_is_told_and_moto_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_a_build(monkeypatch, tmp_path)
    monkeypatch.setenv("GOPROXY", "https://goproxy.example")
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    fake_go(tmp_path, "exit 1")
    said: list[str] = []

    assert choose_program(said.append) == "moto"

    assert "versitygw cannot be built" in said[-1]
    assert "proxy=https://goproxy.example flags=-mod=mod -modcacherw" in said[-1]
    assert [path.name for path in (tmp_path / "cache" / "k2").iterdir()] == ["versitygw.lock"]


def test_a_build_leaves_the_program_alone_behind_and_tells_its_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_a_build(monkeypatch, tmp_path)
    monkeypatch.setattr(process_module, "TELL_SECONDS", 0.3)
    fake_go(tmp_path, '/bin/mkdir -p "$GOMODCACHE/x" "$GOCACHE" && /bin/sleep 1 && echo built > "$GOBIN/versitygw"')
    said: list[str] = []

    assert choose_program(said.append) == "versitygw"

    assert versitygw_program().read_text() == "built\n"
    assert any(line.startswith("building versitygw: ") for line in said)
    assert sorted(path.name for path in (tmp_path / "cache" / "k2").iterdir()) == ["versitygw-1.8.0", "versitygw.lock"]
