"""The topic ``market.gaps.v1``: what a feed knows to be missing, one JSON object a gap, keyed by symbol.

Nothing on the topic of ticks tells of it: a live row that reaches across a gap is made of the ticks there are. Training
jobs read it and leave such rows and labels out.
"""

from typing import Literal

import msgspec

from data_io.topics.admin import TopicSpec, log_topic

NAME = "market.gaps.v1"

Reason = Literal[
    "started",  # the feed begins here and does not know what an earlier one has published
    "disconnected",  # best quotes of that time cannot be asked for afterwards
    "not_given",  # the REST side has answered, without these trades
    "refused",  # it will not answer
    "unavailable",  # it does not answer
    "timeout",  # it took too long
    "too_large",  # more trades than a feed fills in
    "overflow",  # more ticks came meanwhile than are held
    "stopped",  # the feed ended before it had an answer
]


class Gap(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ticks of one symbol that are missing between two ticks of the topic."""

    symbol: str
    kind: Literal["trade", "quote", "any"]
    from_ns: int  # the tick before, on the clock of the feed
    to_ns: int  # the tick behind
    reason: Reason
    first_seq: int = -1  # trades: ids that are missing, both included
    last_seq: int = -1

    @property
    def trades(self) -> int:
        """Return how many trades are known to be missing."""
        return self.last_seq - self.first_seq + 1 if self.kind == "trade" else 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Gap).decode


def topic_spec(partitions: int) -> TopicSpec:
    """Return the topic: kept for ever, as archived ticks outlive their topic."""
    return log_topic(NAME, partitions, retention_ms=-1)


def encode(gap: Gap) -> tuple[bytes, bytes]:
    """Return key and value of the record."""
    return gap.symbol.encode(), _encode(gap)


def decode(value: bytes) -> Gap:
    """Return the gap of a record.

    Raises:
        msgspec.DecodeError: It is none.
    """
    return _decode(value)
