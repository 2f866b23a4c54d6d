"""Arrow tables as pandas frames, without DuckDB's detour for texts; frames as Parquet files."""

from __future__ import annotations

import io
from collections.abc import Iterable

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

MASKED = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
}
"""What DuckDB makes of columns with gaps."""
LOOSE = 40
"""Columns that may lie apart in memory; the copy that brings them together needs as much again."""


def frame_of(rows: pa.Table) -> pd.DataFrame:
    """The same frame as DuckDB's ``.df()``.

    That makes a Python object of every text, several times what the table takes, before pandas
    packs them again, and starts a database first; pandas takes most of Arrow's columns as they are.

    >>> frame_of(pa.table({"a": ["x", None], "b": [None, True]})).dtypes.map(str).to_dict()
    {'a': 'str', 'b': 'boolean'}
    """
    names = rows.column_names
    plain = [name for name in names if _plain(rows[name])]
    masked = [name for name in names if name not in plain and rows[name].type in MASKED]
    empty = [name for name in names if name not in plain and _is_text(rows[name])]
    rest = rows.drop_columns([*plain, *masked, *empty])
    columns: dict[str, pd.Series] = {
        **rows.select(plain).to_pandas(split_blocks=True),
        **rows.select(masked).to_pandas(types_mapper=MASKED.get),
        **{name: pd.Series(np.full(len(rows), None), dtype=object) for name in empty},
    }
    del rows
    if rest.num_columns:
        with duckdb.connect() as database:
            columns |= dict(database.from_arrow(rest).df().items())
    # A wide frame is put together, for every column that is added to loose ones costs a warning.
    return pd.DataFrame({name: columns[name] for name in names}, copy=len(names) > LOOSE)


def parquet_of(table: pd.DataFrame | Iterable[pd.DataFrame]) -> bytes:
    """A Parquet file of a frame, or of its parts from top to bottom, which may lack columns."""
    parts = [table] if isinstance(table, pd.DataFrame) else table
    rows = [pa.Table.from_pandas(part, preserve_index=False) for part in parts]
    whole, buffer = pa.concat_tables(rows, promote_options="permissive"), io.BytesIO()
    parquet.write_table(whole, buffer, compression="zstd")
    return buffer.getvalue()


def _plain(column: pa.ChunkedArray) -> bool:
    """Whether Arrow and DuckDB give pandas the same: texts that are not all missing, numbers with
    a value for what is missing, and lists of numbers without gaps."""
    if _is_text(column):
        return bool(column.null_count < len(column))
    kind = column.type
    if pa.types.is_list(kind):
        whole = column.null_count == 0 and column.combine_chunks().flatten().null_count == 0
        return bool(whole and pa.types.is_floating(kind.value_type))
    whole = column.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_boolean(kind))
    return bool(whole or pa.types.is_floating(kind))


def _is_text(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))
