"""Reads ticks from a user's own JSON through the field map of the pipeline file."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from data_io.topics.tick_json import check_text, decode_field, split_object
from data_io.topics.tick_plan import mapped_plan
from data_io.topics.tick_rules import FIELDS, BadTickError, Tick, check
from ml_core.errors import SpecError
from ml_core.spec import FieldMap

_UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
_KEY = "$key"
_TAKER_OF_MAKER = {True: "sell", False: "buy"}  # the buyer was the maker, so the seller took


class MappedReader:
    """Reads one tick a record; built once from a ``FieldMap``.

    A path is ``$.name`` or ``$.outer.name``; ``$key``, the key of the record, may be the symbol. ``ts`` takes a unit
    (``:ns``, ``:us``, ``:ms``, ``:s``; default ns). ``side`` takes ``:maker`` for a bool that says whether the buyer
    was the maker. Without a path for ``type``, bid and ask make a quote, else price and size a trade. Numbers may be
    decimal text.
    """

    def __init__(self, field_map: FieldMap) -> None:
        """Compile ``field_map``.

        Raises:
            SpecError: A path or a suffix is not understood. A retry will not help.
        """
        given = {name: text for name in FIELDS if (text := getattr(field_map, name))}
        split = {name: _split(name, text) for name, text in given.items()}
        self._paths = {name: path for name, (path, _) in split.items()}
        self._in_value = {name: path for name, path in self._paths.items() if path is not None}
        self._unit_ns = _UNITS_NS[split["ts"][1] or "ns"]
        self._side_is_maker = split.get("side", (None, ""))[1] == "maker"
        self._optional = frozenset(FIELDS) - given.keys()
        self._decode, self._get = _typed(self._in_value)
        self.plan = mapped_plan(self._paths, ts_unit=self._unit_ns, is_maker=self._side_is_maker)

    def __call__(self, key: bytes | None, value: bytes | None) -> Tick:
        """Return the tick of one record.

        Raises:
            BadTickError: What is wrong with it.
        """
        text = check_text(value)
        try:
            fields = dict(zip(self._in_value, self._get(self._decode(text)), strict=True))
        except (
            ValueError,
            RecursionError,
            AttributeError,
        ):  # AttributeError: an object on the way to a field is missing
            fields = {name: _dig(text, path) for name, path in self._in_value.items()}
        for name, path in self._paths.items():
            if path is None:
                fields[name] = _text_of(key)
        return check(self._translate(fields), texts=True, optional=self._optional)

    def _translate(self, fields: dict[str, Any]) -> dict[str, Any]:
        ts = fields["ts"]
        if isinstance(ts, str) and ts.isascii() and ts.isdigit() and len(ts) < 20:
            ts = int(ts)
        if self._unit_ns > 1 and isinstance(ts, int) and not isinstance(ts, bool):
            fields["ts"] = ts * self._unit_ns
        if self._side_is_maker and (maker := fields["side"]) is not None:
            if not isinstance(maker, bool):
                raise BadTickError("bad_type:side", "the maker flag is neither true nor false")
            fields["side"] = _TAKER_OF_MAKER[maker]
        if "type" not in self._paths:
            is_quote = fields.get("bid") is not None and fields.get("ask") is not None
            if not is_quote and (fields.get("price") is None or fields.get("size") is None):
                # Name what is missing of the kind that this map is for.
                is_quote = "price" not in self._paths
            fields["type"] = "quote" if is_quote else "trade"
        return fields


def _split(name: str, text: str) -> tuple[tuple[str, ...] | None, str]:
    """Return the steps of a path (None: the key of the record) and its suffix."""
    path, _, suffix = text.partition(":")
    known = {"ts": ("", *_UNITS_NS), "side": ("", "maker")}.get(name, ("",))
    if suffix not in known:
        raise SpecError(
            f"source.map.{name}: unknown suffix in {text!r}; known: {', '.join(filter(None, known)) or 'none'}"
        )
    if path == _KEY and name == "symbol":
        return None, suffix
    steps = tuple(path.split(".")[1:])
    if not path.startswith("$.") or not all(steps) or any(mark in path for mark in "[]*'\" "):
        raise SpecError(
            f"source.map.{name}: {text!r} is not a path; write $.name, $.outer.name, or $key for the symbol"
        )
    return steps, suffix


def _typed(paths: dict[str, tuple[str, ...]]) -> tuple[Callable[[bytes], Any], Callable[[Any], tuple[Any, ...]]]:
    """Return a decoder that builds only what ``paths`` need, and a getter of all fields in their order."""
    tree: dict[str, Any] = {}
    for name, steps in paths.items():
        node = tree
        for step in steps[:-1]:
            node = node.setdefault(step, {})
            if not isinstance(node, dict):
                raise SpecError(f"source.map.{name}: {'.'.join(steps)} runs through a field that is a value of its own")
        if isinstance(node.get(steps[-1]), dict):
            raise SpecError(f"source.map.{name}: {'.'.join(steps)} is an object in another path")
        node[steps[-1]] = None
    getter: Any = attrgetter(*(_attribute(tree, steps) for steps in paths.values()))
    return msgspec.json.Decoder(_struct(tree)).decode, getter


def _struct(tree: dict[str, Any]) -> type[Struct]:
    leaf = int | float | str | bool | None
    fields: list[Any] = [
        (f"f{i}", leaf, None) if node is None else (f"f{i}", _struct(node) | None, None)
        for i, node in enumerate(tree.values())
    ]
    return msgspec.defstruct("Mapped", fields, rename={f"f{i}": name for i, name in enumerate(tree)}, gc=False)


def _attribute(tree: dict[str, Any], steps: tuple[str, ...]) -> str:
    names = []
    for step in steps:
        names.append(f"f{list(tree).index(step)}")
        tree = tree[step]
    return ".".join(names)


def _dig(text: bytes, steps: tuple[str, ...]) -> object:
    """Return what lies at ``steps``, without decoding anything beside it; None where there is nothing."""
    for step in steps[:-1]:
        inner = split_object(text).get(step)
        if inner is None:
            return None
        text = bytes(inner)
        if text == b"null":
            return None
    raw = split_object(text).get(steps[-1])
    return None if raw is None else decode_field(raw)


def _text_of(key: bytes | None) -> str | None:
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError as error:
        raise BadTickError("bad_utf8", f"byte {error.start} of the key is not UTF-8") from None
