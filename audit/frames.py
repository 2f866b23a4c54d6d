"""Arrow tables as pandas frames, as DuckDB makes them of its own, without its detour for texts."""

from __future__ import annotations

import duckdb
import pandas as pd
import pyarrow as pa


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
    return pd.DataFrame({name: columns[name] for name in names}, copy=False)


def _plain(column: pa.ChunkedArray) -> bool:
    """Whether Arrow and DuckDB give pandas the same: numbers that are all there, and texts."""
    if pa.types.is_string(column.type):
        return bool(column.null_count < len(column))
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return column.null_count == 0 and any(kind(column.type) for kind in kinds)
