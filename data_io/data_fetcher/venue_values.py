"""What messages of all venues share: text that is a number, and what is wrong with one that cannot be used."""

import math

import msgspec

BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # ValidationError is one; nested too deeply


class UnusableMessageError(Exception):
    """The message is not in the format of the venue; its text is the reason, short and stable."""


def number(text: str, what: str, *, zero: bool = False) -> float:
    """Return the positive and finite number ``text``; with ``zero`` it may be 0.

    Raises:
        UnusableMessageError: It is none; ``what`` names it.
    """
    try:
        value = float(text)
    except ValueError:
        raise UnusableMessageError(f"{what} is not a number") from None
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise UnusableMessageError(f"{what} is not {'zero or more' if zero else 'positive'} and finite")
    return value


def whole(value: int, what: str, *, least: int = 0) -> int:
    """Return ``value``, a number that the venue gave to a trade or quote.

    Raises:
        UnusableMessageError: It is less than ``least``, or does not fit 64 bits; ``what`` names it.
    """
    if not least <= value < 2**63:
        raise UnusableMessageError(f"{what} is none")
    return value
