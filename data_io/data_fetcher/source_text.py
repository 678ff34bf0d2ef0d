"""The texts that name a source and its options: ``ccxt:binance:BTC/USDT?kind=trades&from=2024-01-01``."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import parse_qsl

from ml_core.errors import InputError, nearest


class SourceText(NamedTuple):
    """Words between colons behind the prefix, and options."""

    words: tuple[str, ...]
    options: dict[str, str]


def parse(text: str, words: int, options: Collection[str]) -> SourceText:
    """Return the parts of ``prefix:word:...?option=value&...``; the last of the ``words`` words may hold colons.

    Raises:
        InputError: There are fewer words, one is empty, or an option is unknown or given twice. A retry will not help.

    >>> parse("ccxt:binance:BTC/USDT?kind=trades", 2, ["kind"])
    SourceText(words=('binance', 'BTC/USDT'), options={'kind': 'trades'})
    """
    path, _, query = text.partition("?")
    found = tuple(path.split(":", words)[1:])
    if len(found) != words or not all(found):
        raise InputError(f"{text!r} needs {words} words behind its first colon")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise InputError(f"{text!r}: write options as name=value, joined by '&'") from error
    for name, _ in pairs:
        if name not in options:
            raise InputError(f"{text!r}: unknown option {name!r}{nearest(name, options)}")
    if len(dict(pairs)) != len(pairs):
        raise InputError(f"{text!r}: an option is given twice")
    return SourceText(found, dict(pairs))


def symbols(word: str) -> tuple[str, ...]:
    """Return the symbols of ``"A,B"``.

    Raises:
        InputError: One is empty or given twice. A retry will not help.
    """
    found = tuple(word.split(","))
    if not all(found) or len(set(found)) != len(found):
        raise InputError(f"{word!r}: a symbol is empty or given twice")
    return found


def time_ns(text: str) -> int:
    """Return a date or time as ns since the epoch; without an offset it is UTC.

    Raises:
        InputError: It is none, or lies before 1970. A retry will not help.

    >>> time_ns("1970-01-02"), time_ns("1970-01-01T01:00:00.5+01:00")
    (86400000000000, 500000000)
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no time such as 2024-01-02 or 2024-01-02T14:30:00Z") from error
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    since = time - datetime.fromtimestamp(0, UTC)
    if since.days < 0:
        raise InputError(f"{text!r} lies before 1970")
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def column_mapping(text: str | None) -> dict[str, str] | None:
    """Return the column mapping of ``"ts=time:ms,price=p"``; None stays None.

    Raises:
        InputError: A pair is none. A retry will not help.
    """
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    bad = [field for field, equals, column in pairs if not (equals and field and column)]
    if bad:
        raise InputError(f"--map: write field=column pairs such as ts=time:ms,price=p,size=q; {bad[0]!r} is none")
    return {field.strip(): column.strip() for field, _, column in pairs}
