"""Logs: events with fields, as text and as JSON, without secrets."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from k2_dagster.observability.logs import configure_logs
from k2_dagster.settings import Settings

logger = logging.getLogger("k2_dagster.lake.append")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, package = logging.getLogger(), logging.getLogger("k2_dagster")
    handlers, levels = list(root.handlers), (root.level, package.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    package.setLevel(levels[1])


def test_an_event_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings())

    logger.info("commit landed", extra={"table": "market_data.ticks", "rows": 250_000, "note": "two words"})

    line = capsys.readouterr().err
    assert line.endswith('Z INFO lake.append commit landed table=market_data.ticks rows=250000 note="two words"\n')


def test_an_event_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_format="json"))

    logger.warning("gap", extra={"first": 7, "symbols": ("A", "B"), "file": Path("x"), "cause": None, "level": "page"})

    event = json.loads(capsys.readouterr().err)
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "WARNING",
        "logger": "k2_dagster.lake.append",
        "event": "gap",
        "first": 7,
        "symbols": ["A", "B"],
        "file": "x",
        "cause": None,
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_logged(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_format=form))
    uri = "postgresql+psycopg2://ann:swordfish@db/k2"

    try:
        raise ValueError(f"cannot reach {uri}")
    except ValueError:
        extra = {"uri": uri, "secret": SecretStr("swordfish"), "nested": {"list": [uri]}}
        logger.exception("failed on %s", uri, extra=extra)

    shown = capsys.readouterr().err
    assert "swordfish" not in shown
    assert "ValueError" in shown
    assert "ann:***@db/k2" in shown


def test_the_level_is_ours_and_libraries_stay_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_level="DEBUG"))

    logger.debug("shown")
    logging.getLogger("pyiceberg").info("not shown")
    logging.getLogger("pyiceberg").warning("shown too")

    assert [line.split(" ", 3)[3] for line in capsys.readouterr().err.splitlines()] == ["shown", "shown too"]


def test_configuring_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings())
    configure_logs(Settings(log_format="json"))

    logger.error("once")

    assert json.loads(capsys.readouterr().err)["event"] == "once"


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_came_from_outside_cannot_write_to_the_screen(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_format=form))

    logger.warning("refused \x1b[2J", extra={"symbol": "\x1b[31mX\x9b", "detail": "one\nForged INFO line"})

    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert not {"\x1b", "\x9b"} & set(line)
