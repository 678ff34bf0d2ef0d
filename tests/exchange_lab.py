"""An exchange for tests: Binance's REST interface on loopback, as far as ccxt asks for it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HOUR_MS = 3_600_000
MARKET = {
    "status": "TRADING",
    "isSpotTradingAllowed": True,
    "permissions": ["SPOT"],
    "filters": [],
    "baseAssetPrecision": 8,
    "quoteAssetPrecision": 8,
    "quotePrecision": 8,
}


@dataclass
class Exchange:
    """What it knows, and what it was asked."""

    url: str = ""
    now_ms: int = 0
    trades: dict[str, list[tuple[int, int, str, str, bool]]] = field(default_factory=dict)
    """Symbol -> aggregate id, ms, price, size, whether the buyer is the maker; ascending."""
    candles: dict[str, list[list[Any]]] = field(default_factory=dict)
    """Symbol -> begin in ms, open, high, low, close, volume; ascending."""
    refusals: list[int] = field(default_factory=list)  # status codes for the next requests
    page: int = 1000  # at most so many a page, whatever is asked for
    asked: list[str] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        """Settings that make ccxt's Binance talk to this exchange."""
        return {
            "urls": {"api": {"public": self.url + "/api/v3"}},
            "options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False},
            "enableRateLimit": False,
        }

    def answer(self, path: str, query: dict[str, str]) -> Any:
        symbol, start_ms = query.get("symbol", ""), int(query.get("startTime", 0))
        n = min(int(query.get("limit", 500)), self.page)
        match path.rpartition("/")[2]:
            case "exchangeInfo":
                names = sorted({*self.trades, *self.candles})
                return {"symbols": [{"symbol": n, "baseAsset": n[:3], "quoteAsset": n[3:], **MARKET} for n in names]}
            case "time":
                return {"serverTime": self.now_ms}
            case "aggTrades":
                assert int(query["endTime"]) - start_ms <= HOUR_MS, "Binance refuses longer spans"
                found = [t for t in self.trades[symbol] if start_ms <= t[1] <= int(query["endTime"])]
                return [{"a": i, "T": ms, "p": p, "q": q, "m": m, "f": i, "l": i} for i, ms, p, q, m in found[:n]]
            case "klines":
                found_candles = [c for c in self.candles[symbol] if c[0] >= start_ms]
                return [[*map(str, c), 0, "0", 0, "0", "0", "0"] for c in found_candles[:n]]
        raise AssertionError(path)


@contextmanager
def exchange() -> Iterator[Exchange]:
    """Give an exchange that answers until the end."""
    market = Exchange()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            market.asked.append(parts.path.rpartition("/")[2])
            status = market.refusals.pop(0) if market.refusals else 200
            query = dict(parse_qsl(parts.query))
            refusal = {"code": -1121 if status == 400 else -1003, "msg": "no"}
            body = json.dumps(market.answer(parts.path, query) if status == 200 else refusal).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        market.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="exchange")
        thread.start()
        try:
            yield market
        finally:
            server.shutdown()
            thread.join()
