"""The frame of every proof: its own stack, progress on standard error, one JSON line at the end, the exit code."""

import json
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k2_dagster.cli.init import initialize
from k2_dagster.devstack.stack import Stack
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings, load_settings

# Findings that the JSON line spells out; all are counted.
FINDINGS_SHOWN = 20

_STARTED = time.monotonic()


@dataclass
class Proof:
    """What a proof collects: anything in `findings` means that it does not hold."""

    proof: str
    counts: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def expect(self, what: str, found: object, expected: object) -> None:
        """Note a finding unless the two are equal."""
        if found != expected:
            self.object_to(f"{what}: found {found}, expected {expected}")

    def object_to(self, what: str) -> None:
        """Note a finding, and say it at once."""
        self.findings.append(what)
        say(f"FINDING {what}")


def say(text: str) -> None:
    """Progress, on standard error, with the seconds since the start."""
    sys.stderr.write(f"{time.monotonic() - _STARTED:7.1f}s  {text}\n")
    sys.stderr.flush()


def conclude(result: Proof) -> int:
    """Write the JSON line and return the exit status: 0 when the proof holds, else 1."""
    holds = not result.findings
    line = {
        "proof": result.proof,
        "holds": holds,
        **result.counts,
        "findings": result.findings[:FINDINGS_SHOWN],
        "findings_total": len(result.findings),
        "seconds": round(time.monotonic() - _STARTED, 1),
        "conditions": result.conditions,
    }
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()
    return 0 if holds else 1


@contextmanager
def proof_stack(home: Path | None, *, s3: bool | None = None) -> Iterator[Stack]:
    """A running stack: a temporary one that is purged at the end, or that of `home`, which is left running."""
    # Short, because PostgreSQL's socket lives in it
    folder = home or Path(tempfile.mkdtemp(prefix="k2-proof-"))
    stack = Stack(folder, s3=s3)
    try:
        stack.up(say)
        yield stack
    finally:
        if home is None:
            stack.down(purge=True)
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Lake:
    """A catalog database and a warehouse of a proof's own, on a shared stack. `folder` is for its files."""

    settings: Settings
    environment: dict[str, str]
    profiles: Profiles
    folder: Path


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="k2-proof-files-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_token() -> str:
    """Part of the exchange names of one run, so that a stack can be used again."""
    return uuid.uuid4().hex[:6]


def new_lake(
    stack: Stack, folder: Path, profiles_text: str | None, exchanges: Sequence[str] | None = None, **overrides: str
) -> Lake:
    """Make and initialize a fresh database and warehouse. `profiles_text`: own profiles, else the packaged ones;
    `overrides` are settings by their environment names."""
    name = f"proof_{uuid.uuid4().hex[:10]}"
    own = folder / name
    own.mkdir(parents=True)
    environment = stack.settings_environment()
    s3 = environment["K2_WAREHOUSE"].startswith("s3://")
    environment |= {
        "K2_HOME": str(own / "home"),
        "K2_CATALOG_URI": stack.create_database(name),
        "K2_WAREHOUSE": f"{environment['K2_WAREHOUSE']}/{name}" if s3 else f"file://{own}/warehouse",
        **overrides,
    }
    if profiles_text is not None:
        (own / "exchanges.toml").write_text(profiles_text)
        environment["K2_PROFILES"] = str(own / "exchanges.toml")
    settings = load_settings(environment)
    profiles = load_profiles(settings.profiles)
    initialize(settings, profiles, tuple(exchanges or profiles.exchanges))
    return Lake(settings, environment, profiles, own)
