"""The local S3 servers, each as a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from k2_dagster.devstack import s3 as s3_module
from k2_dagster.devstack.s3 import BUCKET, S3Server, choose_program
from k2_dagster.devstack.state import StackState, find_free_port
from k2_dagster.errors import ConfigurationError

pytestmark = pytest.mark.stack


@pytest.fixture(params=["moto", "versitygw"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[S3Server]:
    if request.param == "versitygw" and not s3_module._versitygw().exists():
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
    assert any(server.state.s3_program in line for line in said)


def test_without_go_it_is_moto_and_without_both_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_program() == "moto"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "moto" else object())
    with pytest.raises(ConfigurationError, match="needs Go"):
        choose_program()
