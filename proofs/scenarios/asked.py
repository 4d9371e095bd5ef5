"""What a seed asks for: an exchange that speaks three of the six domains, its profile, and faults of every type."""

import random
from dataclasses import dataclass

from k2_dagster.feeds.simulator.faults import Fault, FaultPlan, FaultType
from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.schemas.profiles import Domain, ExchangeProfile, Profiles

STREAMS = {"ticks": "trade", "quotes": "quote", "book": "book"}
SYMBOLS = 4
# The busiest of them: faults of the others would often wait for messages in vain.
FAULTY_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
START_MICROS = 1_780_000_000_000_000
# Of all three datasets together. Ticks, the rarest, have room for two faults of each type then.
MESSAGES = 4_000
FAST_MESSAGES_PER_SECOND = 1_000.0
# A slow feed lasts so long that its first sessions are forgotten before it ends.
SLOW_DAYS, SLOW_SHARE = 8, 0.25
SECONDS_PER_DAY = 86_400
# Share of a run in which faults may begin: what comes after them shows them.
FIRST_SHARE, LAST_SHARE = 0.02, 0.85


@dataclass(frozen=True)
class Scenario:
    """One exchange of a seed. `first_offset`: where its partitions begin; from 0 the publisher's numbers must begin
    at 1."""

    exchange: str
    profiles: Profiles
    parameters: FeedParameters
    first_offset: int
    seed: int

    @property
    def profile(self) -> ExchangeProfile:
        """The exchange's profile."""
        return self.profiles.exchange(self.exchange)

    def domain(self, dataset: str) -> Domain:
        """What the dataset's stream speaks."""
        return self.profile.streams[STREAMS[dataset]].domain if dataset in STREAMS else Domain.NONE


def scenario(seed: int) -> Scenario:
    """One exchange with three streams. Two seeds in a row speak all six domains, dealt out anew by each pair."""
    chance = random.Random(seed)
    domains = random.Random(seed // 2).sample(list(Domain), len(Domain))
    dealt = domains[:3] if seed % 2 else domains[3:]
    return _scenario(seed, f"s{seed}", dict(zip(STREAMS, dealt, strict=True)), chance)


def _scenario(seed: int, exchange: str, domains: dict[str, Domain], chance: random.Random) -> Scenario:
    slow = chance.random() < SLOW_SHARE
    rate = MESSAGES / (SLOW_DAYS * SECONDS_PER_DAY) if slow else FAST_MESSAGES_PER_SECOND
    page_at = chance.randint(3, 6)
    profile = ExchangeProfile.model_validate(
        {
            "title": "Of a scenario",
            "asset_class": "crypto",
            "calendar": "24/7",
            "timezone": "UTC",
            "entitlement_class": "simulated",
            "partitions": chance.randint(1, 3),
            "on_critical_gap": chance.choice(("halt", "mark_stale")),
            "gap_grace_messages": chance.randint(2, 8),
            # so many messages of all streams happen within it: few, and time ends the grace; many, and a count does
            "gap_grace_seconds": chance.choice((20.0, 200.0, 2_000.0)) / rate,
            "gap_page_at": page_at,
            "gap_halt_above": page_at + chance.randint(2, 5),
            "closed_session_days": 1,
            "streams": {STREAMS[name]: {"dataset": name, "domain": one.value} for name, one in domains.items()},
        }
    )
    faults = [one for dataset in STREAMS for one in _faults(dataset, profile, chance)]
    parameters = FeedParameters(
        exchange, SYMBOLS, rate, chance.randrange(2**31), START_MICROS, MESSAGES / rate,
        plan=FaultPlan(tuple(faults), seed=seed),
    )  # fmt: skip
    first_offset = chance.choice((0, 0, chance.randint(1, 1_000)))
    return Scenario(exchange, Profiles(version=1, exchanges={exchange: profile}), parameters, first_offset, seed)


def _faults(dataset: str, profile: ExchangeProfile, chance: random.Random) -> list[Fault]:
    """Every type small and large, in any order; apart from each other, so that what each leaves can be told."""
    kinds = [one for one in FaultType for _ in range(1 if one is FaultType.SCHEMA_CHANGE else 2)]
    chance.shuffle(kinds)
    seen: set[FaultType] = set()
    faults = []
    for place, kind in enumerate(kinds):
        share = FIRST_SHARE + (LAST_SHARE - FIRST_SHARE) * (place + chance.uniform(0, 0.5)) / len(kinds)
        count = _count(kind, profile, chance, large=kind in seen)
        symbol = chance.choice(FAULTY_SYMBOLS)
        faults.append(Fault(kind, count, at_message=int(share * MESSAGES), dataset=dataset, symbol=symbol))
        seen.add(kind)
    return faults


def _count(kind: FaultType, profile: ExchangeProfile, chance: random.Random, *, large: bool) -> int:
    if kind.of_stream:
        return 1
    if kind is FaultType.REORDER:
        return chance.randint(2, profile.gap_grace_messages)
    if large:
        return chance.randint(profile.gap_page_at, profile.gap_halt_above + 3)
    return chance.randint(1, profile.gap_page_at)
