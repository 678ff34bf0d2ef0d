"""Reads a tick from the JSON of one record: a typed decoder for valid ticks, a slower one that tells what is wrong."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import Meta, Struct

from data_io.topics.tick_rules import (
    FIELDS,
    MAX_INT64,
    NOT_APPLICABLE,
    QUOTE,
    TRADE,
    BadTickError,
    Tick,
    check,
    check_not_crossed,
)
from ml_core.types import MAX_TS_NS

# A record of one tick has about 100 bytes, with a venue's extras a few thousand.
MAX_VALUE_BYTES = 65_536
MAX_DEPTH = 128
# Every level costs two bytes, so only longer values can nest deeper than MAX_DEPTH.
_CANNOT_BE_TOO_DEEP = 2 * MAX_DEPTH

_Time = Annotated[int, Meta(gt=0, le=MAX_TS_NS)]
_Seq = Annotated[int, Meta(ge=0, le=MAX_INT64)]
_Positive = Annotated[float, Meta(gt=0)]
_SIGNS: dict[Any, int] = {"buy": 1, "sell": -1, 1: 1, -1: -1, 0: 0, None: 0}


class _Trade(Struct, tag_field="type", tag="trade", gc=False):
    symbol: str
    ts: _Time
    price: _Positive
    size: _Positive
    side: Literal["buy", "sell", 1, -1, 0, None] = None
    seq: _Seq | None = None


class _Quote(Struct, tag_field="type", tag="quote", gc=False):
    symbol: str
    ts: _Time
    bid: _Positive
    ask: _Positive
    bid_size: _Positive
    ask_size: _Positive
    seq: _Seq | None = None


_decode_typed = msgspec.json.Decoder(_Trade | _Quote).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_Fields = TypedDict("_Fields", dict.fromkeys(FIELDS, Any), total=False)  # type: ignore[misc]  # names of the rules
_decode_fields: Callable[[bytes], Mapping[str, object]]
_decode_fields = msgspec.json.Decoder(_Fields, float_hook=float).decode  # a float beyond its range is infinite
_decode_any = msgspec.json.Decoder().decode

_HUGE = 10**400  # beyond int64 and beyond float64
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def read_native(value: bytes | None) -> Tick:
    """Return the tick in ``value``, JSON of the native format; its symbol is not yet checked.

    Raises:
        BadTickError: What is wrong with it.
    """
    text = check_text(value)
    try:
        tick = _decode_typed(text)
    except (ValueError, RecursionError):
        # The typed decoder stops at the first thing it dislikes, in the order of the bytes; the rules decide.
        return _judged(text)
    seq = -1 if tick.seq is None else tick.seq
    na = NOT_APPLICABLE
    if type(tick) is _Trade:
        return Tick(TRADE, tick.symbol, tick.ts, tick.price, tick.size, _SIGNS[tick.side], na, na, na, na, seq)
    check_not_crossed(tick.bid, tick.ask)
    return Tick(QUOTE, tick.symbol, tick.ts, na, na, 0, tick.bid, tick.ask, tick.bid_size, tick.ask_size, seq)


def judge_native(value: bytes | None) -> Tick:
    """Return what ``read_native`` returns: later where the tick is valid, earlier where it is not."""
    return _judged(check_text(value))


def _judged(text: bytes) -> Tick:
    try:
        fields = _decode_fields(text)
    except msgspec.ValidationError:  # no object, or an integer of thousands of digits
        fields = {name: decode_field(raw) for name, raw in split_object(text).items() if name in FIELDS}
    except (ValueError, RecursionError) as error:
        raise BadTickError("bad_json", str(error)) from None
    return check(fields)


def check_text(value: bytes | None) -> bytes:
    """Return ``value``, which is UTF-8, of bounded size and bounded depth.

    Raises:
        BadTickError: It is not.
    """
    if value is None:
        raise BadTickError("null_value", "the record has no value")
    if len(value) > MAX_VALUE_BYTES:
        raise BadTickError("too_large", f"the value has {len(value)} bytes; the limit is {MAX_VALUE_BYTES}")
    if not value:
        raise BadTickError("empty_value", "the value has no bytes")
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError as error:
            raise BadTickError("bad_utf8", f"byte {error.start} of the value is not UTF-8") from None
    if len(value) > _CANNOT_BE_TOO_DEEP and _depth(value) > MAX_DEPTH:
        # Without this the recursion limit decides, and with it the depth of the caller's stack.
        raise BadTickError("too_deep", f"the value nests deeper than {MAX_DEPTH}")
    return value


def split_object(text: bytes) -> dict[str, msgspec.Raw]:
    """Return the undecoded values of a JSON object by name; of equal names the last one counts.

    Raises:
        BadTickError: ``text`` is no JSON object.
    """
    try:
        return _decode_object(text)
    except msgspec.ValidationError as error:
        raise BadTickError("not_an_object", str(error)) from None
    except (ValueError, RecursionError) as error:
        raise BadTickError("bad_json", str(error)) from None


def decode_field(raw: msgspec.Raw) -> object:
    """Return the value of one field; a number beyond its range becomes one that every rule refuses.

    Raises:
        BadTickError: It is no JSON.
    """
    try:
        return _decode_any(raw)
    except msgspec.ValidationError:
        return math.inf if any(mark in bytes(raw) for mark in b".eE") else _HUGE
    except (ValueError, RecursionError) as error:
        raise BadTickError("bad_json", str(error)) from None


def _depth(text: bytes) -> int:
    depth = deepest = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", text)):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest
