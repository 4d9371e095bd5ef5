"""Profiles of exchanges that nothing else uses, and a plain way to read a topic back."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from k2_dagster.kafka.reader import open_reader
from k2_dagster.kafka.topics import describe, ensure_topics, watermarks
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings

READ_SECONDS = 20.0

MakeProfiles = Callable[..., tuple[Profiles, str]]


@pytest.fixture
def make_profiles(tmp_path: Path) -> MakeProfiles:
    """Makes profiles with one exchange of a new name: `make(ticks="dense", quotes="channel")` -> (profiles, name)."""

    def make(*, asset_class: str = "crypto", **domains: str) -> tuple[Profiles, str]:
        name = f"t_{uuid.uuid4().hex[:10]}"
        text = f"""
            version = 1
            [exchanges.{name}]
            title = "Test"
            asset_class = "{asset_class}"
            calendar = "24/7"
            timezone = "UTC"
            entitlement_class = "test"
            partitions = 2
            on_critical_gap = "mark_stale"
        """
        for dataset, domain in domains.items():
            text += f'[exchanges.{name}.streams.{dataset}_stream]\ndataset = "{dataset}"\ndomain = "{domain}"\n'
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return load_profiles(path), name

    return make


@dataclass(frozen=True)
class Read:
    """One message of a topic."""

    partition: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes | None]]


@pytest.fixture
def read_topic(settings: Settings) -> Callable[[str], list[Read]]:
    """Reads a whole topic, partition by partition in the order of offsets."""

    def read(topic: str) -> list[Read]:
        partitions = describe(settings, [topic])[topic].partitions
        bounds = watermarks(settings, topic, partitions)
        reader = open_reader(settings)
        positions = {partition: low for partition, (low, _) in bounds.items()}
        out: list[Read] = []
        try:
            reader.assign(topic, positions)
            while any(positions[partition] < end for partition, (_, end) in bounds.items()):
                batch = reader.read(10_000, READ_SECONDS)
                assert batch.positions, f"nothing more came of {topic} within {READ_SECONDS} s"
                positions |= batch.positions
                rows = zip(batch.partition.tolist(), batch.keys.to_pylist(), batch.values.to_pylist(), strict=True)
                out += [Read(*row, batch.headers.get(place, [])) for place, row in enumerate(rows)]
        finally:
            reader.close()
        return sorted(out, key=lambda one: one.partition)

    return read


@pytest.fixture
def new_exchange(settings: Settings, make_profiles: MakeProfiles) -> MakeProfiles:
    """As `make_profiles`, with the topics created."""

    def make(**domains: str) -> tuple[Profiles, str]:
        profiles, name = make_profiles(**domains)
        ensure_topics(settings, profiles, [name])
        return profiles, name

    return make
