"""Logging: standard library, to standard error, as text or as one JSON object per line.

A record is an event: a constant message that names it, and its facts as fields through `extra`.

    logger.info("commit landed", extra={"table": "market_data.ticks", "rows": 250_000})
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from k2_dagster.observability.masking import mask, masked
from k2_dagster.observability.printable import printable, printable_json
from k2_dagster.settings import Settings

PACKAGE = "k2_dagster"
# What other libraries say is worth reading only when something is wrong with them.
LIBRARY_LEVEL = logging.WARNING
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """`2026-01-02T03:04:05.678Z INFO lake.append commit landed table=market_data.ticks rows=250000`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; an exception follows on its own lines."""
        name = record.name.removeprefix(f"{PACKAGE}.")
        fields = "".join(f" {key}={_quoted(value)}" for key, value in event_fields(record).items())
        line = printable(mask(f"{_time(record)} {record.levelname} {name} {record.getMessage()}{fields}"))
        return f"{line}\n{_exception(record)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, logger, event, the fields, and exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Field names that clash with ours are ours."""
        line = {
            **{key: _plain(value) for key, value in event_fields(record).items()},
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "event": mask(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = _exception(record)
        return printable_json(json.dumps(line, ensure_ascii=False))


def configure_logs(settings: Settings) -> None:
    """Send logs to standard error as the settings say. Repeatable: it replaces what an earlier call installed."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for installed in [one for one in root.handlers if isinstance(one.formatter, TextFormatter | JsonFormatter)]:
        root.removeHandler(installed)
    root.addHandler(handler)
    root.setLevel(max(LIBRARY_LEVEL, logging.getLevelNamesMapping()[settings.log_level]))
    logging.getLogger(PACKAGE).setLevel(settings.log_level)


def event_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was passed through `extra`, in its order."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    """The value for JSON: numbers stay numbers, containers stay containers, everything else is text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return masked(value)


def _quoted(value: Any) -> str:
    text = masked(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(one in text for one in ' "=\n') else text


def _exception(record: logging.LogRecord) -> str:
    told = mask("".join(traceback.format_exception(*record.exc_info))).rstrip() if record.exc_info else ""
    return printable(told, lines=True)
