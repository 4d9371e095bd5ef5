"""The feed of the demo, as a process of its own: the simulator with its planted faults, or a capture."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proofs.demo.plan import feed_options, read_truth

RATE_MESSAGES_PER_SECOND = 4_000
# Ctrl-C lets the feed deliver what it accepted; a broker that answers takes it within this.
STOP_SECONDS = 30.0
# Of what the feed said last, when it fails.
TAIL_CHARACTERS = 500
# How `k2 simulate` and `k2 play` end: by themselves, or after Ctrl-C.
GOOD_ENDS = (0, 130)


class Feed:
    """One feed. `plants` faults, if it is the simulator."""

    def __init__(self, environment: Mapping[str, str], exchange: str, seconds: float, capture: Path | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="k2-demo-")
        self.plants = capture is None
        self._truth = Path(self._folder.name) / "truth.jsonl"
        # A file and no pipe: a full pipe would stop the feed
        self._said = (Path(self._folder.name) / "feed.log").open("w+", encoding="utf-8")
        k2 = str(Path(sys.executable).with_name("k2"))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("K2_")}
        self._process = subprocess.Popen(
            [k2, *self._command(exchange, seconds, capture)],
            env={**inherited, **environment},
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            text=True,
            # Ctrl-C is for the demo, which tells the feed
            start_new_session=True,
        )

    @property
    def runs(self) -> bool:
        """Whether it is still publishing."""
        return self._process.poll() is None

    def truth(self) -> list[dict[str, Any]] | None:
        """What was planted, once it has ended; None for a capture. A feed that failed may have written nothing."""
        if not self.plants:
            return None
        return read_truth(self._truth.read_text().splitlines()) if self._truth.exists() else []

    def stop(self) -> None:
        """End it; what it accepted is delivered. Killed when it does not end."""
        if self.runs:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def problem(self) -> str:
        """Why it ended badly; empty when it did not."""
        status = self._process.returncode
        if status is None or status in GOOD_ENDS:
            return ""
        self._said.seek(0)
        return f"the feed ended with status {status}: {self._said.read()[-TAIL_CHARACTERS:].strip()}"

    def close(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        self._said.close()
        self._folder.cleanup()

    def _command(self, exchange: str, seconds: float, capture: Path | None) -> list[str]:
        if capture is not None:
            return ["play", str(capture), "--speed", "original"]
        options = {
            "--exchange": exchange,
            "--rate": str(RATE_MESSAGES_PER_SECOND),
            "--seconds": str(seconds),
            "--seed": str(int(time.time()) % 10_000),
            "--truth": str(self._truth),
        }
        return ["simulate", *(part for pair in options.items() for part in pair), *feed_options()]
