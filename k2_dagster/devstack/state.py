"""What a stack decides once and keeps in `<home>/stack.json`: its shape, ports, ids and keys."""

import json
import random
import socket
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import get_origin, get_type_hints

from k2_dagster.devstack.files import write_atomically
from k2_dagster.errors import StackFailed

STATE_FILE = "stack.json"

LOWEST_PORT, HIGHEST_PORT = 20_000, 30_000
"""Below the ranges that systems give to outgoing connections (from 32,768 on Linux, 49,152 on macOS). Inside those, a
client that retries against a killed server's port may be given that very port, connect to itself, and hold it."""

PORT_TRIES = 1_000
"""Among 10,000 ports, so many random tries without a free one mean that something else is wrong."""


@dataclass(frozen=True)
class StackState:
    """The kept decisions. `ports` maps a name (`kafka-1`, `kafka-1-controller`, `registry`, `s3`) to its number."""

    brokers: int
    s3: bool
    cluster_id: str
    ports: dict[str, int] = field(default_factory=dict)
    socket_folder: str = ""
    s3_program: str = ""
    s3_access_key_id: str = ""
    s3_secret_access_key: str = ""

    def with_port(self, name: str, *, fresh: bool = False) -> "StackState":
        """The state with a port under that name: the kept one, unless it is missing or a fresh one is asked for."""
        if name in self.ports and not fresh:
            return self
        return replace(self, ports=self.ports | {name: find_free_port(set(self.ports.values()))})


def load_state(home: Path) -> StackState | None:
    """The state of a home folder, or None where no stack was made yet. Raises StackFailed when it cannot be read."""
    path = home / STATE_FILE
    try:
        return _checked(StackState(**json.loads(path.read_text())))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise StackFailed(
            f"{path} is not a stack's state: {error}", advice="move the folder away; `k2 dev up` makes a new one"
        ) from error


def _checked(state: StackState) -> StackState:
    """Raises ValueError for a value of another type than a stack writes."""
    for name, kind in get_type_hints(StackState).items():
        value, wanted = getattr(state, name), get_origin(kind) or kind
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise ValueError(f"{name} was {value!r}")
    if not all(isinstance(port, int) for port in state.ports.values()) or "registry" not in state.ports:
        raise ValueError(f"ports were {state.ports!r}")
    return state


def save_state(home: Path, state: StackState) -> None:
    """Keep the state, readable by its owner only (it holds the S3 secret)."""
    write_atomically(home / STATE_FILE, json.dumps(asdict(state), indent=2) + "\n")


def find_free_port(taken: set[int]) -> int:
    """A port on 127.0.0.1 that nobody listens on now and that is not in `taken`."""
    chooser = random.SystemRandom()
    for _ in range(PORT_TRIES):
        port = chooser.randrange(LOWEST_PORT, HIGHEST_PORT)
        if port not in taken and is_free(port):
            return port
    raise StackFailed(f"no free port between {LOWEST_PORT} and {HIGHEST_PORT} on 127.0.0.1")


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def accepts(port: int, timeout_seconds: float = 1.0) -> bool:
    """Whether somebody accepts connections on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds).close()
    except OSError:
        return False
    return True
