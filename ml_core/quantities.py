"""Quantities as a pipeline file writes them: durations, percents, spreads, and what ends a bar."""

import json
import re
from typing import Any, NamedTuple

from ml_core.errors import nearest
from ml_core.types import MAX_DURATION_NS

UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}

BAR_KINDS = ("time", "ticks", "volume", "value")
# Name of an augmentation -> the least and the most it may be asked for.
AUGMENTATIONS = {
    "jitter": (0.0, 10.0),
    "scaling": (0.0, 1.0),
    "window_slicing": (0.1, 1.0),
    "magnitude_warp": (0.0, 1.0),
    "time_warp": (0.0, 2.0),
    "mixup": (0.01, 10.0),
    "mirror": (0.0, 1.0),
}
OF_WINDOWS = ("window_slicing", "magnitude_warp", "time_warp")  # augmentations that a row alone has no use for


def parse_duration(text: object) -> int:
    """Return nanoseconds of a duration such as ``"20ms"``, ``"1.5s"``, ``"6h"`` or ``"3d"``.

    >>> parse_duration("20ms")
    20000000
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)", text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and one of {', '.join(UNITS_NS)}, such as '10s'")
    value = float(match[1]) * UNITS_NS[match[2]]
    if value > MAX_DURATION_NS:
        raise ValueError(f"{text!r} is longer than {format_duration(MAX_DURATION_NS)}")
    return round(value)


def format_duration(value_ns: int) -> str:
    """Return the shortest exact text of a duration in nanoseconds.

    >>> format_duration(90_000_000_000), format_duration(20_000_000)
    ('90s', '20ms')
    """
    for unit in ("d", "h", "m", "s", "ms", "us"):
        if value_ns and value_ns % UNITS_NS[unit] == 0 and (unit != "m" or value_ns % UNITS_NS["h"] == 0):
            return f"{value_ns // UNITS_NS[unit]}{unit}"
    return f"{value_ns}ns"


def parse_percent(text: object) -> object:
    """Return the fraction of a text such as ``"1%"``; a number passes unchanged."""
    return float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else text


def parse_spreads(text: object) -> object:
    """Return the number of spreads of a text such as ``"0.5 spread"``; a number passes unchanged."""
    return float(text.removesuffix("spread")) if isinstance(text, str) else text


def parse_bars(text: str) -> tuple[str, float]:
    """Return what ends a bar and after how much of it: ns, ticks, base units or quote currency.

    >>> parse_bars("time:10s"), parse_bars("value:1e6")
    (('time', 10000000000), ('value', 1000000.0))
    """
    kind, _, size = (part.strip() for part in text.partition(":"))
    if kind not in BAR_KINDS:
        raise ValueError(
            f"{text!r} is not 'time:<duration>' or 'ticks', 'volume', 'value' and a number{nearest(kind, BAR_KINDS)}"
        )
    if kind == "time":
        span_ns = parse_duration(size)
        if not 10**6 <= span_ns <= 7 * UNITS_NS["d"]:
            raise ValueError(f"{text!r}: {size} is not within 1ms and 7d")
        return kind, span_ns
    pattern = r"[1-9]\d{0,8}" if kind == "ticks" else r"\d+(\.\d+)?(e\d{1,2})?"
    if re.fullmatch(pattern, size) is None or float(size) == 0:
        number = "a whole number below 1e9" if kind == "ticks" else "a number above 0, such as 50 or 1e6"
        raise ValueError(f"{text!r}: {size!r} is not {number}")
    return kind, float(size)


def parse_augment(text: str) -> tuple[str, float]:
    """Return name and strength of an augmentation.

    >>> parse_augment("jitter 0.05")
    ('jitter', 0.05)
    """
    name, _, strength = text.strip().partition(" ")
    if name not in AUGMENTATIONS:
        raise ValueError(f"{text!r} is no augmentation{nearest(name, AUGMENTATIONS)}")
    least, most = AUGMENTATIONS[name]
    if re.fullmatch(r"\d+(\.\d+)?", strength) is None or not least <= float(strength) <= most:
        raise ValueError(f"{text!r}: {strength!r} is not a number from {least:g} to {most:g}, as in '{name} {most:g}'")
    return name, float(strength)


class Range(NamedTuple):
    """What a study may choose a value from."""

    kind: str  # int, float or choice
    low: float
    high: float
    log: bool
    choices: tuple[Any, ...]  # JSON values

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that are valid if all are: the two ends, or all choices."""
        if self.kind == "choice":
            return self.choices
        number = int if self.kind == "int" else float
        return number(self.low), number(self.high)


def parse_range(text: str) -> Range:
    """Return the range of a text: ``int 8..128 log``, ``float 1e-4..1e-2``, ``choice adamw | sgd``.

    Both ends belong to the range. A choice that reads as JSON is one, such as ``[64, 32]``; any other is a text.

    >>> parse_range("int 8..128 log").ends, parse_range("choice [16] | relu").ends
    ((8, 128), ([16], 'relu'))
    """
    kind, _, rest = text.strip().partition(" ")
    if kind == "choice":
        choices = tuple(_json_or_text(part.strip()) for part in rest.split("|"))
        if len(choices) < 2 or "" in choices:
            raise ValueError(f"{text!r}: a choice is between two or more, such as 'choice adamw | sgd'")
        return Range(kind, 0, 0, log=False, choices=choices)
    if kind not in ("int", "float"):
        raise ValueError(f"{text!r} is not 'int', 'float' or 'choice' and a range{nearest(kind, _RANGES)}")
    number = r"-?\d+" if kind == "int" else r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
    match = re.fullmatch(rf"({number})\.\.({number})( log)?", rest.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a range such as 'int 8..128', 'int 8..128 log' or 'float 1e-4..1e-2 log'")
    low, high, log = float(match[1]), float(match[2]), match[3] is not None
    if not low < high or (log and low <= 0):
        raise ValueError(f"{text!r}: the first end must lie below the second{', and above 0' if log else ''}")
    return Range(kind, low, high, log, ())


_RANGES = ("int", "float", "choice")


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
