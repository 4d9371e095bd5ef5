"""Every setting of K2, once: name, type, default, unit and help.

A value comes from the environment (`K2_*`), else from the development stack's file (`<home>/stack.env`, written by
`k2 dev up`), else from the default here. A `K2_*` name that is not a setting is an error, so a typing mistake cannot
silently fall back to a default.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from k2_dagster.errors import ConfigurationError

PREFIX = "K2_"
STACK_FILE = "stack.env"

Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


def _unit(unit: str) -> dict[str, Any]:
    return {"unit": unit}


class Settings(BaseSettings):
    """Frozen. Build it with `load_settings()`; tests may pass keyword arguments."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_parse_none_str="")

    home: Path = Field(Path(".k2"), description="State folder of the development stack, and of logs and local caches")
    sample_data: Path = Field(
        Path("../shared/data"), description="Folder of captured market data, for tests and the demo"
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

    catalog_uri: SecretStr = Field(
        SecretStr("postgresql+psycopg2://postgres@127.0.0.1:5432/k2"),
        description="PostgreSQL database with the Iceberg catalog and the control schema (SQLAlchemy URI)",
    )
    dagster_uri: SecretStr | None = Field(None, description="PostgreSQL database of Dagster's storage (SQLAlchemy URI)")
    catalog_name: str = Field("k2", description="Name of the Iceberg catalog; every engine must use the same one")
    warehouse: str = Field(
        "file:///tmp/k2-warehouse", description="Root of the tables: file:///folder or s3://bucket/prefix"
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
    ingest_batch_rows: Count = Field(250_000, description="Most rows in one commit", json_schema_extra=_unit("rows"))
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

    documentation_url: str = Field(
        "https://github.com/k2-dagster/k2/blob/main/docs",
        description="Where the documentation is: failed checks in Dagster link to their runbook pages below it",
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level that is logged")
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


@dataclass(frozen=True)
class Origin:
    """One setting with the place its value came from: `environment`, the stack file's path, or `default`."""

    name: str
    value: Any
    source: str
    unit: str
    help: str


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Raises ConfigurationError that names the variable, its value and what would be valid."""
    values, _ = _gather(os.environ if environment is None else environment)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error), advice="`k2 settings` lists every name with its meaning") from error


def explain_settings(environment: Mapping[str, str] | None = None) -> list[Origin]:
    """Every setting with its value and source, in the order of their declaration. Secrets stay masked."""
    environment = os.environ if environment is None else environment
    settings = load_settings(environment)
    _, sources = _gather(environment)
    return [
        Origin(
            name=environment_name(name),
            value=getattr(settings, name),
            source=sources.get(name, "default"),
            unit=str((field.json_schema_extra or {}).get("unit", ""))
            if isinstance(field.json_schema_extra, dict)
            else "",
            help=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def environment_name(field_name: str) -> str:
    """The environment variable of a setting: `ingest_reader` -> `K2_INGEST_READER`."""
    return PREFIX + field_name.upper()


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, secrets in clear: for a child process of ours, never for printing."""
    out = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if value is not None:
            out[environment_name(name)] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return out


def _gather(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    given = {key: value for key, value in environment.items() if key.startswith(PREFIX)}
    home = Path(given.get("K2_HOME", str(Settings.model_fields["home"].default)))
    stack_file = home / STACK_FILE
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, pairs in ((str(stack_file), _read_stack_file(stack_file)), ("environment", given)):
        for key, value in pairs.items():
            name = _field_name(key, source)
            values[name] = value
            sources[name] = source
    return values, sources


def _read_stack_file(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def _field_name(key: str, source: str) -> str:
    name = key.removeprefix(PREFIX).lower()
    if name in Settings.model_fields:
        return name
    known = [environment_name(field) for field in Settings.model_fields]
    nearest = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else "`k2 settings` lists every name"
    raise ConfigurationError(f"{key} ({source}) is not a setting of K2", advice=hint, name=key)


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else ""
        secret = "password" in name or "secret" in name or name.endswith("uri")
        shown = "***" if secret else repr(item["input"])
        parts.append(f"{environment_name(name)} was {shown}: {item['msg']}")
    return "; ".join(parts)
