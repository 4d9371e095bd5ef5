"""What a stack is made of: its parts, and the decisions that are taken when it is made."""

import secrets
import shutil
import threading
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from k2_dagster.devstack.kafka import KafkaBroker, broker_name
from k2_dagster.devstack.part import Part
from k2_dagster.devstack.postgres import PostgresServer, choose_socket_folder
from k2_dagster.devstack.process import Progress
from k2_dagster.devstack.registry import SchemaRegistry
from k2_dagster.devstack.s3 import S3Server, choose_program
from k2_dagster.devstack.state import STATE_FILE, StackState, is_free
from k2_dagster.devstack.ways import close_ways
from k2_dagster.errors import StackFailed
from k2_dagster.settings import STACK_FILE


def new_state(home: Path, brokers: int, s3: bool, progress: Progress, interrupted: threading.Event) -> StackState:
    """The decisions for a stack that is not there yet. Raises ConfigurationError when no S3 server can be had."""
    state = StackState(
        brokers=brokers,
        s3=s3,
        # Kafka's form of an id: a UUID in 22 characters, not beginning with a dash (it would look like an option)
        cluster_id="k" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22],
        socket_folder=str(choose_socket_folder(home)),
    )
    if s3:
        state = replace(
            state,
            s3_program=choose_program(progress, interrupted),
            s3_access_key_id=secrets.token_hex(8),
            s3_secret_access_key=secrets.token_hex(20),
        )
    for name in _port_names(state):
        state = state.with_port(name)
    return state


def _port_names(state: StackState) -> list[str]:
    brokers = [broker_name(number) for number in range(1, state.brokers + 1)]
    controllers = [f"{name}-controller" for name in brokers]
    return [*brokers, *controllers, "registry", *(["s3"] if state.s3 else [])]


def with_usable_ports(home: Path, state: StackState, progress: Progress) -> StackState:
    """The state with another port for each one that a foreign server took while our part did not run."""
    parts = parts_of(home, state)
    running = {part.name for part in parts if part.find() is not None}
    taken = {
        name
        for part in parts
        if part.name not in running
        for name, number in state.ports.items()
        if number in part.ports and not is_free(number)
    }
    if any(name.startswith("kafka") for name in taken) and any(name.startswith("kafka") for name in running):
        raise StackFailed(
            f"another program has the port of {', '.join(sorted(taken))}, where the running brokers expect it",
            advice="end that program, or `k2 dev down` and up again: the brokers then move together",
        )
    for name in sorted(taken):
        moved = state.with_port(name, fresh=True)
        progress(f"another program listens on port {state.ports[name]}: {name} moves to {moved.ports[name]}")
        state = moved
    return state


def brokers_of(home: Path, state: StackState) -> list[KafkaBroker]:
    """The brokers of a stack."""
    return [KafkaBroker(home, state, number) for number in range(1, state.brokers + 1)]


def parts_of(home: Path, state: StackState) -> list[Part]:
    """Every part of a stack. None depends on another, so they may be started and stopped side by side."""
    s3 = [S3Server(home, state)] if state.s3 else []
    return [*brokers_of(home, state), SchemaRegistry(home, state), PostgresServer(home, state), *s3]


def remove_made(home: Path, state: StackState, parts: Sequence[Part]) -> None:
    """Remove what the stack made, with K2's local caches, and the home folder if nothing else is in it."""
    (home / STATE_FILE).unlink()
    (home / STACK_FILE).unlink(missing_ok=True)
    close_ways(home)
    own = [part.folder for part in parts] + [home / name for name in ("logs", "warehouse", "run", "cache")]
    for folder in [Path(state.socket_folder), *own]:
        if folder.exists():
            shutil.rmtree(folder)
    with suppress(OSError):
        home.rmdir()
