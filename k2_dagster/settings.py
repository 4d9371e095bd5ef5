"""Every setting of K2, once: name, type, default, unit and help.

A value comes from the environment (`K2_*`), else from the development stack's file (`<home>/stack.env`, written by
`k2 dev up`), else from the default here; `sources.py` has the rule. A `K2_*` name that is not a setting is an error, so
a typing mistake cannot silently fall back to a default.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from k2_dagster.addresses import database_uri, folder_warehouse, warehouse_root
from k2_dagster.errors import ConfigurationError
from k2_dagster.fields import type_text
from k2_dagster.sources import (
    ENVIRONMENT,
    PREFIX,
    STACK_FILE,
    Gathered,
    environment_name,
    gather,
    refusal,
)

__all__ = [
    "STACK_FILE",
    "Settings",
    "as_environment",
    "environment_name",
    "load_settings",
    "stack_settings",
]

Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
DatabaseUri = Annotated[SecretStr, AfterValidator(lambda uri: SecretStr(database_uri(uri.get_secret_value())))]
Warehouse = Annotated[str, AfterValidator(warehouse_root)]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(lambda given: str(given).upper())]

# The folder of the tables below the home, where no other warehouse is named.
WAREHOUSE_FOLDER = "warehouse"
# What `k2 dev` goes by; the rest is the stack's own.
STACK_NEEDS = ("home", "maven_repository")
# Pydantic's word for a default that follows from other values, of which any is wrong.
DEFAULT_NOT_ASKED = "default_factory_not_called"


def _unit(unit: str) -> dict[str, Any]:
    return {"unit": unit}


class Settings(BaseSettings):
    """Frozen. Build it with `load_settings()`; tests may pass keyword arguments."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)

    home: Path = Field(Path(".k2"), description="State folder of the development stack, and of logs and local caches")
    sample_data: Path = Field(
        Path("../shared/data"), description="Folder of captured market data, for tests and the demo"
    )
    maven_repository: str = Field(
        "https://repo1.maven.org/maven2",
        pattern=r"^https?://.",
        description="Maven repository from which `k2 dev` fetches jars: Maven Central, or a mirror of it",
    )
    profiles: Path | None = Field(None, description="Exchange profiles (TOML); unset means the ones in the package")

    kafka_bootstrap_servers: str = Field("127.0.0.1:9092", description="Kafka brokers, host:port separated by commas")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to talk to Kafka"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="SASL mechanism, when the security protocol has SASL"
    )
    kafka_sasl_username: str | None = Field(None, description="SASL user name")
    kafka_sasl_password: SecretStr | None = Field(None, description="SASL password")
    kafka_ssl_ca_location: Path | None = Field(None, description="Certificate authority file for Kafka's TLS")
    kafka_ssl_certificate_location: Path | None = Field(None, description="Client certificate file for Kafka's TLS")
    kafka_ssl_key_location: Path | None = Field(None, description="Client key file for Kafka's TLS")
    kafka_ssl_key_password: SecretStr | None = Field(None, description="Password of the client key")
    kafka_replication_factor: Count = Field(1, description="Replicas of the topics that `k2 init` creates")
    kafka_retention_hours: Count = Field(
        168, description="Retention of the topics that `k2 init` creates", json_schema_extra=_unit("hours")
    )

    schema_registry_url: str = Field("http://127.0.0.1:8081", description="Confluent-protocol schema registry")
    schema_registry_username: str | None = Field(None, description="User name for the schema registry")
    schema_registry_password: SecretStr | None = Field(None, description="Password for the schema registry")

    catalog_uri: DatabaseUri = Field(
        SecretStr("postgresql+psycopg2://postgres@127.0.0.1:5432/k2"),
        description="PostgreSQL database with the Iceberg catalog and the control schema (SQLAlchemy URI)",
    )
    dagster_uri: DatabaseUri | None = Field(
        None, description="PostgreSQL database of Dagster's storage (SQLAlchemy URI)"
    )
    catalog_name: str = Field("k2", description="Name of the Iceberg catalog; every engine must use the same one")
    warehouse: Warehouse = Field(
        default_factory=lambda known: folder_warehouse(known["home"] / WAREHOUSE_FOLDER),
        description="Root of the tables: file:///folder or s3://bucket/prefix",
        json_schema_extra={"default": f"file://K2_HOME/{WAREHOUSE_FOLDER}"},
    )
    s3_endpoint: str | None = Field(None, description="S3 address, when it is not Amazon's")
    s3_region: str = Field("us-east-1", description="S3 region")
    s3_access_key_id: str | None = Field(None, description="S3 access key")
    s3_secret_access_key: SecretStr | None = Field(None, description="S3 secret key")
    file_io: str = Field(
        "pyiceberg.io.pyarrow.PyArrowFileIO",
        description="PyIceberg FileIO class (the fsspec one avoids apache/arrow#50188)",
    )

    ingest_reader: Literal["plain", "native"] = Field("plain", description="Kafka reader of the drain loop")
    ingest_batch_rows: Count = Field(320_000, description="Most rows in one commit", json_schema_extra=_unit("rows"))
    ingest_commit_interval_seconds: Seconds = Field(
        2.0,
        description="Longest time from the first message of a batch to its commit",
        json_schema_extra=_unit("seconds"),
    )
    ingest_run_cap_seconds: Seconds = Field(
        300.0,
        description="A Dagster drain run ends after this long, caught up or not",
        json_schema_extra=_unit("seconds"),
    )
    drain_min_rows: Count = Field(
        50_000, description="Lag that starts a drain run at once", json_schema_extra=_unit("messages")
    )
    freshness_target_seconds: Seconds = Field(
        60.0,
        description="Age of the oldest unlanded message that starts a drain run",
        json_schema_extra=_unit("seconds"),
    )
    lease_stale_seconds: Seconds = Field(
        60.0,
        description="A lease without a heartbeat for this long may be taken over",
        json_schema_extra=_unit("seconds"),
    )
    snapshots_kept: Count = Field(
        20, description="Snapshots that expiry keeps per table", json_schema_extra=_unit("snapshots")
    )

    query_memory_megabytes: Count = Field(2_048, description="DuckDB memory limit", json_schema_extra=_unit("MB"))
    query_threads: Count = Field(2, description="DuckDB threads", json_schema_extra=_unit("threads"))
    query_temp_megabytes: Count = Field(
        10_240,
        description="Most disk that one query may spill to, under the home folder",
        json_schema_extra=_unit("MB"),
    )
    query_cache_megabytes: Count = Field(
        10_240,
        description="Most disk for local copies of data files from object storage, under the home folder",
        json_schema_extra=_unit("MB"),
    )

    alert_urls: SecretStr | None = Field(
        None,
        description="Whom `k2 watch` tells: Apprise addresses separated by spaces, each `[warning|error|critical=]URL`",
    )
    alert_interval_seconds: Seconds = Field(
        5.0, description="How often `k2 watch` looks", json_schema_extra=_unit("seconds")
    )
    alert_heartbeat_url: SecretStr | None = Field(
        None, description="Dead man's switch that `k2 watch` calls while it can do its work (http or https)"
    )
    alert_heartbeat_interval_seconds: Seconds = Field(
        60.0, description="How often it is called", json_schema_extra=_unit("seconds")
    )
    dagster_url: str | None = Field(
        None, pattern=r"^https?://.", description="Dagster's web server as people reach it: incidents link to it"
    )
    documentation_url: str = Field(
        "https://github.com/k2-dagster/k2/blob/main/docs",
        description="Where the documentation is: failed checks and incidents link to their runbook pages below it",
    )
    binance_api_key: SecretStr | None = Field(
        None, description="Key for Binance's REST interface, where `k2 recover` asks for past trades; futures demand it"
    )
    log_level: Level = Field("INFO", description="Lowest level that is logged")
    log_format: Literal["text", "json"] = Field("text", description="How log lines are written (standard error)")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  (the signature is the library's)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` passes: it merges the sources itself, to know where each value came from."""
        return (init_settings,)


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Raises ConfigurationError that names the variable, its value and what would be valid."""
    gathered = gather_settings(environment)
    if gathered.unknown:
        raise refusal(gathered.unknown, Settings.model_fields)
    settings, errors = validate(gathered)
    if errors:
        raise ConfigurationError("; ".join(errors.values()), advice="`k2 settings` lists every name with its meaning")
    return settings


def stack_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings without the stack's file, for `k2 dev`, which must also work where that file is of another version
    of K2. Only STACK_NEEDS are to be relied on: another value that is wrong stands at its default.

    Raises ConfigurationError for a name in the environment that is no setting, and for a wrong value of STACK_NEEDS.
    """
    given = os.environ if environment is None else environment
    names = {environment_name(name): name for name in Settings.model_fields}
    unknown = {key: ENVIRONMENT for key in given if key.startswith(PREFIX) and key not in names}
    if unknown:
        raise refusal(unknown, Settings.model_fields)
    settings, errors = validate(Gathered(Path(), {names[key]: value for key, value in given.items() if key in names}))
    wrong = [errors[name] for name in STACK_NEEDS if name in errors]
    if wrong:
        raise ConfigurationError("; ".join(wrong), advice="`k2 settings` lists every name with its meaning")
    return settings


def mixed_addresses(environment: Mapping[str, str] | None = None) -> str:
    """What is told of addresses that come in part from the environment, beside a development stack; else empty."""
    return gather_settings(environment).mixture


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, secrets in clear: for a child process of ours, never for printing."""
    out = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if value is not None:
            out[environment_name(name)] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return out


def gather_settings(environment: Mapping[str, str] | None) -> Gathered:
    """The texts that are given, and where. Raises ConfigurationError when the stack's file cannot be read."""
    given = os.environ if environment is None else environment
    return gather(given, Settings.model_fields, Settings.model_fields["home"].default)


def validate(gathered: Gathered) -> tuple[Settings, dict[str, str]]:
    """The settings, and what is wrong by field; what is wrong stands at its default. An empty text unsets.

    Raises ConfigurationError when a default is wrong.
    """
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, text in gathered.values.items():
        field = Settings.model_fields[name]
        if text:
            values[name] = text
        elif _is_optional(field):
            values[name] = None
        else:
            errors[name] = f"{environment_name(name)} was '': it cannot be unset; valid: {type_text(field)}"
    while True:
        try:
            return Settings(**values), errors
        except ValidationError as error:
            found = dict(_explained(error))
            if (
                not found.keys() & values.keys()
            ):  # a default that follows from another value, as the warehouse from home
                raise ConfigurationError("; ".join(found.values()), advice="set it, or K2_HOME, otherwise") from error
            errors |= found
            values = {name: value for name, value in values.items() if name not in errors}


def _explained(error: ValidationError) -> Iterator[tuple[str, str]]:
    for item in error.errors():
        if item["type"] == DEFAULT_NOT_ASKED:
            continue
        name = str(item["loc"][0])
        field = Settings.model_fields[name]
        shown = "***" if "secret" in type_text(field) else repr(item["input"])
        yield name, f"{environment_name(name)} was {shown}: {item['msg'].removeprefix('Value error, ')}"


def _is_optional(field: FieldInfo) -> bool:
    return NoneType in get_args(field.annotation)
