"""Files of the stack: logs and their ends, and small files that are written whole."""

import os
from pathlib import Path

LOG_TAIL_LINES = 15
"""Log lines shown with a failure: enough for a Java exception's head, short enough to read."""

LOG_TAIL_BYTES = 64 * 1024
"""Most of a log that is read to find its last lines."""

LOG_KEEP_BYTES = 20 * 1024 * 1024
"""A longer log is set aside (one generation) when its part is started."""


def last_lines(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log, or a note that there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"


def write_atomically(path: Path, text: str) -> None:
    """Write a file that only its owner may read, so that a reader sees the old content or the new, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.touch(mode=0o600)
    partial.write_text(text)
    partial.replace(path)


def set_aside(log: Path) -> None:
    """Before a part starts: keep one older generation of a long log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_KEEP_BYTES:
        log.replace(log.with_name(log.name + ".1"))
