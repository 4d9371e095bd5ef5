"""Exchange profiles: what a sequence number means on each stream, calendar, thresholds, priorities, entitlement class.

They live in one validated TOML file (`K2_PROFILES`, else the one in the package). An error names file, key, value and
what would be valid.
"""

import difflib
import hashlib
import json
import tomllib
from datetime import date
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.calendars import ALWAYS_OPEN, CALENDARS, DAYS_OF
from k2_dagster.schemas.common import NAME_PATTERN
from k2_dagster.schemas.datasets import RULES_VERSION, WIRE_DATASETS
from k2_dagster.schemas.instruments import STREAM as INSTRUMENTS_STREAM
from k2_dagster.schemas.profile_parts import DEFAULT_JUMP_ABOVE, MAX_JUMP_ABOVE, URL_PATTERN, RecoveryProfile, Strict
from k2_dagster.schemas.recovery import RECOVERY_DATASET, RECOVERY_PARTITIONS
from k2_dagster.schemas.topics import CONTROL_DATASET, FEED_DATASETS, FEED_PARTITIONS, INSTRUMENTS_DATASET

PACKAGED_PROFILES = Path(__file__).parent / "exchanges.toml"
# A rules version is RULES_VERSION * this + the profile file's version.
PROFILE_VERSIONS = 100_000
# 64 bits tell two profiles apart.
DIGEST_CHARACTERS = 16
# More partitions than this on one topic is a typing mistake; Kafka handles a few thousand per broker.
MAX_PARTITIONS = 1_024

_NAME = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,39}$")]
# As messages must have it, or none of the stream's would ever be taken.
_STREAM_NAME = Annotated[str, Field(pattern=NAME_PATTERN)]
# A symbol, or the beginning of some with a `*` behind it; and an amount with its unit.
_SYMBOLS_PATTERN, _AMOUNT_PATTERN = r"^[!-)+-~]{0,63}\*?$", r"^\d+(\.\d+)? [A-Za-z]{1,12}$"
_SYMBOLS = Annotated[str, Field(pattern=_SYMBOLS_PATTERN, min_length=1)]
_AMOUNT = Annotated[str, Field(pattern=_AMOUNT_PATTERN)]
SizeUnit = Literal["base", "contracts", "shares"]
_SIZE_UNITS: dict[str, SizeUnit] = {"equities": "shares", "futures": "contracts", "options": "contracts"}
_CLOCK_TIME = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
_WHOLE = Field(strict=True)
# What a pattern means, in words.
_PATTERN_WORDS = {
    r"^[a-z0-9][a-z0-9_]{0,39}$": "lower-case letters, digits and _, at most 40, not beginning with _",
    NAME_PATTERN: "1 to 64 visible ASCII characters, without a space",
    r"^([01]\d|2[0-3]):[0-5]\d$": 'a time of day between quotes, "00:00" to "23:59"',
    _SYMBOLS_PATTERN: "a symbol, or the beginning of some and a *",
    _AMOUNT_PATTERN: 'an amount and its unit, as "10 USD"',
    URL_PATTERN: "an address, as https://host:port",
}


class Domain(Enum):
    """What "no gap" means for a stream's sequence numbers (DESIGN D3)."""

    DENSE = "dense"
    RANGE = "range"
    LINKED = "linked"
    CHANNEL = "channel"
    MONOTONE = "monotone"
    NONE = "none"

    @property
    def judged_by_ingest(self) -> bool:
        """Whether gaps and duplicates follow from the venue's numbers of one symbol alone."""
        return self in (Domain.DENSE, Domain.RANGE, Domain.LINKED)

    @property
    def covers_many(self) -> bool:
        """Whether one message may stand for many of its symbol's numbers: how many messages are missing is not known
        from their numbers then, only that it is at least one."""
        return self in (Domain.RANGE, Domain.LINKED)


class StreamProfile(Strict):
    """One stream of an exchange."""

    dataset: str
    domain: Domain

    @field_validator("dataset")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in WIRE_DATASETS:
            raise ValueError(f"valid datasets: {', '.join(WIRE_DATASETS)}")
        return value


