"""A local S3 server: versitygw where Go is at hand to build it, else moto."""

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from k2_dagster.devstack.downloads import cache_folder, require
from k2_dagster.devstack.part import Part
from k2_dagster.devstack.process import Command, Progress, exclusive, listens, run_tool
from k2_dagster.devstack.state import StackState
from k2_dagster.errors import ConfigurationError, StackFailed

VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"

BUCKET = "k2-lake"
"""A bucket's name has at least three characters."""

REGION = "us-east-1"

BUILD_TIMEOUT_SECONDS = 1_200.0
"""Go fetches the modules and builds in 99 s on two cores."""

CALL_TIMEOUT_SECONDS = 5.0
"""One request to a local server."""


class S3Server(Part):
    """The S3 server. Objects are in `<home>/s3/objects` with versitygw; moto has them in memory only."""

    def __init__(self, home: Path, state: StackState) -> None:
        super().__init__("s3", home)
        self.state = state

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def ports(self) -> Sequence[int]:
        return (self.state.ports[self.name],)

    def prepare(self, progress: Progress) -> None:
        (self.folder / "objects").mkdir(parents=True, exist_ok=True)
        if self.state.s3_program == "versitygw":
            _build_versitygw(progress)
            progress("the S3 server is versitygw 1.8.0")
        else:
            require("moto")
            progress("the S3 server is moto (no Go here): it checks no keys, and a kill -9 loses its objects")

    def command(self) -> Command:
        marker = str(self.folder)
        if self.state.s3_program == "moto":
            program = "import sys; from moto.server import main; main(sys.argv[2:])"
            arguments = [sys.executable, "-c", program, marker, "-H", "127.0.0.1", "-p", str(self.ports[0])]
            return Command(arguments, folder=self.folder, marker=marker)
        listen = ["--quiet", "--port", f"127.0.0.1:{self.ports[0]}", "--region", REGION]
        return Command(
            arguments=[str(_versitygw()), *listen, "posix", str(self.folder / "objects")],
            folder=self.folder,
            marker=marker,
            environment={
                "ROOT_ACCESS_KEY": self.state.s3_access_key_id,
                "ROOT_SECRET_KEY": self.state.s3_secret_access_key,
            },
        )

    def answers(self, process: psutil.Process) -> bool:
        if not listens(process, self.ports[0]):
            return False
        try:
            return self._call("GET", "").is_success
        except httpx.HTTPError:
            return False

    def settle(self) -> None:
        """Make the bucket."""
        try:
            found = self._call("HEAD", BUCKET)
            if found.status_code == httpx.codes.NOT_FOUND:
                found = self._call("PUT", BUCKET)
            found.raise_for_status()
        except httpx.HTTPError as error:
            raise StackFailed(f"the bucket {BUCKET} cannot be made: {error}") from error

    def _call(self, method: str, path: str) -> httpx.Response:
        auth, awsrequest = require("botocore.auth"), require("botocore.awsrequest")
        credentials = require("botocore.credentials").Credentials(
            self.state.s3_access_key_id, self.state.s3_secret_access_key
        )
        request = awsrequest.AWSRequest(method=method, url=f"{self.address}/{path}")
        auth.S3SigV4Auth(credentials, "s3", REGION).add_auth(request)
        prepared = request.prepare()
        headers = {name: str(value) for name, value in prepared.headers.items()}
        return httpx.request(method, prepared.url, headers=headers, timeout=CALL_TIMEOUT_SECONDS, trust_env=False)


def choose_program() -> str:
    """`versitygw` where it is built or can be, else `moto`. Raises ConfigurationError when neither is to be had."""
    if importlib.util.find_spec("botocore") is None:
        raise ConfigurationError("the S3 server needs botocore", advice="pip install 'k2-dagster[stack,s3]'")
    if _versitygw().exists() or shutil.which("go") is not None:
        return "versitygw"
    if importlib.util.find_spec("moto") is None:
        raise ConfigurationError(
            "an S3 server needs Go (versitygw is built with it) or the Python package moto",
            advice="pip install 'k2-dagster[stack,s3]'",
        )
    return "moto"


def _versitygw() -> Path:
    return cache_folder() / "versitygw-1.8.0" / "versitygw"


def _build_versitygw(progress: Progress) -> None:
    program = _versitygw()
    with exclusive(cache_folder() / "versitygw.lock", progress):
        if program.exists():
            return
        go = shutil.which("go")
        if go is None:
            raise StackFailed(f"{program} is gone and Go is not here to build it again", advice="install Go")
        progress("building versitygw with Go (about two minutes, once per user)")
        staging = program.parent.with_name("versitygw.staging")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        command = Command([go, "install", VERSITYGW], staging, "", {"GOBIN": str(staging)})
        run_tool(command, BUILD_TIMEOUT_SECONDS, "building versitygw")
        staging.rename(program.parent)
