"""The commands of a day with K2 on the real stack: init, simulate, ingest, status, quarantine, accept-loss."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from k2_dagster.devstack.process import wait_until
from k2_dagster.kafka.clients import client_config
from k2_dagster.kafka.registry import Registry
from k2_dagster.kafka.topics import describe
from k2_dagster.schemas.avro import avro_schema
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.settings import Settings, as_environment

pytestmark = pytest.mark.stack

COMMAND_SECONDS = 120
STOP_SECONDS = 5.0

K2 = Callable[..., Any]


@pytest.fixture
def exchange(tmp_path: Path) -> str:
    """An exchange of its own, with a profile file."""
    name = f"ops_{uuid.uuid4().hex[:8]}"
    (tmp_path / "profiles.toml").write_text(f"""
        version = 1
        [exchanges.{name}]
        title = "Operations test"
        asset_class = "crypto"
        calendar = "24/7"
        timezone = "UTC"
        entitlement_class = "test"
        partitions = 2
        on_critical_gap = "mark_stale"
        [exchanges.{name}.streams.trade]
        dataset = "ticks"
        domain = "dense"
    """)
    return name


@pytest.fixture
def environment(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """The whole environment of a `k2` process."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("K2_")}
    return {**plain, **as_environment(settings), "K2_PROFILES": str(tmp_path / "profiles.toml")}


@pytest.fixture
def k2(environment: dict[str, str]) -> K2:
    """Runs `k2 ...` as a process; returns its standard output, parsed when it is JSON."""

    def run(*arguments: str, status: int = 0) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "k2_dagster.cli", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr

    return run


def simulate(k2: K2, exchange: str, *options: str) -> Any:
    return k2("simulate", "--exchange", exchange, "--rate", "2000", "--seconds", "3", "--flat-out", "--json", *options)


def test_init_twice_creates_and_then_confirms(k2: K2, exchange: str) -> None:
    first = k2("init", "--json")
    second = k2("init", "--json")

    assert {row["what"] for row in first} == {"control schema", "table", "topic", "subject"}
    keys = {"what", "name", "action", "partitions", "schema_id", "revision", "differences"}
    assert all(row.keys() == keys for row in first)
    assert {row["action"] for row in first if row["what"] in ("topic", "table", "control schema")} == {"created"}
    assert {row["action"] for row in second} == {"confirmed"}
    assert {row["partitions"] for row in second if row["what"] == "topic"} == {1, 2}
    assert all(isinstance(row["schema_id"], int) for row in second if row["what"] == "subject")
    assert second[0]["revision"] == first[0]["revision"] != ""
    assert all(row["differences"] == [] for row in second)
    assert f"market.ticks.{exchange}" in {row["name"] for row in second}


def test_init_after_a_simulated_schema_change_notes_the_field_that_it_ignores(k2: K2, exchange: str) -> None:
    k2("init")
    simulate(k2, exchange, "--fault", "schema_change@1s")

    subject = f"market.ticks.{exchange}-value"
    (row,) = [one for one in k2("init", "--json") if one["name"] == subject]
    assert row["action"] == "ahead"
    assert row["differences"] == ["others have added the field venue_note_1, which readers here ignore"]
    (checked,) = [one for one in k2("schemas", "check", "--json") if one["subject"] == subject]
    assert (checked["state"], checked["field"]) == ("ahead", "venue_note_1")
    k2("ingest", "--exchange", exchange, "--until-caught-up")
    assert k2("quarantine", "list", "--exchange", exchange, "--json") == []


def test_init_that_is_refused_has_made_nothing(k2: K2, exchange: str, settings: Settings) -> None:
    schema = avro_schema(WIRE_DATASETS["ticks"])
    next(one for one in schema["fields"] if one["name"] == "price")["type"]["scale"] = 4
    with closing(Registry(settings)) as registry:
        registry.register(f"market.ticks.{exchange}-value", json.dumps(schema))

    assert "its scale was 4, is 8" in k2("init", status=4)
    assert describe(settings, [f"market.ticks.{exchange}", f"market.control.{exchange}"]) == {}
    assert "k2 init" in k2("status", status=4)