class ExchangeProfile(Strict):
    """One exchange. `partitions` holds for each of its data topics but `control` and `instruments`, and is fixed while
    state exists."""

    title: str
    asset_class: Literal["equities", "futures", "options", "crypto", "fx"]
    calendar: str
    timezone: str
    days_of: str | None = None
    weekdays: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()
    holidays: tuple[date, ...] = ()
    opens: _CLOCK_TIME | None = None
    closes: _CLOCK_TIME | None = None
    entitlement_class: _NAME
    partitions: Annotated[int, _WHOLE] = Field(gt=0, le=MAX_PARTITIONS)
    streams: dict[_STREAM_NAME, StreamProfile] = Field(min_length=1)
    priorities: dict[str, Literal["high", "normal", "low"]] = Field(default_factory=dict)
    gap_page_at: Annotated[int, _WHOLE] = Field(10, gt=0)
    gap_halt_above: Annotated[int, _WHOLE] = Field(100, gt=0)
    gap_grace_messages: Annotated[int, _WHOLE] = Field(20, ge=0)
    gap_grace_seconds: Annotated[float, _WHOLE] = Field(5.0, ge=0, allow_inf_nan=False)
    on_critical_gap: Literal["halt", "mark_stale"]
    jump_above: Annotated[int, _WHOLE] = Field(DEFAULT_JUMP_ABOVE, gt=0, le=MAX_JUMP_ABOVE)
    closed_session_days: Annotated[int, _WHOLE] = Field(7, gt=0)
    size_unit: SizeUnit = "base"
    contract_value: dict[_SYMBOLS, _AMOUNT] = Field(default_factory=dict)
    clock_skew_seconds: Annotated[float, _WHOLE] = Field(5.0, ge=0, allow_inf_nan=False)
    receive_delay_seconds: Annotated[float, _WHOLE] = Field(60.0, ge=0, allow_inf_nan=False)
    recovery: RecoveryProfile | None = None

    @model_validator(mode="before")
    @classmethod
    def _unit(cls, values: Any) -> Any:
        """Without `size_unit` it follows from the asset class."""
        if not isinstance(values, dict):
            return values
        return {"size_unit": _SIZE_UNITS.get(str(values.get("asset_class")), "base"), **values}

    @field_validator("calendar")
    @classmethod
    def _known_calendar(cls, value: str) -> str:
        if value not in (ALWAYS_OPEN, *CALENDARS):
            near = difflib.get_close_matches(value.upper(), CALENDARS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"valid: {ALWAYS_OPEN}, or an ISO 10383 code: {', '.join(sorted(CALENDARS))}{hint}")
        return value

    @field_validator("days_of")
    @classmethod
    def _known_days(cls, value: str | None) -> str | None:
        if value is not None and value not in DAYS_OF:
            raise ValueError(f"valid: a calendar whose trading days are known: {', '.join(sorted(DAYS_OF))}")
        return value

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("valid: a name of the IANA time zone database, as America/New_York")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> "ExchangeProfile":
        if self.gap_halt_above <= self.gap_page_at:
            raise ValueError(f"gap_halt_above ({self.gap_halt_above}) must be above gap_page_at ({self.gap_page_at})")
        if self.jump_above <= self.gap_halt_above:
            raise ValueError(f"jump_above ({self.jump_above}) must be above gap_halt_above ({self.gap_halt_above})")
        if self.days_of is not None and self.weekdays:
            raise ValueError("days_of and weekdays both say the trading days: give one of them")
        if self.calendar == ALWAYS_OPEN and (self.days_of is not None or self.weekdays or self.holidays):
            raise ValueError(f"an exchange whose calendar is {ALWAYS_OPEN} has no other trading days")
        if (self.opens is None) != (self.closes is None):
            raise ValueError("opens and closes belong together: give both or neither")
        if self.opens is not None and self.closes is not None and self.closes <= self.opens:
            raise ValueError(
                f"closes ({self.closes}) must be after opens ({self.opens}): a session over midnight cannot be said; "
                "leave both away for round the clock"
            )
        if (self.size_unit == "contracts") != bool(self.contract_value):
            raise ValueError(
                f"size_unit is {self.size_unit!r} and contract_value is {self.contract_value}; give contract_value "
                'with size_unit "contracts", as { "*" = "10 USD" }, and only then'
            )
        return self

    def partitions_of(self, dataset: str) -> int:
        """Partitions of the dataset's topic."""
        if dataset == RECOVERY_DATASET:
            return RECOVERY_PARTITIONS
        return FEED_PARTITIONS if dataset in FEED_DATASETS else self.partitions

    @property
    def datasets(self) -> tuple[str, ...]:
        """Data sets that this exchange has topics for; `control` and `instruments` always."""
        named = {stream.dataset for stream in self.streams.values()}
        return tuple(name for name in WIRE_DATASETS if name in named or name in FEED_DATASETS)

    @property
    def topics(self) -> tuple[str, ...]:
        """What it has topics of: its datasets, and where something gives messages again, the requests for them."""
        return self.datasets if self.recovery is None else (*self.datasets, RECOVERY_DATASET)

    def verdict_digest(self, dataset: str) -> str:
        """Of what the verdicts on a dataset's messages depend on; thresholds and priorities are not among it."""
        said = {
            "streams": {name: one.domain.value for name, one in self.streams.items() if one.dataset == dataset},
            "grace": [self.gap_grace_messages, self.gap_grace_seconds],
            "closed_session_days": self.closed_session_days,
            "jump_above": self.jump_above,
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:DIGEST_CHARACTERS]

    def contract_value_of(self, symbol: str) -> str | None:
        """What one contract is worth, by the longest key that the symbol begins with; None where sizes are no
        contracts, or the profile does not say."""
        keys = [
            key
            for key in self.contract_value
            if key == symbol or (key.endswith("*") and symbol.startswith(key.removesuffix("*")))
        ]
        return self.contract_value[max(keys, key=lambda key: (key == symbol, len(key)))] if keys else None

    def stream(self, dataset: str, name: str) -> StreamProfile | None:
        """The stream's profile, or None when it is not declared for this dataset."""
        if dataset == CONTROL_DATASET:
            return StreamProfile(dataset=CONTROL_DATASET, domain=Domain.NONE)
        found = self.streams.get(name)
        if dataset == INSTRUMENTS_DATASET and name == INSTRUMENTS_STREAM and found is None:
            return StreamProfile(dataset=INSTRUMENTS_DATASET, domain=Domain.NONE)
        return found if found is not None and found.dataset == dataset else None


