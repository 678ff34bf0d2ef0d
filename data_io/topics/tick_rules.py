"""What makes a tick valid: one set of rules for native JSON, mapped JSON and Arrow rows."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from ml_core.errors import InputError
from ml_core.types import MAX_TS_NS, TickKind

TRADE, QUOTE = int(TickKind.TRADE), int(TickKind.QUOTE)  # an enum costs a call a comparison
MAX_INT64 = 2**63 - 1
MAX_SYMBOL_BYTES = 64
NOT_APPLICABLE = math.nan

# What a record may hold; everything else in it is ignored.
FIELDS = ("type", "symbol", "ts", "price", "size", "side", "bid", "ask", "bid_size", "ask_size", "seq")

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,5})?", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,20}", re.ASCII)
_SIDES = {"buy": 1, "sell": -1}


class Tick(NamedTuple):
    """One valid tick; the fields of ``TickBatch`` that come from the value of a record."""

    kind: int
    symbol: str
    ts_ns: int
    price: float
    size: float
    side: int
    bid: float
    ask: float
    bid_size: float
    ask_size: float
    seq: int


class BadTickError(InputError):
    """A tick is refused; ``reason`` is the stable code, ``detail`` is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep both parts, which become a text only where somebody asks for it: there may be very many."""
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        """Return both."""
        return f"{self.reason}: {self.detail}"


def check(fields: Mapping[str, object], *, texts: bool = False, optional: frozenset[str] = frozenset()) -> Tick:
    """Return the tick that ``fields`` describe; its symbol is left to ``check_symbol``, which each needs only once.

    Args:
        fields: Values by the names of the native format; None counts as missing, unknown names are ignored.
        texts: Accept numbers as decimal text, and a side in any case, as exchanges send them.
        optional: Numbers that may be missing and are then NaN.

    Raises:
        BadTickError: The first rule that is broken, always in the same order.
    """
    kind = _kind(fields)
    symbol = _symbol(fields)
    ts_ns = _integer(fields, "ts", texts)
    if ts_ns <= 0:
        raise BadTickError("not_positive:ts", f"ts is {ts_ns}; expected ns since 1970, UTC")
    if ts_ns > MAX_TS_NS:
        raise BadTickError("out_of_range:ts", f"ts is {ts_ns} ns; expected at most {MAX_TS_NS}, the year 2100")
    price = size = bid = ask = bid_size = ask_size = NOT_APPLICABLE
    side = 0
    if kind == TRADE:
        price = _positive(fields, "price", texts, optional)
        size = _positive(fields, "size", texts, optional)
        side = _side(fields, texts)
    else:
        bid = _positive(fields, "bid", texts, optional)
        ask = _positive(fields, "ask", texts, optional)
        bid_size = _positive(fields, "bid_size", texts, optional)
        ask_size = _positive(fields, "ask_size", texts, optional)
        check_not_crossed(bid, ask)
    seq = -1 if fields.get("seq") is None else _integer(fields, "seq", texts)
    if seq < 0 and fields.get("seq") is not None:
        raise BadTickError("negative:seq", f"seq is {seq}")
    return Tick(kind, symbol, ts_ns, price, size, side, bid, ask, bid_size, ask_size, seq)


def check_symbol(symbol: str) -> None:
    """Raise ``BadTickError`` unless ``symbol`` has 1 to 64 bytes of UTF-8, printable and without white space.

    >>> check_symbol("BRK.B")
    """
    if not symbol:
        raise BadTickError("bad_symbol", "the symbol is empty")
    if not symbol.isprintable() or " " in symbol:
        raise BadTickError("bad_symbol", f"{shorten(symbol)} holds white space or characters that do not print")
    if len(symbol.encode()) > MAX_SYMBOL_BYTES:
        raise BadTickError("bad_symbol", f"{shorten(symbol)} is longer than {MAX_SYMBOL_BYTES} bytes")


def check_not_crossed(bid: float, ask: float) -> None:
    """Raise ``BadTickError`` when the ask lies below the bid; equal ones (a locked market) pass."""
    if ask < bid:
        raise BadTickError("crossed_quote", f"ask {ask!r} is below bid {bid!r}")


def shorten(value: object) -> str:
    """Return ``repr(value)``, cut so that a hostile value cannot fill a log.

    >>> shorten("x" * 99)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."
    """
    if isinstance(value, str):
        value = value[:41]
    elif isinstance(value, int) and abs(value) > MAX_INT64:
        return "an integer of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 43 else text[:40] + "..."


def _kind(fields: Mapping[str, object]) -> int:
    kind = fields.get("type")
    if kind == "trade":
        return TRADE
    if kind == "quote":
        return QUOTE
    if kind is None:
        raise BadTickError("missing:type", "expected trade or quote")
    if not isinstance(kind, str):
        raise _bad_type("type", kind, "text")
    raise BadTickError("unknown_type", f"type is {shorten(kind)}; expected trade or quote")


def _symbol(fields: Mapping[str, object]) -> str:
    symbol = fields.get("symbol")
    if symbol is None:
        raise BadTickError("missing:symbol", "there is no symbol")
    if not isinstance(symbol, str):
        raise _bad_type("symbol", symbol, "text")
    return symbol


def _positive(fields: Mapping[str, object], name: str, texts: bool, optional: frozenset[str]) -> float:
    value = fields.get(name)
    if type(value) is float and 0 < value < math.inf:
        return value
    if value is None:
        if name in optional:
            return NOT_APPLICABLE
        raise BadTickError(f"missing:{name}", f"there is no {name}")
    if texts and isinstance(value, str):
        if len(value) > 400 or not _NUMBER.fullmatch(value):
            raise BadTickError(f"bad_number:{name}", f"{name} is {shorten(value)}")
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad_type(name, value, "a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadTickError(f"not_finite:{name}", f"{name} is beyond a float64")
    if number <= 0:
        raise BadTickError(f"not_positive:{name}", f"{name} is {number!r}")
    return number


def _integer(fields: Mapping[str, object], name: str, texts: bool) -> int:
    value = fields.get(name)
    if type(value) is int and -MAX_INT64 <= value <= MAX_INT64:
        return value
    if value is None:
        raise BadTickError(f"missing:{name}", f"there is no {name}")
    if texts and isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad_type(name, value, "an integer")
    if abs(value) > MAX_INT64:
        raise BadTickError(f"out_of_range:{name}", f"{name} does not fit 64 bits")
    return value


def _side(fields: Mapping[str, object], texts: bool) -> int:
    side = fields.get("side")
    if side is None:
        return 0
    if isinstance(side, bool) or not isinstance(side, str | int):
        raise _bad_type("side", side, "buy, sell, 1, -1, 0 or null")
    if isinstance(side, int):
        if side in (-1, 0, 1):
            return side
    elif (sign := _SIDES.get(side.lower() if texts else side)) is not None:
        return sign
    raise BadTickError("bad_side", f"side is {shorten(side)}; expected buy, sell, 1, -1, 0 or null")


def _bad_type(name: str, value: object, expected: str) -> BadTickError:
    return BadTickError(f"bad_type:{name}", f"{name} is {shorten(value)}; expected {expected}")
