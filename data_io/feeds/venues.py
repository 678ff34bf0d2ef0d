"""The venues by name."""

from collections.abc import Callable

from data_io.feeds.binance import Binance
from data_io.feeds.coinbase import Coinbase
from data_io.feeds.port import Venue

VENUES: dict[str, Callable[[], Venue]] = {"binance": Binance, "coinbase": Coinbase}
