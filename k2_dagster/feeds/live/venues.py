"""Every venue that `k2 feed` can receive from."""

from k2_dagster.feeds.live.binance import COINM, SPOT, USDM
from k2_dagster.feeds.live.coinbase import COINBASE
from k2_dagster.feeds.live.kraken import KRAKEN
from k2_dagster.feeds.live.kraken_futures import KRAKEN_FUTURES
from k2_dagster.feeds.live.venue import Venue

VENUES: dict[str, Venue] = {one.exchange: one for one in (SPOT, USDM, COINM, COINBASE, KRAKEN, KRAKEN_FUTURES)}
