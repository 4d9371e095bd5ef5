"""The jars of the peer: Kafka Connect with the Apache Iceberg sink, verified against `connect.lock`.

`python -m proofs.bench.connect_jars` resolves the coordinates anew and writes the lock (needs the network).
"""

import hashlib
from pathlib import Path

import click

from k2_dagster.devstack.downloads import Artifact, Store, read_lock, require
from k2_dagster.devstack.process import Progress

LOCK_FILE = Path(__file__).with_name("connect.lock")

WORKER, SINK, CONVERTER = "connect-worker", "connect-sink", "connect-converter"
ICEBERG, KAFKA, APICURIO = "1.12.0", "4.1.1", "2.6.13.Final"
# The first one that runs on Java 24 and newer
HADOOP = "3.5.0"
COORDINATES = {
    WORKER: (
        f"org.apache.kafka:kafka_2.13:{KAFKA}",
        f"org.apache.kafka:connect-runtime:{KAFKA}",
        f"org.apache.kafka:connect-api:{KAFKA}",
        f"org.apache.kafka:connect-json:{KAFKA}",
        f"org.apache.kafka:connect-transforms:{KAFKA}",
        "org.slf4j:slf4j-simple:1.7.36",
    ),
    SINK: (
        *(
            f"org.apache.iceberg:iceberg-{part}:{ICEBERG}"
            for part in ("kafka-connect", "core", "data", "parquet", "orc")
        ),
        f"org.apache.hadoop:hadoop-client-api:{HADOOP}",
        f"org.apache.hadoop:hadoop-client-runtime:{HADOOP}",
        "org.xerial:sqlite-jdbc:3.50.3.0",
        "org.slf4j:slf4j-api:2.0.17",
    ),
    CONVERTER: (
        f"io.apicurio:apicurio-registry-utils-converter:{APICURIO}",
        f"io.apicurio:apicurio-registry-serdes-avro-serde:{APICURIO}",
    ),
}
# What the converter brings along although the worker has it: two versions of Connect's API do not mix.
NOT_IN_PLUGIN = ("connect-", "kafka-clients")


def jars(progress: Progress) -> dict[str, list[Path]]:
    """Set -> verified jars, fetched where they are missing. Raises StackFailed."""
    store = Store(lock=read_lock(LOCK_FILE))
    return {name: store.files(name, progress) for name in COORDINATES}


def write_lock(path: Path, progress: Progress) -> None:
    """Resolve every coordinate by itself: joined, one's dependency management would be applied to the others."""
    jgo = require("jgo")
    chosen: dict[tuple[str, str], Artifact] = {}
    for set_name, coordinates in COORDINATES.items():
        for coordinate in coordinates:
            progress(f"resolving {coordinate}")
            for found in jgo.resolve(coordinate):
                locked = _locked(set_name, found)
                if set_name == CONVERTER and locked.file.startswith(NOT_IN_PLUGIN):
                    continue
                _keep_newest(chosen, locked)
    blocks = [
        f'[[artifact]]\nset = "{one.set}"\nname = "{one.name}"\nsha256 = "{one.sha256}"\nbytes = {one.bytes}'
        for _, one in sorted(chosen.items())
    ]
    path.write_text("\n\n".join(["# Written by `python -m proofs.bench.connect_jars`", *blocks]) + "\n")


def _locked(set_name: str, found: object) -> Artifact:
    file = Path(found.resolve())  # type: ignore[attr-defined]
    parts = [getattr(found, name) for name in ("groupId", "artifactId", "version", "packaging", "classifier")]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Artifact(set_name, ":".join(part for part in parts if part), digest, file.stat().st_size)


def _keep_newest(chosen: dict[tuple[str, str], Artifact], one: Artifact) -> None:
    group, name, version, packaging, *classifier = one.name.split(":")
    key = (one.set, ":".join([group, name, packaging, *classifier]))
    known = chosen.get(key)
    if known is None or _numbers(known.name.split(":")[2]) < _numbers(version):
        chosen[key] = one


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.replace("-", ".").split(".") if part.isdigit())


if __name__ == "__main__":
    write_lock(LOCK_FILE, click.echo)
