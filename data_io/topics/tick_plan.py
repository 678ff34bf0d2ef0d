"""Plans for the tick kernel: the native format, or the paths of a field map."""

from collections.abc import Mapping

import numpy as np

from data_io.topics import tick_kernel
from data_io.topics.json_scan import SLACK
from data_io.topics.tick_kernel import FIRST_OBJECT, MAX_KEYS, Plan
from data_io.topics.tick_rules import FIELDS
from ml_core.types import MAX_TS_NS

_NUMBER_OF = {name: getattr(tick_kernel, name.upper()) for name in FIELDS}


def native_plan() -> Plan:
    """Return the plan of the native format: each field by its own name, numbers as numbers."""
    return _plan_of({name: (name,) for name in FIELDS})


def mapped_plan(paths: Mapping[str, tuple[str, ...] | None], *, ts_unit: int, is_maker: bool) -> Plan | None:
    """Return the plan of a field map; None where the kernel cannot follow it: a value with two names, or many keys.

    Args:
        paths: The keys on the way to each field; None for the symbol, where the key of the record is the symbol.
        ts_unit: In ns.
        is_maker: The side is a flag that says whether the buyer was the maker.
    """
    in_value = {name: path for name, path in paths.items() if path is not None}
    if len(set(in_value.values())) < len(in_value) or sum(map(len, in_value.values())) > MAX_KEYS:
        return None
    is_key = len(in_value) < len(paths)
    most = MAX_TS_NS // ts_unit
    return _plan_of(in_value)._replace(
        ts_unit=ts_unit, ts_most=most, is_lenient=True, is_maker=is_maker, symbol_is_key=is_key
    )


def _plan_of(paths: Mapping[str, tuple[str, ...]]) -> Plan:
    inner = dict.fromkeys(path[:n] for path in paths.values() for n in range(len(path)))
    objects = sorted(inner, key=len)  # the outermost first
    leads_to = {path: _NUMBER_OF[name] for name, path in paths.items()}
    leads_to |= {path: FIRST_OBJECT + o for o, path in enumerate(objects) if path}
    keys = sorted(leads_to, key=lambda path: objects.index(path[:-1]))
    texts = [path[-1].encode() for path in keys]
    length_K = np.array([len(text) for text in texts], np.int64)
    counts = [sum(path[:-1] == inside for path in keys) for inside in objects]
    return Plan(
        first_key_O=np.array([0, *np.cumsum(counts)], np.int64),
        parent_O=np.array([objects.index(path[:-1]) if path else -1 for path in objects], np.int64),
        text=np.frombuffer(b"".join(texts) + bytes(SLACK), np.uint8).copy(),
        text_at_K=np.cumsum(length_K) - length_K,
        text_len_K=length_K,
        leads_to_K=np.array([leads_to[path] for path in keys], np.int64),
        given=sum(1 << _NUMBER_OF[name] for name in paths),
        ts_unit=1,
        ts_most=MAX_TS_NS,
        is_lenient=False,
        is_maker=False,
        symbol_is_key=False,
    )