def test_a_command_before_init_says_to_run_it(k2: K2, exchange: str) -> None:
    assert "k2 init" in k2("ingest", "--exchange", exchange, "--until-caught-up", status=4)
    assert "k2 init" in k2("status", status=4)


def test_a_misspelt_exchange_does_not_look_like_one_where_all_is_well(k2: K2, exchange: str) -> None:
    k2("init")
    listings = (("gaps",), ("breaker", "list"), ("quarantine", "list"), ("quarantine", "reprocess"), ("coverage",))
    for command in listings:
        assert exchange in k2(*command, "--exchange", f"{exchange}x", status=4)
        k2(*command, "--exchange", exchange)


def test_a_schema_that_is_registered_is_not_refused(k2: K2, exchange: str) -> None:
    """A typing mistake in the id would send every good message to quarantine."""
    known = next(row["schema_id"] for row in (k2("init"), k2("init", "--json"))[1] if row["what"] == "subject")

    assert f"schema {known} is registered" in k2("ingest", "refuse-schema", str(known), "--reason", "test", status=4)
    simulate(k2, exchange)
    k2("ingest", "--exchange", exchange, "--until-caught-up")
    assert k2("quarantine", "list", "--exchange", exchange, "--json") == []
    refused = str(2**31 - 7)
    assert "go to quarantine" in k2("ingest", "refuse-schema", refused, "--reason", "test")
    assert "decoded again" in k2("ingest", "accept-schema", refused, "--reason", "test")


def test_messages_land_and_the_status_says_so(k2: K2, exchange: str) -> None:
    k2("init")
    published = simulate(k2, exchange, "--fault", "duplicate:5@1s", "--fault", "corrupt:2@2s")
    k2("ingest", "--exchange", exchange, "--until-caught-up")

    (ticks,) = [row for row in k2("status", "--json") if row["dataset"] == "ticks"]
    assert ticks["fence"] == published["published"]["ticks"]
    assert ticks["rows"] + ticks["quarantined"] == ticks["fence"]
    assert ticks["quarantined"] == 7
    assert ticks["lag_messages"] == 0
    assert ticks["problem"] == ""


def test_quarantine_shows_what_was_refused_and_why(k2: K2, exchange: str) -> None:
    k2("init")
    simulate(k2, exchange, "--fault", "out_of_range:2@1s")
    k2("ingest", "--exchange", exchange, "--until-caught-up")

    listed = k2("quarantine", "list", "--reason", "rule_violated", "--json")
    assert len(listed) == 2
    one = listed[0]
    shown = k2("quarantine", "show", one["topic"], str(one["kafka_partition"]), str(one["kafka_offset"]), "--json")
    assert shown["value"]
    assert "price" in shown["detail"]
    assert "not in quarantine" in k2("quarantine", "show", one["topic"], "0", "999999", status=4)
    assert k2("quarantine", "list", "--to", "2020-01-01", "--json") == []
    assert len(k2("quarantine", "list", "--from", "2020-01-01", "--limit", "1", "--json")) == 1
    chosen = ("--exchange", exchange, "--partition", str(one["kafka_partition"]))
    at = str(one["kafka_offset"])
    again = k2("quarantine", "reprocess", *chosen, "--first-offset", at, "--last-offset", at, "--json")
    assert again == {"republished": 1}


def test_reprocessing_twice_refuses_again_what_is_still_wrong_and_loses_nothing(k2: K2, exchange: str) -> None:
    k2("init")
    simulate(k2, exchange, "--fault", "out_of_range:2@1s")
    k2("ingest", "--exchange", exchange, "--until-caught-up")

    assert k2("quarantine", "reprocess", "--exchange", exchange, "--json") == {"republished": 2}
    k2("ingest", "--exchange", exchange, "--until-caught-up")
    # the copies were refused again: only the newest of each goes out the next time
    assert k2("quarantine", "reprocess", "--exchange", exchange, "--json") == {"republished": 2}
    (ticks,) = [row for row in k2("status", "--json") if row["dataset"] == "ticks"]
    assert ticks["quarantined"] == 4


