"""Calls to Dagster's processes, of which Dagster itself is never imported: GraphQL to the webserver, and a greeting to
the code server."""

import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from k2_dagster.errors import StackFailed

CALL_TIMEOUT_SECONDS = 30.0
"""One GraphQL call. Most take milliseconds; ending a run waits while the code server starts another one."""

GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a client of gRPC begins (HTTP/2's preface and empty settings). The socket alone proves nothing: the system takes
connections for a process that was just killed, or hangs."""

GREETING_SECONDS = 5.0
"""A server that is well greets back at once."""

UNFINISHED_STATES = ["STARTING", "STARTED", "CANCELING"]
LOCATION_STATUS = """{ workspaceOrError { ... on Workspace { locationEntries {
    loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
DAEMON_HEARTBEATS = "{ instance { daemonHealth { allDaemonStatuses { daemonType required lastHeartbeatTime } } } }"
UNFINISHED_RUNS = """query($states: [RunStatus!]) { runsOrError(filter: {statuses: $states}) {
    ... on Runs { results { runId } } } }"""
CANCEL_RUNS = """mutation($runs: [String!]!) { terminateRuns(
    runIds: $runs, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { __typename } }"""


def ask(url: str, query: str, variables: Mapping[str, Any] | None = None, *, advice: str = "") -> dict[str, Any]:
    """The `data` of the answer. Raises StackFailed when the webserver does not answer, or answers with errors."""
    body = {"query": query, "variables": dict(variables or {})}
    try:
        answer = httpx.post(f"{url}/graphql", json=body, timeout=CALL_TIMEOUT_SECONDS, trust_env=False)
        document = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise StackFailed(f"Dagster's webserver at {url}: {error}", advice=advice) from error
    if "errors" in document or "data" not in document:
        raise StackFailed(f"Dagster refused a query: {document.get('errors', document)}")
    data: dict[str, Any] = document["data"]
    return data


def greets(path: Path) -> bool:
    """Whether a gRPC server at that Unix socket greets back."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(GREETING_SECONDS)
        try:
            probe.connect(str(path))
            probe.sendall(GREETING)
            return bool(probe.recv(1))
        except OSError:
            return False
