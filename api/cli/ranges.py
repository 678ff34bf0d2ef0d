"""Ranges of ticks as commands take them: offsets of partitions, or times of arrival."""

from data_io.data_fetcher.source_text import time_ns
from ml_core.errors import InputError
from model_ops_manager.parity import Arrival, Offsets


def asked_for(ranges: list[str] | None, since: str | None, until: str | None) -> Offsets | Arrival | None:
    """Return what ``--range``, or ``--from`` and ``--to``, ask for; None: all.

    Raises:
        InputError: They are not understood, or contradict one another.
    """
    if ranges and (since or until):
        raise InputError("--range names offsets, --from and --to times: give one of both")
    if not (since or until):
        return _ranges(ranges) if ranges else None
    since_ms = time_ms("--from", since) if since else None
    until_ms = time_ms("--to", until) if until else None
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise InputError(f"--from {since} is not before --to {until}")
    return Arrival(since_ms, until_ms)


def time_ms(option: str, text: str) -> int:
    """Return milliseconds since the epoch; raises as ``time_ns``, naming the option."""
    try:
        return time_ns(text) // 1_000_000
    except InputError as error:
        raise InputError(f"{option}: {error}") from error


def _ranges(texts: list[str]) -> dict[int, tuple[int, int]]:
    found = dict(map(one_range, texts))
    if len(found) < len(texts):
        raise InputError("--range: one range a partition")
    return found


def one_range(text: str) -> tuple[int, tuple[int, int]]:
    """Return partition, first and last offset (exclusive) of ``"0:100-199"``."""
    try:
        partition, _, offsets = text.partition(":")
        first, last = offsets.split("-")
        return int(partition), (int(first), int(last) + 1)
    except ValueError:
        raise InputError(f"{text!r}: write PARTITION:FIRST-LAST, such as 0:100-199") from None
