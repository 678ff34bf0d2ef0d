"""The topic ``bars.<feature set>.v1``: one JSON object a bar, under the key of its symbol.

Bars are rare beside ticks, so they are made for people. Of one `number` of a symbol and kind the highest `revision`
counts; a name (`id`) that stands twice, after a crash, has the same value twice. A provisional bar has no name.
"""

import msgspec

from data_io.topics.admin import TopicSpec, log_topic
from data_io.topics.record_batch import Record
from ml_core.errors import SchemaMismatchError
from ml_core.types import BarBatch, BarStatus

_STATUS = {status.value: status.name.lower() for status in BarStatus}
_ENCODER = msgspec.json.Encoder()


class Bar(msgspec.Struct, frozen=True):
    """One bar; see ``BarBatch`` for what its numbers mean. Times are ns since the epoch, UTC."""

    id: str | None  # topic id and partition of its ticks, symbol, kind, number, revision
    symbol: str
    kind: str
    number: int
    start_ns: int
    end_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    value: float
    vwap: float | None
    buy_volume: float
    ticks: int
    revision: int
    status: str
    complete: bool
    offset: int | None  # of the tick that made it be written, and its index in the record
    index: int | None


def name(feature_set: str) -> str:
    """Return the topic of the bars of ``feature_set``.

    >>> name("demo")
    'bars.demo.v1'
    """
    return f"bars.{feature_set}.v1"


def topic_spec(feature_set: str, partitions: int) -> TopicSpec:
    """Return the topic of the bars of ``feature_set``: as many partitions as the ticks have."""
    return log_topic(name(feature_set), partitions)


def encode(bars: BarBatch, *, topic_id: str, partition: int) -> list[Record]:
    """Return key, value and headers of a record for each bar, in order.

    Args:
        bars: Of one partition of ticks.
        topic_id: Of the ticks.
        partition: Of the ticks.
    """
    column = {name: getattr(bars, f"{name}_B").tolist() for name in Bar.__struct_fields__ if name != "id"}
    column["symbol"] = [bars.symbols[symbol] for symbol in column["symbol"]]
    column["kind"] = [bars.kinds[kind] for kind in column["kind"]]
    column["status"] = [_STATUS[status] for status in column["status"]]
    for name in ("offset", "index"):
        column[name] = [None if place < 0 else place for place in column[name]]
    names = zip(column["symbol"], column["kind"], column["number"], column["revision"], strict=True)
    ids = [
        f"{topic_id}-{partition}-{symbol}-{kind}-{number}-{revision}" if revision >= 0 else None
        for symbol, kind, number, revision in names
    ]
    made = (Bar(*values) for values in zip(ids, *column.values(), strict=True))
    return [(bar.symbol.encode(), _ENCODER.encode(bar), []) for bar in made]  # NaN becomes null


def decode(value: bytes | None) -> Bar:
    """Return the bar of one record.

    Raises:
        SchemaMismatchError: The value is no record of this topic. A retry will not help.
    """
    try:
        return msgspec.json.decode(value or b"", type=Bar)
    except msgspec.DecodeError as error:
        raise SchemaMismatchError(f"the record holds no bar: {error}") from error
