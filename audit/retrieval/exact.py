"""Exact search: one streaming pass over the embeddings serves all queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .folder import EmbeddingFolder


@dataclass(frozen=True)
class Neighbours:
    """Attributes:
    ids: shape (queries, k), rows of the folder, best first.
    scores: shape (queries, k), cosine similarities, exact in fp32.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]


def search(
    folder: EmbeddingFolder, queries: NDArray[np.float32], k: int = 1, block: int = 65_536
) -> Neighbours:
    """The `k` nearest rows of each query by cosine similarity.

    Memory: one block and one block of scores, whatever the folder's size. Equal scores are
    ordered by id, so duplicates come in a fixed order.

    Args:
        queries: shape (n, d); they are normalised here.

    Raises:
        ValueError: the dimensions differ.
    """
    if queries.ndim != 2 or queries.shape[1] != folder.dimension:
        raise ValueError(f"queries {queries.shape} do not fit embeddings of {folder.dimension}")
    k = min(k, len(folder))
    unit = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    ids = np.zeros((len(unit), 0), dtype=np.int64)
    scores = np.zeros((len(unit), 0), dtype=np.float32)
    for start, rows in folder.blocks(block):
        found = unit @ rows.T
        here = np.broadcast_to(np.arange(start, start + len(rows)), found.shape)
        if found.shape[1] > k:
            best = _largest(found, k)
            found, here = (np.take_along_axis(a, best, axis=1) for a in (found, here))
        scores = np.concatenate([scores, found], axis=1)
        ids = np.concatenate([ids, here], axis=1)
        order = np.lexsort((ids, -scores), axis=1)[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        ids = np.take_along_axis(ids, order, axis=1)
    return Neighbours(ids, scores)


def _largest(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Columns of the k largest of each row; of equal scores at the edge, the first columns."""
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    edge = np.take_along_axis(scores, best, axis=1).min(axis=1, keepdims=True)
    for row in np.flatnonzero((scores >= edge).sum(axis=1) > k):
        candidates = np.flatnonzero(scores[row] >= edge[row])
        best[row] = candidates[np.argsort(-scores[row, candidates], kind="stable")[:k]]
    return best
