"""`python -m k2_dagster.devstack.jars_lock`: resolve the coordinates of the stack's jars anew and write `jars.lock`."""

from pathlib import Path

import click

from k2_dagster.devstack.downloads import (
    FETCH_TIMEOUT_SECONDS,
    KAFKA,
    LOCK_FILE,
    REGISTRY,
    SLF4J,
    Artifact,
    require,
    sha256_of,
)
from k2_dagster.devstack.process import Progress


def write_lock(path: Path, progress: Progress) -> None:
    """Resolve the coordinates anew and write the lock (needs the network)."""
    jgo = require("jgo")
    maven = require("jgo.maven")
    # Resolved apart: joined with `+`, the second's dependency management would be applied to the first
    jars = [artifact for endpoint in (KAFKA, SLF4J) for artifact in jgo.resolve(endpoint)]
    group, name, version, packaging, classifier = REGISTRY.split(":")
    context = maven.MavenContext(timeout=FETCH_TIMEOUT_SECONDS)
    archive = context.project(group, name).at_version(version).artifact(classifier=classifier, packaging=packaging)
    entries = [("kafka", jar) for jar in jars] + [("registry", archive)]
    lines = ["# Written by `python -m k2_dagster.devstack.jars_lock`"]
    for set_name, artifact in sorted(entries, key=lambda entry: (entry[0], str(entry[1].component), entry[1].filename)):
        locked = _lock_entry(set_name, artifact)
        strings = "".join(f'{name} = "{getattr(locked, name)}"\n' for name in ("set", "name", "sha256"))
        block = f"[[artifact]]\n{strings}bytes = {locked.bytes}"
        if block not in lines:
            lines.append(block)
            progress(locked.name)
    path.write_text("\n\n".join(lines) + "\n")


def _lock_entry(set_name: str, artifact: object) -> Artifact:
    path = Path(artifact.resolve())  # type: ignore[attr-defined]
    parts = [getattr(artifact, name) for name in ("groupId", "artifactId", "version", "packaging", "classifier")]
    return Artifact(set_name, ":".join(part for part in parts if part), sha256_of(path), path.stat().st_size)


if __name__ == "__main__":
    write_lock(LOCK_FILE, click.echo)
