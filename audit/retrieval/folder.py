"""An embedding folder in clip-retrieval's own format.

``img_emb/img_emb_N.npy`` (fp16 or fp32, one row per image) beside ``metadata/metadata_N.parquet``
with as many rows. A row's id is its place in the files sorted by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from audit.errors import AuditError


class EmbeddingFolder:
    """Memory-mapped embeddings and their metadata.

    Raises:
        AuditError: a shard is missing, damaged, or does not match its metadata.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shards = sorted(path.glob("img_emb/*.npy"))
        self._metadata = sorted(path.glob("metadata/*.parquet"))
        if not self._shards or len(self._shards) != len(self._metadata):
            raise AuditError(
                f"{path} is no embedding folder: it has {len(self._shards)} img_emb/*.npy and "
                f"{len(self._metadata)} metadata/*.parquet files, one of each per shard is wanted"
            )
        self._starts = [0]
        self.dimension = 0
        for shard, metadata in zip(self._shards, self._metadata, strict=True):
            array = _mapped(shard)
            rows = pq.read_metadata(metadata).num_rows
            if len(array) != rows:
                raise AuditError(
                    f"{shard} has {len(array)} rows and {metadata.name} has {rows}: "
                    "the shard is short; embed it again"
                )
            if self.dimension not in (0, array.shape[1]):
                raise AuditError(f"{shard} has {array.shape[1]} columns, not {self.dimension}")
            self.dimension = array.shape[1]
            self._starts.append(self._starts[-1] + rows)

    def __len__(self) -> int:
        return self._starts[-1]

    def blocks(self, rows: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The first id and up to `rows` unit vectors, block after block, in fp32."""
        for start, shard in zip(self._starts[:-1], self._shards, strict=True):
            array = _mapped(shard)
            for offset in range(0, len(array), rows):
                block = np.asarray(array[offset : offset + rows], dtype=np.float32)
                norms = np.linalg.norm(block, axis=1, keepdims=True)
                yield start + offset, block / np.maximum(norms, 1e-12)

    def metadata(self, ids: Sequence[int]) -> pd.DataFrame:
        """The metadata of the rows `ids`, in their order."""
        wanted = np.asarray(ids, dtype=np.int64)
        if len(wanted) == 0:
            return pd.DataFrame()
        shard_of = np.searchsorted(self._starts, wanted, side="right") - 1
        frames = []
        for shard in np.unique(shard_of):
            here = np.flatnonzero(shard_of == shard)
            frame = pd.read_parquet(self._metadata[shard])
            rows = frame.iloc[wanted[here] - self._starts[shard]]
            frames.append(rows.set_index(pd.Index(here)))
        joined: pd.DataFrame = pd.concat(frames).sort_index().reset_index(drop=True)
        return joined


def _mapped(path: Path) -> NDArray[np.floating]:
    try:
        array: NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise AuditError(f"{path} is damaged: {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise AuditError(f"{path} holds {array.dtype}{array.shape}, not a matrix of floats")
    return array
