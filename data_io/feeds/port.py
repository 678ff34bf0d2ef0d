"""The port of exchanges: what one sends and answers, in words that all of them share."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Trade(NamedTuple):
    """A trade; ids of a symbol are consecutive."""

    symbol: str
    id: int
    price: float  # quote currency
    size: float  # base units
    side: int  # +1 the buyer took, -1 the seller took
    exchange_ns: int  # the venue's time, -1 unknown


class Quote(NamedTuple):
    """The best bid and ask."""

    symbol: str
    bid: float
    ask: float
    bid_size: float
    ask_size: float
    seq: int  # the venue's number of the change, -1 unknown
    exchange_ns: int  # -1 unknown


class Head(NamedTuple):
    """The newest trade of a symbol, as the venue says: a trade up to it that has not come is missing."""

    symbol: str
    id: int


class Other(NamedTuple):
    """A sound message that is no tick."""

    name: str


Message = Trade | Quote | Head | Other


class RefusedError(Exception):
    """The venue refuses what was asked for. A retry will not help."""


class ConnectionUselessError(Exception):
    """The venue reports an error that is none of the subscription: another connection may do better."""


class Request(NamedTuple):
    """A question to the REST side."""

    path: str
    parameters: dict[str, str]


class Venue(Protocol):
    """One exchange; adapters prove themselves in tests/unit/data_io/feeds/test_venues.py."""

    name: str
    websocket: str
    """URL of the public stream, without path."""
    rest: str
    """URL of the public REST side, without path."""
    api_key_header: str | None
    """The header of questions in which the venue looks for a key; None: it wants none."""
    request_interval_s: float
    """The time between two questions that the venue's limits allow."""
    silence_s: float
    """A connection without a message for so long is dead."""

    def stream_path(self, symbols: Sequence[str]) -> str:
        """Return what follows ``websocket`` to get trades and best quotes of ``symbols``."""
        ...

    def hello(self, symbols: Sequence[str]) -> bytes | None:
        """Return what has to be sent at once on a new connection; None: nothing."""
        ...

    def read(self, payload: bytes) -> Message:
        """Return what one message of the stream says.

        Raises:
            UnusableMessageError: It is not in the format of the venue.
            RefusedError: The venue will not send what was subscribed to.
            ConnectionUselessError: It reports another error.
        """
        ...

    def request(self, symbol: str, first: int, last: int | None) -> Request:
        """Return the question for trades of ``[first, last]``, or from ``first`` to the newest; it may give a part."""
        ...

    def read_page(self, symbol: str, body: bytes) -> list[Trade]:
        """Return the trades of an answer, ids ascending.

        Raises:
            UnusableMessageError: It is not in the format of the venue.
        """
        ...

    def remaining(self, first: int, last: int | None, page: Sequence[Trade]) -> tuple[int, int | None] | None:
        """Return what is still to be asked for of ``[first, last]`` after the answer ``page``; None: nothing."""
        ...
