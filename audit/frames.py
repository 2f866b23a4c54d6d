"""Arrow tables as pandas frames, without DuckDB's detour for texts; frames as Parquet files."""

from __future__ import annotations

import io
from collections.abc import Iterable

import duckdb
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

LOOSE = 40
"""Columns that may lie apart in memory; the copy that brings them together needs as much again."""


def frame_of(rows: pa.Table) -> pd.DataFrame:
    """The same frame as DuckDB's ``.df()``.

    That makes a Python object of every text, several times what the table takes, before pandas
    packs them again; pandas takes Arrow's texts as they are.

    >>> frame_of(pa.table({"a": ["x", None], "b": [None, True]})).dtypes.map(str).to_dict()
    {'a': 'str', 'b': 'boolean'}
    """
    names = rows.column_names
    plain = [name for name in names if _plain(rows[name])]
    rest = rows.drop_columns(plain)
    rows = rows.select(plain)
    columns: dict[str, pd.Series] = dict(rows.to_pandas(split_blocks=True).items())
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
    """Whether Arrow and DuckDB give pandas the same: numbers that are all there, and texts."""
    if pa.types.is_string(column.type):
        return bool(column.null_count < len(column))
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return column.null_count == 0 and any(kind(column.type) for kind in kinds)
