"""What people are told."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from k2_dagster.alerts.judge import Incident
from k2_dagster.alerts.messages import TEXT_CHARACTERS, Links, message
from tests.alerts.support import LINKS, signal

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
INCIDENT = Incident("run/drain/x", "error", signal(), NOW - timedelta(hours=1), NOW, transitions=4)


def test_an_end_says_what_it_was_and_for_how_long() -> None:
    told = message(INCIDENT, "resolved", LINKS, NOW)
    assert told.title == "Resolved: [error] Something broke"
    assert told.body.splitlines()[:2] == [
        "It was: it broke",
        "Open from 2026-03-01 11:00:00 UTC to 2026-03-01 12:00:00 UTC.",
    ]
    assert told.identity == "run/drain/x#4"
    assert told.body.endswith("Incident: run/drain/x#4")


def test_texts_are_cut_and_passwords_hidden() -> None:
    secret = "postgresql://ann:swordfish@db/k2 " + "x" * 5_000
    told = message(replace(INCIDENT, signal=signal(text=secret)), "opened", LINKS, NOW)
    assert "swordfish" not in told.body
    assert len(told.body) < TEXT_CHARACTERS + 400


@pytest.mark.parametrize(
    ("key", "fields", "link"),
    [
        ("run/drain/x", {"run_id": "r1"}, "/runs/r1"),
        (
            "check/ticks/times/x|2026-03-01",
            {"run_id": "r1", "asset": "ticks", "partition": "x|2026-03-01"},
            "/assets/ticks?view=partitions&partition=2026-03-01%7Cx",
        ),
        ("daemon/all", {"run_id": ""}, "/deployment/daemons"),
        ("code-server/k2", {"run_id": ""}, "/deployment/locations"),
        ("sensor/lag", {"run_id": ""}, "/automation"),
    ],
)
def test_links_lead_to_the_place_in_dagster(key: str, fields: dict[str, str], link: str) -> None:
    incident = replace(INCIDENT, key=key, signal=replace(signal(), **fields))  # type: ignore[arg-type]
    assert LINKS.to_dagster(incident) == f"http://dagster.example:3000{link}"
    assert f"Dagster: http://dagster.example:3000{link}" in message(incident, "opened", LINKS, NOW).body


def test_without_an_address_there_is_no_link() -> None:
    assert "Dagster:" not in message(INCIDENT, "opened", Links("", "https://docs.example/"), NOW).body
    lease = replace(INCIDENT, key="lease/x", signal=replace(signal(), run_id=""))
    assert LINKS.to_dagster(lease) == ""
