"""Where the value of a setting comes from: the environment, the development stack's file, or neither.

The environment wins. But addresses do not mix: a message that goes to one Kafka and a table that is in the catalog of
another are two halves of nothing. So once the environment names one of `ADDRESSES`, what the stack's file says about
addresses (`STACK_FIELDS`) is left out as a whole.
"""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from k2_dagster.errors import ConfigurationError

PREFIX = "K2_"
HOME = "K2_HOME"
STACK_FILE = "stack.env"
ENVIRONMENT = "environment"
DEFAULT = "default"

ADDRESSES = ("kafka_bootstrap_servers", "schema_registry_url", "catalog_uri", "warehouse")
STACK_FIELDS = (
    *ADDRESSES,
    "kafka_replication_factor",
    "dagster_uri",
    "s3_endpoint",
    "s3_region",
    "s3_access_key_id",
    "s3_secret_access_key",
)


def environment_name(field_name: str) -> str:
    """The environment variable of a setting: `ingest_reader` -> `K2_INGEST_READER`."""
    return PREFIX + field_name.upper()


@dataclass(frozen=True)
class Gathered:
    """What was found. `unknown` names are of no setting (name -> source); `ignored` are the fields that the stack's
    file has and that do not count, because the environment has `foreign` addresses."""

    stack_file: Path
    values: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def why_ignored(self) -> str:
        """In words, for `k2 settings`; empty where nothing is ignored."""
        if not self.ignored:
            return ""
        return f"{self.stack_file} is not used for addresses: {_names(self.foreign)} from the environment"

    @property
    def mixture(self) -> str:
        """In words, for `k2 doctor`: some addresses are from the environment, and the stack's are left out for that."""
        missing = [name for name in ADDRESSES if name not in self.foreign]
        if not self.ignored or not missing:
            return ""
        names = ", ".join(map(environment_name, missing))
        return f"{self.why_ignored}, while {names} do not"


def gather(environment: Mapping[str, str], fields: Collection[str], home: Path) -> Gathered:
    """The texts of all settings that are given anywhere. `home` is the default of K2_HOME.

    Raises ConfigurationError when the stack's file cannot be read.
    """
    known = {environment_name(name): name for name in fields}
    given = {key: value for key, value in environment.items() if key.startswith(PREFIX)}
    path = Path(given.get(HOME) or home) / STACK_FILE
    from_file = read_stack_file(path)
    foreign = tuple(name for name in ADDRESSES if environment_name(name) in given)
    ignored = tuple(name for name in STACK_FIELDS if foreign and environment_name(name) in from_file)
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    unknown: dict[str, str] = {}
    for source, pairs in ((str(path), from_file), (ENVIRONMENT, given)):
        for key, value in pairs.items():
            name = known.get(key)
            if name is None:
                unknown[key] = source
            elif source == ENVIRONMENT or name not in ignored:
                values[name], sources[name] = value, source
    return Gathered(path, values, sources, unknown, ignored, foreign)


def read_stack_file(path: Path) -> dict[str, str]:
    """Its names and values; nothing where there is no such file. Raises ConfigurationError when it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error}", advice="it is written by `k2 dev up`: remove it and run that again"
        ) from error
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def refusal(unknown: Mapping[str, str], fields: Collection[str]) -> ConfigurationError:
    """The error for names that are of no setting, each with the nearest that is."""
    known = [environment_name(name) for name in fields]
    lines = [f"{key} ({source}) is not a setting of K2{_hint(key, known)}" for key, source in unknown.items()]
    return ConfigurationError("\n".join(lines), advice="`k2 settings` lists every name", names=list(unknown))


def _hint(key: str, known: Collection[str]) -> str:
    nearest = difflib.get_close_matches(key.upper(), known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _names(fields: Collection[str]) -> str:
    verb = "comes" if len(fields) == 1 else "come"
    return f"{', '.join(map(environment_name, fields))} {verb}"
