"""Which columns of a frame are its content, and those as Arrow columns and back. Shapes: N rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from data_io.data_fetcher.table_columns import OPTIONAL
from ml_core import frames
from ml_core.errors import SchemaMismatchError

DTYPES: dict[str, str] = {**frames.TICK_COLUMNS, **frames.BAR_COLUMNS, **frames.OPTIONAL_COLUMNS}
_ARROW = {
    "int64": pa.int64(),
    "int8": pa.int8(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "category": pa.dictionary(pa.int32(), pa.string()),
}


def is_bars(frame: pd.DataFrame) -> bool:
    """Return True for a bar frame, False for a ticks frame."""
    return "close" in frame.columns


def check(frame: pd.DataFrame) -> None:
    """Make sure that ``frame`` is one of ticks or of bars; raises SchemaMismatchError."""
    (frames.check_bars if is_bars(frame) else frames.check)(frame)


def content(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the names of the columns that are content: not those that say where a tick stood, nor unknown ones."""
    if is_bars(frame):
        return tuple(frames.BAR_COLUMNS)
    return (*frames.TICK_COLUMNS, *(name for name in OPTIONAL if name in frame.columns))


def same(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Make sure that the content of ``frame`` has the columns ``names``, as that before it.

    Raises:
        SchemaMismatchError: It has not. A retry will not help.
    """
    found = content(frame)
    if found != tuple(names):
        odd = ", ".join(sorted(set(found) ^ set(names)))
        raise SchemaMismatchError(f"the columns of the source change on the way: {odd} not in all of its parts")


def schema(names: Sequence[str], metadata: dict[bytes, bytes]) -> pa.Schema:
    """Return the Arrow schema of the columns ``names``."""
    return pa.schema([pa.field(name, _ARROW[DTYPES[name]]) for name in names], metadata=metadata)


def to_arrow(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return the N rows of ``frame`` in the columns of ``schema``."""
    return pa.Table.from_arrays([_arrow(frame[name]) for name in schema.names], schema=schema)


def _arrow(column: "pd.Series[Any]") -> pa.Array:
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return pa.array(column.to_numpy())
    codes_N = column.cat.codes.to_numpy().astype(np.int32)
    names = pa.array([str(name) for name in column.cat.categories], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes_N, mask=codes_N < 0), names)


def from_arrow(table: pa.Table) -> pd.DataFrame:
    """Return a table of `to_arrow` as a frame with the dtypes of ticks and bars.

    Raises:
        SchemaMismatchError: A column is unknown or of another type. A retry will not help.
    """
    data: dict[str, Any] = {}
    for name in table.column_names:
        if name not in DTYPES or table.schema.field(name).type != _ARROW[DTYPES[name]]:
            raise SchemaMismatchError(f"no column of ticks or bars: {name!r} of type {table.schema.field(name).type}")
        column = table.column(name).combine_chunks()
        if name == "type":
            kinds = [str(kind) for kind in column.dictionary.to_pylist()]
            codes_N = column.indices.to_numpy()
            known = np.array([frames.KINDS.index(kind) for kind in kinds], dtype=np.int8)
            data[name] = pd.Categorical.from_codes(known[codes_N], dtype=frames.KIND_DTYPE)
        elif DTYPES[name] == "category":
            codes_N = column.indices.fill_null(-1).to_numpy()
            data[name] = frames.category(codes_N, [str(text) for text in column.dictionary.to_pylist()])
        else:
            data[name] = column.to_numpy(zero_copy_only=False)
    return pd.DataFrame(data, copy=False)
