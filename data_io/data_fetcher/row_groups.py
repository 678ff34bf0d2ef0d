"""Which row groups of a Parquet file may hold times of a range, by the file's own statistics."""

import pyarrow as pa
import pyarrow.parquet as pq

from data_io.data_fetcher.table_columns import UNITS_NS


def within(file: pq.ParquetFile, column: str, unit: str, start_ns: int, end_ns: int) -> list[int]:
    """Return the row groups of ``file`` that may hold times in ``[start_ns, end_ns)``, ascending.

    Args:
        file: The file.
        column: Its column of times; one of whole numbers or of timestamps is looked at, in any other all groups are.
        unit: Of whole numbers, of ``UNITS_NS``; timestamps carry their own.
        start_ns: Begin of the range, ns since the epoch.
        end_ns: Its end, left out.
    """
    every = list(range(file.num_row_groups))
    field = file.schema_arrow.field(column)
    if pa.types.is_timestamp(field.type):
        unit = field.type.unit
    elif not pa.types.is_integer(field.type):
        return every
    factor = UNITS_NS.get(unit)
    names = [file.schema.column(i).path for i in range(len(file.schema))]
    if factor is None or column not in names:
        return every
    place = names.index(column)
    return [group for group in every if _may_hold(file.metadata.row_group(group), place, factor, start_ns, end_ns)]


def _may_hold(group: pq.RowGroupMetaData, place: int, factor: int, start_ns: int, end_ns: int) -> bool:
    told = group.column(place).statistics
    if told is None or not told.has_min_max or told.physical_type != "INT64":
        return True
    return int(told.min_raw) * factor < end_ns and int(told.max_raw) * factor >= start_ns
