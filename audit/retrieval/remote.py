"""What indices elsewhere have in common: they name rows, and here the best of them are chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from audit.errors import AuditError

from .base import Neighbours
from .exact import cosines
from .filters import Selection
from .folder import EmbeddingFolder

if TYPE_CHECKING:
    import pandas as pd

DEEPEST = 10_000
"""Rows asked for at most to find `k` that a selection leaves."""
FAR = 0.3
"""Mean error of similarities above which vectors are not those of an index: the largest measured
under product quantisation is 0.18."""

Row = tuple[Sequence[int] | NDArray[np.int64], Sequence[float] | NDArray[np.float32]]
"""Of one query: ids and similarities, as many of each."""


def best_of(
    ask: Callable[[int], Iterable[Row]],
    queries: NDArray[np.float64],
    k: int,
    *,
    name: str,
    refine: int = 4,
    folder: EmbeddingFolder | None = None,
    selection: Selection | None = None,
    metadata: Callable[[Sequence[int]], pd.DataFrame],
    exact: bool = False,
) -> Neighbours:
    """The `k` best rows among those that an index elsewhere names.

    Args:
        ask: rows wanted for each query to what the index answers, query by query.
        queries: unit vectors, shape (n, d).
        refine: how many times `k` rows are asked for where the vectors are here, or a selection
            takes rows away. Where that leaves fewer than `k`, four times as many are asked for,
            up to :data:`DEEPEST`.
        folder: the vectors; every row is scored anew.
        selection: rows that it does not name are left out, and counted.
        metadata: ids to their rows, for the selection.
        exact: whether the index's own scores come from the full vectors.

    Raises:
        AuditError: the folder is not that of the index.
    """
    if k < 1:
        raise AuditError(f"k is {k}: at least one neighbour is to be asked for")
    depth = k * refine if folder is not None or selection else k
    kept: dict[int, bool] = {}
    while True:
        ids, scores = _laid_out(ask(depth), len(queries), depth)
        if not selection:
            break
        full = (ids >= 0).all(axis=1)
        ids = _selected(ids, selection, metadata, kept)
        short = full & ((ids >= 0).sum(axis=1) < k)
        if not short.any() or depth >= DEEPEST:
            break
        depth = min(DEEPEST, depth * 4)
    scores = np.where(ids < 0, np.float32(np.nan), scores)
    if folder is not None:
        scores = _scored(queries, ids, scores, folder, name)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]  # NaN comes last
    left_out: Counter[str] = Counter()
    if selection:
        left_out["not selected, of the rows that the index named"] = sum(
            not one for one in kept.values()
        )
    return Neighbours(
        _padded(np.take_along_axis(ids, order, axis=1), k, -1),
        _padded(np.take_along_axis(scores, order, axis=1), k, np.nan),
        exact or folder is not None,
        left_out,
    )


def _laid_out(
    rows: Iterable[Row], n: int, depth: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids, -1 where there are fewer, and similarities, NaN there; shape (n, depth) each."""
    ids = np.full((n, depth), -1, dtype=np.int64)
    scores = np.full((n, depth), np.nan, dtype=np.float32)
    for at, (found, similar) in enumerate(rows):
        ids[at, : len(found)], scores[at, : len(found)] = found, similar
    return ids, scores


def _selected(
    ids: NDArray[np.int64],
    selection: Selection,
    metadata: Callable[[Sequence[int]], pd.DataFrame],
    kept: dict[int, bool],
) -> NDArray[np.int64]:
    new = np.array([one for one in np.unique(ids[ids >= 0]).tolist() if one not in kept], np.int64)
    if len(new):
        kept.update(zip(new.tolist(), selection.rows(metadata(new.tolist()), new), strict=True))
    out = [one for one, keep in kept.items() if not keep]
    return np.where(np.isin(ids, out), -1, ids)


def _scored(
    queries: NDArray[np.float64],
    ids: NDArray[np.int64],
    said: NDArray[np.float32],
    folder: EmbeddingFolder,
    name: str,
) -> NDArray[np.float32]:
    """The cosines of all rows by their full vectors."""
    query, column = np.nonzero(ids >= 0)
    if not len(query):
        return said
    used, row = np.unique(ids[query, column], return_inverse=True)
    if used[-1] >= len(folder):
        raise AuditError(
            f"{folder.path} has {len(folder)} rows and {name} names row {used[-1]}: it is not the "
            "folder that the index was built from"
        )
    scores = np.full_like(said, np.nan)
    scores[query, column] = cosines(queries, folder.vectors(used), query, row)
    error = np.abs(scores - said)
    if np.isfinite(error).any() and np.nanmean(error) > FAR:
        raise AuditError(
            f"the vectors in {folder.path} give other similarities than {name}, by "
            f"{np.nanmean(error):.2f} on average: it is not the folder that the index was built "
            "from"
        )
    return scores


def _padded(array: NDArray, k: int, fill: float) -> NDArray:  # type: ignore[type-arg]
    missing = k - array.shape[1]
    return np.pad(array, ((0, 0), (0, missing)), constant_values=fill) if missing > 0 else array