def test_lost_messages_halt_the_stream_until_somebody_accepts_the_loss(
    k2: K2, exchange: str, settings: Settings
) -> None:
    k2("init")
    simulate(k2, exchange)
    k2("ingest", "--exchange", exchange, "--until-caught-up")
    simulate(k2, exchange, "--seed", "2")
    _delete_everything(settings, f"market.ticks.{exchange}")

    assert "no longer in Kafka" in k2("ingest", "--exchange", exchange, "--until-caught-up", status=4)
    assert "no longer in Kafka" in next(row["problem"] for row in k2("status", "--json", status=1) if row["problem"])
    accept = ("ingest", "accept-loss", "--exchange", exchange, "--dataset", "ticks", "--by", "ops", "--reason", "test")
    shown = k2(*accept, status=1)
    assert "nothing was accepted" in shown
    token = shown.partition("token of these losses: ")[2].split()[0]
    assert "the losses now are" in k2(*accept, "--expect", "another", status=4)
    accepted = k2(*accept, "--expect", token, "--json")
    assert {row["cause"] for row in accepted} == {"retention_overrun"}
    assert {row["accepted_by"] for row in accepted} == {"ops"}
    simulate(k2, exchange, "--seed", "3")
    k2("ingest", "--exchange", exchange, "--until-caught-up")
    assert "nothing is lost" in k2(*accept, "--yes")
    assert k2(*accept, "--yes", "--json") == []
    assert [row["problem"] for row in k2("status", "--json")] == [""] * len(k2("status", "--json"))


def test_one_exchange_that_cannot_be_drained_does_not_keep_the_others(
    k2: K2, exchange: str, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "profiles.toml"
    other = f"{exchange}_b"
    text = path.read_text()
    path.write_text(f"{text}\n" + text.partition("version = 1")[2].replace(exchange, other))
    k2("init")
    simulate(k2, exchange)
    published = simulate(k2, other)
    k2("ingest", "--until-caught-up", "--exchange", exchange)
    _delete_topic(settings, f"market.ticks.{exchange}")
    said = k2("ingest", "--until-caught-up", status=4)
    assert f"market.ticks.{exchange} does not exist any more" in said
    landed = {(row["exchange"], row["dataset"]): row["rows"] for row in k2("status", "--json", status=1)}
    assert landed[other, "ticks"] == published["published"]["ticks"]


def test_the_process_holds_a_lease_and_stops_within_seconds(k2: K2, exchange: str, environment: dict[str, str]) -> None:
    k2("init")
    command = [sys.executable, "-m", "k2_dagster.cli", "ingest", "--exchange", exchange]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert wait_until(lambda: _driver(k2).startswith("process"), 30)
        assert "is driven by" in k2("ingest", "--exchange", exchange, status=3)
        published = simulate(k2, exchange)
        assert wait_until(lambda: _rows(k2) == published["published"]["ticks"], 30)
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 0, output
    assert _driver(k2) == "none"


def _driver(k2: K2) -> str:
    return str(next(row["driver"] for row in k2("status", "--all", "--json") if row["dataset"] == "ticks"))


def _rows(k2: K2) -> int:
    return int(next(row["rows"] for row in k2("status", "--all", "--json") if row["dataset"] == "ticks"))


def _delete_topic(settings: Settings, topic: str) -> None:
    admin = AdminClient(client_config(settings))
    admin.delete_topics([topic])[topic].result(30)
    assert wait_until(lambda: topic not in describe(settings, [topic]), 30)


def _delete_everything(settings: Settings, topic: str) -> None:
    """What retention does, at once."""
    admin = AdminClient(client_config(settings))
    for future in admin.delete_records([TopicPartition(topic, partition, -1) for partition in range(2)]).values():
        future.result(30)
