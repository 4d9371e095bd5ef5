"""Apicurio 3.0.9 as schema registry, on the Confluent protocol, with BACKWARD enforced."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from k2_dagster.devstack.downloads import Store, java
from k2_dagster.devstack.part import Part
from k2_dagster.devstack.process import Command, Progress, listens
from k2_dagster.devstack.state import StackState
from k2_dagster.errors import StackFailed

JAR = "apicurio-registry-app-3.0.9-runner.jar"

OPTIONS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""It serves a few requests per start of a client: quick to start and small matter more than quick to run (226 MB)."""

CALL_TIMEOUT_SECONDS = 5.0
"""One request to the local registry takes 10 ms; while it starts it is asked again."""


class SchemaRegistry(Part):
    """The registry. Its schemas are in `<home>/registry/schemas.mv.db`."""

    def __init__(self, home: Path, state: StackState) -> None:
        super().__init__("registry", home)
        self.state = state
        self._program = Path()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.state.ports[self.name]}/apis/ccompat/v7"

    @property
    def ports(self) -> Sequence[int]:
        return (self.state.ports[self.name],)

    def prepare(self, progress: Progress) -> None:
        self.make_folders()
        self._program = Store.of(self).unpacked("registry", progress)

    def command(self) -> Command:
        return Command(
            arguments=[str(java()), *self.java_options(), *OPTIONS, self.marker, "-jar", str(self._program / JAR)],
            folder=self.folder,
            marker=self.marker,
            environment={
                "QUARKUS_HTTP_HOST": "127.0.0.1",
                "QUARKUS_HTTP_PORT": str(self.ports[0]),
                # Without WRITE_DELAY=0 a kill -9 loses acknowledged schemas and reuses their ids
                "APICURIO_DATASOURCE_URL": "jdbc:h2:file:./schemas;WRITE_DELAY=0",
                "APICURIO_DATASOURCE_JDBC_INITIAL_SIZE": "2",
                "APICURIO_DATASOURCE_JDBC_MIN_SIZE": "2",
            },
        )

    def answers(self, process: psutil.Process) -> bool:
        # It cannot be asked who it is, so the port must belong to our process
        if not listens(process, self.ports[0]):
            return False
        try:
            return httpx.get(f"{self.address}/subjects", timeout=CALL_TIMEOUT_SECONDS, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def settle(self) -> None:
        """Version 3.0.9 ignores its environment variable for the rule and would accept any change."""
        try:
            with httpx.Client(timeout=CALL_TIMEOUT_SECONDS, trust_env=False) as client:
                client.put(f"{self.address}/config", json={"compatibility": "BACKWARD"}).raise_for_status()
        except httpx.HTTPError as error:
            raise StackFailed(f"the registry does not take the rule BACKWARD: {error}") from error