class Profiles(Strict):
    """The whole file."""

    version: Annotated[int, _WHOLE] = Field(gt=0, lt=PROFILE_VERSIONS)
    exchanges: dict[_NAME, ExchangeProfile] = Field(min_length=1)

    @cached_property
    def rules_version(self) -> int:
        """Version of everything that a verdict depends on: the code's rules and this file."""
        return RULES_VERSION * PROFILE_VERSIONS + self.version

    def exchange(self, name: str) -> ExchangeProfile:
        """Raises ConfigurationError that lists the exchanges there are."""
        if name not in self.exchanges:
            raise ConfigurationError(
                f"exchange was {name!r}", advice=f"valid: {', '.join(sorted(self.exchanges))}", exchange=name
            )
        return self.exchanges[name]


def load_profiles(path: Path | None = None) -> Profiles:
    """Read and check the profiles. Raises ConfigurationError naming file, key, value and what would be valid."""
    path = path or PACKAGED_PROFILES
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error}", advice="set K2_PROFILES to a readable TOML file (UTF-8)"
        ) from error
    try:
        return Profiles.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not TOML: {error}", advice="mend the line that the message names") from error
    except ValidationError as error:
        raise ConfigurationError(_explain(path, error), advice="docs/exchanges.md describes every key") from error


def _explain(path: Path, error: ValidationError) -> str:
    return "\n".join(f"{path}: {_told(item)}" for item in error.errors())


def _told(item: ErrorDetails) -> str:
    where, kind = _where(item["loc"]), item["type"]
    if kind == "missing":
        return f"{where} is missing; keys there: {', '.join(_keys(item['loc']))}"
    if kind == "extra_forbidden":
        keys = _keys(item["loc"])
        near = difflib.get_close_matches(str(item["loc"][-1]), keys, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{where} is no key; {hint}keys there: {', '.join(keys)}"
    told = item["msg"].removeprefix("Value error, ")
    if kind == "string_pattern_mismatch":
        told = f"valid: {_PATTERN_WORDS[item['ctx']['pattern']]}"
    return f"{where} was {_short(item['input'])}: {told}"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys that would be valid at the place of the last step: of the file, an exchange, its recovery, or a
    stream."""
    models: dict[int, type[BaseModel]] = {1: Profiles, 3: ExchangeProfile, 4: RecoveryProfile, 5: StreamProfile}
    return list(models[len(location)].model_fields)


def _where(location: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in location)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
