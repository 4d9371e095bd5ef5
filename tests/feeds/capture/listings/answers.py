"""Answers of the venues, written by hand in the forms that they document (nothing here was recorded)."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

SERVER_MILLISECONDS = 1_780_000_000_123
BINANCE_FILTERS = [
    {"filterType": "PRICE_FILTER", "minPrice": "0.01000000", "maxPrice": "1000000.00000000", "tickSize": "0.01000000"},
    {"filterType": "LOT_SIZE", "minQty": "0.00001000", "maxQty": "9000.00000000", "stepSize": "0.00001000"},
]


def spot_pair(base: str, quote: str, **changes: Any) -> dict[str, Any]:
    """An item of Binance spot's `symbols`."""
    return {
        "symbol": base + quote,
        "status": "TRADING",
        "baseAsset": base,
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT"],
        "filters": BINANCE_FILTERS,
        **changes,
    }


def binance(*symbols: dict[str, Any]) -> dict[str, Any]:
    """An answer of Binance."""
    return {"timezone": "UTC", "serverTime": SERVER_MILLISECONDS, "rateLimits": [], "symbols": list(symbols)}


SPOT = binance(spot_pair("BTC", "USDT"), spot_pair("ETH", "BTC", status="BREAK"))
USDM = binance(
    {
        "symbol": "BTCUSDT", "pair": "BTCUSDT", "contractType": "PERPETUAL", "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000, "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT",
        "marginAsset": "USDT", "pricePrecision": 2, "quantityPrecision": 3, "underlyingType": "COIN",
        "filters": [
            {"filterType": "PRICE_FILTER", "tickSize": "0.10"}, {"filterType": "LOT_SIZE", "stepSize": "0.001"},
        ],
    },
    {
        "symbol": "BTCUSDT_261225", "pair": "BTCUSDT", "contractType": "NEXT_QUARTER", "deliveryDate": 1798185600000,
        "onboardDate": 1780300800000, "status": "PENDING_TRADING", "baseAsset": "BTC", "quoteAsset": "USDT",
        "marginAsset": "USDT", "underlyingType": "COIN", "filters": [],
    },
    {
        "symbol": "TSLAUSDT", "pair": "TSLAUSDT", "contractType": "TRADIFI_PERPETUAL", "deliveryDate": 4133404800000,
        "onboardDate": 1769398400000, "status": "SETTLING", "baseAsset": "TSLA", "quoteAsset": "USDT",
        "marginAsset": "USDT", "underlyingType": "EQUITY", "filters": [],
    },
)  # fmt: skip
COINM = binance(
    {
        "symbol": "BTCUSD_PERP", "pair": "BTCUSD", "contractType": "PERPETUAL", "deliveryDate": 4133404800000,
        "onboardDate": 1597042800000, "contractStatus": "TRADING", "contractSize": 100, "marginAsset": "BTC",
        "baseAsset": "BTC", "quoteAsset": "USD", "underlyingType": "COIN",
        "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.1"}, {"filterType": "LOT_SIZE", "stepSize": "1"}],
    },
)  # fmt: skip
COINBASE = [
    {
        "id": "BTC-USD", "base_currency": "BTC", "quote_currency": "USD", "quote_increment": "0.01",
        "base_increment": "0.00000001", "display_name": "BTC-USD", "min_market_funds": "1", "margin_enabled": False,
        "post_only": False, "limit_only": False, "cancel_only": False, "status": "online", "status_message": "",
        "trading_disabled": False, "fx_stablecoin": False, "auction_mode": False,
    },
    {
        "id": "OLD-USD", "base_currency": "OLD", "quote_currency": "USD", "quote_increment": "0.0001",
        "base_increment": "0.1", "cancel_only": False, "status": "online", "trading_disabled": True,
    },
    {
        "id": "GONE-USD", "base_currency": "GONE", "quote_currency": "USD", "quote_increment": "0.01",
        "base_increment": "1", "status": "delisted", "trading_disabled": True,
    },
]  # fmt: skip
KRAKEN = {
    "error": [],
    "result": {
        "XXBTZUSD": {
            "altname": "XBTUSD", "wsname": "XBT/USD", "aclass_base": "currency", "base": "XXBT",
            "aclass_quote": "currency", "quote": "ZUSD", "cost_decimals": 5, "pair_decimals": 1, "lot_decimals": 8,
            "lot_multiplier": 1, "ordermin": "0.0001", "costmin": "0.5", "tick_size": "0.1", "status": "online",
        },
        "ZEURZUSD": {
            "altname": "EURUSD", "wsname": "EUR/USD", "aclass_base": "currency", "base": "ZEUR", "quote": "ZUSD",
            "pair_decimals": 5, "lot_decimals": 8, "status": "cancel_only",
        },
        "AAPLxUSD": {
            "altname": "AAPLxUSD", "wsname": "AAPLx/USD", "aclass_base": "tokenized_asset", "base": "AAPLx",
            "quote": "ZUSD", "pair_decimals": 2, "lot_decimals": 8, "tick_size": "0.01", "status": "online",
        },
        "XBTUSD.d": {
            "altname": "XBTUSD.d", "aclass_base": "currency", "base": "XXBT", "quote": "ZUSD", "pair_decimals": 1,
            "lot_decimals": 8,
        },
    },
}  # fmt: skip
KRAKEN_FUTURES = {
    "result": "success",
    "serverTime": "2026-05-28T20:26:40.123Z",
    "instruments": [
        {
            "symbol": "PI_XBTUSD", "pair": "XBT:USD", "base": "XBT", "quote": "USD", "type": "futures_inverse",
            "underlying": "rr_xbtusd", "tickSize": 0.5, "contractSize": 1, "tradeable": True,
            "openingDate": "2018-08-31T00:00:00.000Z", "contractValueTradePrecision": 0, "tradfi": False,
        },
        {
            "symbol": "PF_PEPEUSD", "pair": "PEPE:USD", "base": "PEPE", "quote": "USD", "type": "flexible_futures",
            "tickSize": 1e-08, "contractSize": 1, "tradeable": False, "openingDate": "2023-05-05T00:00:00.000Z",
            "contractValueTradePrecision": -3, "tradfi": False,
        },
        {
            "symbol": "FF_XBTUSD_261225", "pair": "XBT:USD", "base": "XBT", "quote": "USD", "type": "flexible_futures",
            "lastTradingTime": "2026-12-25T16:00:00.000Z", "tickSize": 1, "contractSize": 1, "tradeable": True,
            "openingDate": "2026-06-26T16:00:00.000Z", "contractValueTradePrecision": 4,
        },
        {
            "symbol": "PF_GOLDUSD", "base": "GOLD", "quote": "USD", "type": "flexible_futures", "tickSize": 1e-09,
            "contractSize": 1, "tradeable": True, "tradfi": True, "contractValueTradePrecision": 4,
        },
    ],
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "binance": SPOT,
    "binance_usdm": USDM,
    "binance_coinm": COINM,
    "coinbase": COINBASE,
    "kraken": KRAKEN,
    "kraken_futures": KRAKEN_FUTURES,
}


def body(answer: Any) -> bytes:
    """As it goes over the line."""
    return json.dumps(answer).encode()


@contextmanager
def local_listing(answers: Callable[[int], tuple[int, bytes]]) -> Iterator[str]:
    """A REST server: `answers(place)` gives status and body of the place-th request, from 0. A body that begins with
    b"SHORT " is announced longer than it is."""
    asked = [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            place, asked[0] = asked[0], asked[0] + 1
            status, content = answers(place)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) + 100 * content.startswith(b"SHORT ")))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = content.startswith(b"SHORT ")

        def log_message(self, *args: object) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/listing"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
