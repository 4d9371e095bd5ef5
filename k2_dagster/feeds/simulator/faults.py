"""What can be made to go wrong, where and when, and how that is written on a command line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.profiles import ExchangeProfile
from k2_dagster.schemas.topics import FEED_DATASETS

# Random faults touch between one and this many messages, and the busiest symbols, where they complete soon.
RANDOM_FAULT_MESSAGES = 8
RANDOM_FAULT_SYMBOLS = 10


class FaultType(Enum):
    """The value is its name on the command line; docs/feeds.md says what each does and what must be reported."""

    DROP = "drop"
    LOSE = "lose"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    LATE = "late"
    CORRUPT = "corrupt"
    OUT_OF_RANGE = "out_of_range"
    JUMP = "jump"
    SESSION_RESET = "session_reset"
    SCHEMA_CHANGE = "schema_change"

    @property
    def of_stream(self) -> bool:
        """Whether it concerns a whole stream from some message on, rather than some messages of a symbol or channel."""
        return self in (FaultType.SESSION_RESET, FaultType.SCHEMA_CHANGE)


# A schema change is asked for, never drawn: each registers one more version for good.
RANDOM_TYPES = tuple(one for one in FaultType if one is not FaultType.SCHEMA_CHANGE)


@dataclass(frozen=True)
class Fault:
    """`count` consecutive messages of one symbol (in the channel domain: of its channel), from the first one at or
    after message number `at_message` or `at_seconds` into the run.

    Without a dataset: ticks, or the first that the exchange has. Without a symbol: the busiest.
    """

    type: FaultType
    count: int = 1
    at_message: int | None = None
    at_seconds: float | None = None
    dataset: str | None = None
    symbol: str | None = None

    def __str__(self) -> str:
        at = f"{self.at_message}m" if self.at_message is not None else f"{self.at_seconds or 0:g}s"
        place = "".join(f"/{part}" for part in (self.dataset, self.symbol) if part)
        count = "" if self.type.of_stream else f":{self.count}"
        return f"{self.type.value}{count}@{at}{place}"


@dataclass(frozen=True)
class FaultPlan:
    """Faults asked for, and a rate of random ones (mean faults per message, of `random_types`, drawn from `seed`)."""

    faults: tuple[Fault, ...] = ()
    random_rate: float = 0.0
    random_types: tuple[FaultType, ...] = RANDOM_TYPES
    seed: int = 0

    def random_faults(self, profile: ExchangeProfile, symbols: list[str]) -> Iterator[Fault]:
        """The random faults in the order of their message numbers, without end."""
        if self.random_rate <= 0:
            return
        rng = np.random.default_rng([self.seed, len(self.random_types)])
        datasets = data_datasets(profile)
        at = 0.0
        while True:
            at += rng.exponential(1 / self.random_rate)
            kind = self.random_types[rng.integers(len(self.random_types))]
            most = min(RANDOM_FAULT_MESSAGES, profile.gap_grace_messages)
            least = 2 if kind is FaultType.REORDER else 1
            yield Fault(
                kind,
                1 if kind.of_stream else int(rng.integers(least, max(most, least), endpoint=True)),
                at_message=int(at),
                dataset=datasets[rng.integers(len(datasets))],
                symbol=symbols[rng.integers(min(RANDOM_FAULT_SYMBOLS, len(symbols)))],
            )


def data_datasets(profile: ExchangeProfile) -> tuple[str, ...]:
    """The datasets of an exchange that carry market data."""
    return tuple(name for name in profile.datasets if name not in FEED_DATASETS)


_FORM = re.compile(
    r"(?P<type>[a-z_]+)(:(?P<count>\d+))?@(?P<at>\d+(\.\d+)?)(?P<unit>[sm])(/(?P<dataset>\w+))?(/(?P<symbol>\S+))?"
)
_ADVICE = (
    "valid: TYPE[:COUNT]@SECONDSs or TYPE[:COUNT]@MESSAGEm, then optionally /DATASET and /SYMBOL; "
    f"TYPE one of {', '.join(one.value for one in FaultType)}; for example drop:7@10s or late:3@5000m/book/AAPL"
)


def parse_fault(text: str) -> Fault:
    """`drop:7@10s/ticks/AAPL` -> Fault. Raises ConfigurationError that shows the valid form."""
    found = _FORM.fullmatch(text)
    if found is None or found["type"] not in {one.value for one in FaultType}:
        raise ConfigurationError(f"fault was {text!r}", advice=_ADVICE, fault=text)
    fault_type = FaultType(found["type"])
    at = float(found["at"])
    if fault_type.of_stream and found["count"]:
        raise ConfigurationError(
            f"fault was {text!r}: {fault_type.value} concerns a whole stream, and has no count",
            advice=f"valid: {fault_type.value}@{found['at']}{found['unit']}, once for each that is wanted",
            fault=text,
        )
    least = 2 if fault_type is FaultType.REORDER else 1
    return Fault(
        fault_type,
        int(found["count"]) if found["count"] else least,
        at_message=int(at) if found["unit"] == "m" else None,
        at_seconds=at if found["unit"] == "s" else None,
        dataset=found["dataset"],
        symbol=found["symbol"],
    )


def checked(fault: Fault, profile: ExchangeProfile, symbols: list[str]) -> Fault:
    """The fault with dataset and (unless it concerns a stream) symbol filled in.

    Raises ConfigurationError when it cannot happen here.
    """
    datasets = data_datasets(profile)
    dataset = fault.dataset or ("ticks" if "ticks" in datasets else datasets[0])
    symbol = symbols[0] if fault.symbol is None or fault.type.of_stream else fault.symbol
    least = 2 if fault.type is FaultType.REORDER else 1
    most = profile.gap_grace_messages if fault.type is FaultType.REORDER else None
    for name, value, valid in (("dataset", dataset, datasets), ("symbol", symbol, symbols)):
        if value not in valid:
            raise ConfigurationError(
                f"fault {fault}: {name} was {value!r}", advice=f"valid: {', '.join(valid[:20])}", fault=str(fault)
            )
    if fault.count < least or (most is not None and fault.count > most):
        raise ConfigurationError(
            f"fault {fault}: count was {fault.count}",
            advice=f"valid: {least} to {most if most is not None else 'any'}"
            + (" (the exchange's gap_grace_messages; more would be a gap)" if most is not None else ""),
            fault=str(fault),
        )
    return replace(fault, dataset=dataset, symbol=None if fault.type.of_stream else symbol)
