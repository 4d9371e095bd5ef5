"""A local S3 server: versitygw where Go is at hand to build it, else moto."""

import importlib.util
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil

from k2_dagster.devstack.downloads import cache_folder, require
from k2_dagster.devstack.locking import exclusive
from k2_dagster.devstack.part import Part
from k2_dagster.devstack.process import Command, Progress, listens, run_tool
from k2_dagster.devstack.state import StackState
from k2_dagster.errors import ConfigurationError, StackFailed

VERSITYGW, MOTO = "versitygw", "moto"

VERSITYGW_PACKAGE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"

BUCKET = "k2-lake"
"""A bucket's name has at least three characters."""

REGION = "us-east-1"

BUILD_TIMEOUT_SECONDS = 1_200.0
"""Go fetches the modules and builds in 99 s on two cores."""

GO_VARIABLES = (
    *("GOPROXY", "GOFLAGS", "GOPRIVATE", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOTOOLCHAIN"),
    *(
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ),
)
"""What Go needs to find its modules where they are not to be had from its usual proxy."""

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

    @property
    def program(self) -> str:  # type: ignore[override]
        return Path(sys.executable).name if self.state.s3_program == MOTO else VERSITYGW

    @property
    def marker(self) -> str:
        # The objects' folder, or for moto, which has none, our own
        return f"{self.folder} -H" if self.state.s3_program == MOTO else f"posix {self.folder / 'objects'}"

    def prepare(self, progress: Progress) -> None:
        (self.folder / "objects").mkdir(parents=True, exist_ok=True)
        if self.state.s3_program == VERSITYGW:
            build_versitygw(progress, self.interrupted)
            progress("the S3 server is versitygw 1.8.0")
        else:
            require("moto")
            progress("the S3 server is moto: it checks no keys, and loses its objects whenever it ends")

    def command(self) -> Command:
        if self.state.s3_program == MOTO:
            program = "import sys; from moto.server import main; main(sys.argv[2:])"
            arguments = [sys.executable, "-c", program, str(self.folder), "-H", "127.0.0.1", "-p", str(self.ports[0])]
            return Command(arguments, folder=self.folder, marker=self.marker)
        listen = ["--quiet", "--port", f"127.0.0.1:{self.ports[0]}", "--region", REGION]
        return Command(
            arguments=[str(versitygw_program()), *listen, "posix", str(self.folder / "objects")],
            folder=self.folder,
            marker=self.marker,
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

    def has(self, location: str) -> bool:
        """Whether the object `s3://bucket/key` is there. Raises StackFailed when the server does not answer."""
        try:
            return self._call("HEAD", quote(location.removeprefix("s3://"))).is_success
        except httpx.HTTPError as error:
            raise StackFailed(f"the S3 server does not answer: {error}") from error

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


def choose_program(progress: Progress, interrupted: threading.Event | None = None) -> str:
    """`versitygw` where it is built or can be, else `moto`. Raises ConfigurationError when neither is to be had."""
    if importlib.util.find_spec("botocore") is None:
        raise ConfigurationError("the S3 server needs botocore", advice="pip install 'k2-dagster[stack,s3]'")
    why = "Go is not here to build versitygw"
    if versitygw_program().exists() or shutil.which("go") is not None:
        try:
            build_versitygw(progress, interrupted)
            return VERSITYGW
        except StackFailed as error:
            if interrupted is not None and interrupted.is_set():
                raise
            why = f"versitygw cannot be built: {error.message}"
    if importlib.util.find_spec("moto") is None:
        raise ConfigurationError(
            f"an S3 server needs Go (versitygw is built with it) or the Python package moto; {why}",
            advice="pip install 'k2-dagster[stack,s3]'",
        )
    progress(f"{why}; taking moto in its place, which keeps objects in memory only")
    return MOTO


def versitygw_program() -> Path:
    """Where versitygw is, once it is built."""
    return cache_folder() / "versitygw-1.8.0" / "versitygw"


def build_versitygw(progress: Progress, interrupted: threading.Event | None = None) -> None:
    """Build versitygw with Go, once per user; leaves the program alone behind. Raises StackFailed."""
    program = versitygw_program()
    with exclusive(cache_folder() / "versitygw.lock", progress):
        if program.exists():
            return
        go = shutil.which("go")
        if go is None:
            raise StackFailed(f"{program} is gone and Go is not here to build it again", advice="install Go")
        progress("building versitygw with Go (about two minutes, once per user)")
        staging = program.parent.with_name("versitygw.staging")
        shutil.rmtree(staging, ignore_errors=True)
        (staging / "bin").mkdir(parents=True)
        try:
            command = Command([go, "install", VERSITYGW_PACKAGE], staging, "", _go_environment(staging))
            run_tool(command, BUILD_TIMEOUT_SECONDS, "building versitygw", interrupted, progress)
            (staging / "bin").rename(program.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _go_environment(staging: Path) -> dict[str, str]:
    """The user's choices of proxies, and caches of our own, which go with the staging folder."""
    given = {name: os.environ[name] for name in GO_VARIABLES if name in os.environ}
    own = {"GOBIN": "bin", "GOPATH": "path", "GOMODCACHE": "modules", "GOCACHE": "built"}
    folders = {name: str(staging / folder) for name, folder in own.items()}
    # Modules are read-only otherwise, and could not be removed
    return given | folders | {"GOFLAGS": f"{given.get('GOFLAGS', '')} -modcacherw".strip()}
