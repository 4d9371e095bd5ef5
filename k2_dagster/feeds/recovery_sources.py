"""The source of past messages that an exchange's profile names; above the rooms that have one each."""

import threading
from collections.abc import Callable

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.recovery.binance import COINM_MARKET, SPOT_MARKET, USDM_MARKET, BinanceTrades, Market
from k2_dagster.feeds.recovery.coinbase import CoinbaseTrades
from k2_dagster.feeds.recovery.source import RecoverySource
from k2_dagster.feeds.retransmission.source import RetransmissionSource
from k2_dagster.schemas.profile_parts import RETRANSMISSION, RecoveryProfile
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import Settings

Opener = Callable[[Settings, str, RecoveryProfile, threading.Event], RecoverySource]


def _binance(market: Market) -> Opener:
    return lambda settings, exchange, said, stop: BinanceTrades(settings, exchange, market, stop, said.url)


def _retransmission(_: Settings, exchange: str, said: RecoveryProfile, __: threading.Event) -> RecoverySource:
    assert said.address is not None, "the profile was checked"
    assert said.channel is not None
    return RetransmissionSource(exchange, said.address, said.channel)


OPENERS: dict[str, Opener] = {
    "binance_rest": _binance(SPOT_MARKET),
    "binance_usdm_rest": _binance(USDM_MARKET),
    "binance_coinm_rest": _binance(COINM_MARKET),
    "coinbase_rest": lambda _, exchange, said, stop: CoinbaseTrades(exchange, stop, said.url),
    RETRANSMISSION: _retransmission,
}


def recovery_of(profiles: Profiles, exchange: str) -> RecoveryProfile:
    """What the profile says. Raises ConfigurationError when it says nothing."""
    found = profiles.exchange(exchange).recovery
    if found is None:
        able = sorted(name for name, one in profiles.exchanges.items() if one.recovery is not None)
        raise ConfigurationError(
            f"the profile of {exchange} names nothing that gives past messages again",
            advice=f"[exchanges.{exchange}.recovery] with a `source` does; those that have one: {', '.join(able)}",
            exchange=exchange,
        )
    return found


def open_source(settings: Settings, profiles: Profiles, exchange: str, stop: threading.Event) -> RecoverySource:
    """The exchange's source; it connects at its first use. Raises ConfigurationError."""
    found = recovery_of(profiles, exchange)
    return OPENERS[found.source](settings, exchange, found, stop)
