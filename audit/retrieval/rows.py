"""Metadata of single rows for JSON, fast: from memory where it is small enough."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic_core

from .base import Index
from .metadata import MetadataFiles

MOST_BYTES = 2 * 2**30
"""Of uncompressed metadata that is held in memory."""
_PLAIN = (str, int, float, type(None))


class Rows:
    """Metadata of an index by row.

    Args:
        index: any of ours. Where it has metadata files that are small enough, they are read into
            memory; otherwise each question goes to the index.
        most: bytes of memory, before compression.
    """

    def __init__(self, index: Index, most: int = MOST_BYTES) -> None:
        self._index = index
        self._tables: list[pa.RecordBatch] = []
        self._starts: list[int] = []
        files = _files(index)
        if files is not None and sum(map(_size, files.files)) <= most:
            self._starts = files.starts[:-1].tolist()
            self._tables = [_in_memory(file) for file in files.files]

    def documents(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """The rows `ids`, in their order, with values as Python has them."""
        if not len(ids):
            return []
        if not self._tables:
            rows: Any = self._index.metadata(ids).to_dict(orient="records")
            return list(rows)
        places = defaultdict(list)
        for place, row in enumerate(ids):
            places[bisect_right(self._starts, row) - 1].append(place)
        found: list[dict[str, Any]] = [{}] * len(ids)
        for number, here in places.items():
            rows = pa.array([ids[place] - self._starts[number] for place in here])
            for place, document in zip(
                here, self._tables[number].take(rows).to_pylist(), strict=True
            ):
                found[place] = document
        return found


def as_json(document: Any) -> bytes:
    """A document in JSON; what is not a number is null, bytes and times are text.

    >>> as_json({"caption": "a cat", "punsafe": float("nan"), "md5": b"ab"})
    b'{"caption":"a cat","punsafe":null,"md5":"ab"}'
    """
    return pydantic_core.to_json(_plain(document), inf_nan_mode="null")


def _plain(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value)


def _files(index: Index) -> MetadataFiles | None:
    for holder in (index, getattr(index, "folder", None)):
        if isinstance(found := getattr(holder, "files", None), MetadataFiles) and len(found):
            return found
    return None


def _size(file: Path) -> int:
    metadata = pq.read_metadata(file)
    return sum(metadata.row_group(g).total_byte_size for g in range(metadata.num_row_groups))


def _in_memory(file: Path) -> pa.RecordBatch:
    # One batch: taking rows from a table of many chunks joins them first, every time.
    table = pq.read_table(file).combine_chunks()
    return next(iter(table.to_batches()), pa.RecordBatch.from_pylist([], table.schema))
