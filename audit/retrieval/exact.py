"""Exact search: one streaming pass over the embeddings serves all queries.

Candidates come from a fast product (:mod:`.products`), their scores from fp64, rounded to fp32. So
the answer is the same to the last bit on every machine, with any block size and number of threads.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from audit.errors import AuditError

from .base import Neighbours
from .best import Best
from .checkpoint import Checkpoint, digest
from .filters import Selection
from .folder import EmbeddingFolder, Shard
from .products import MANY, NumpyProduct, Product, best_product

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP = 2**18
"""Rows after which the work stands still for a checkpoint, at the end of a shard."""

Found = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], int]


class ExactIndex:
    """An embedding folder behind the interface of all indices; every score is exact.

    Args:
        selection: which rows are compared; default: all.
        device: ``auto``, ``cpu``, ``cuda`` …
        checkpoint: a file from which the same search goes on after a kill.
        progress: show rate and time left.
    """

    def __init__(
        self,
        folder: EmbeddingFolder,
        selection: Selection | None = None,
        device: str = "auto",
        checkpoint: Path | None = None,
        progress: bool = False,
    ) -> None:
        self.folder = folder
        self.name, self.dimension = str(folder.path), folder.dimension
        self.modality = folder.modality
        self._options: dict[str, Any] = {
            "selection": selection,
            "device": device,
            "checkpoint": checkpoint,
            "progress": progress,
        }

    def __len__(self) -> int:
        return len(self.folder)

    def search(self, queries: NDArray[np.float32], k: int) -> Neighbours:
        """See :class:`audit.retrieval.Index`."""
        return search(self.folder, queries, k, **self._options)

    def metadata(self, ids: Sequence[int]) -> pd.DataFrame:
        """See :class:`audit.retrieval.Index`."""
        return self.folder.metadata(ids)


def search(
    folder: EmbeddingFolder,
    queries: NDArray[np.floating],
    k: int = 1,
    *,
    selection: Selection | None = None,
    device: str = "auto",
    checkpoint: Path | None = None,
    progress: bool = False,
    product: Product | None = None,
) -> Neighbours:
    """The `k` nearest rows of each query by cosine similarity.

    Memory: a block and its scores for each core, whatever the folder's size. Equal scores are
    ordered by id. Rows that hold numbers that are not finite are left out and counted.

    Args:
        queries: shape (n, d), of any length.
        selection: which rows are compared; default: all.
        device: ``auto``, ``cpu``, ``cuda`` …
        checkpoint: where the state is kept after each shard; the same search goes on from it. It
            stays when the search is done.
        product: instead of the fastest here.

    Raises:
        AuditError: the dimensions differ, a query has no direction, a shard cannot be read, or
            the checkpoint belongs to another search.
    """
    exact = unit_queries(queries, folder.dimension, str(folder.path))
    if k < 1:
        raise AuditError(f"k is {k}: at least one neighbour is to be asked for")
    best = Best(len(exact), k)
    left_out: Counter[str] = Counter()
    groups = list(_groups(folder))
    state = None
    if checkpoint is not None:
        state = Checkpoint(checkpoint, digest(folder, exact, k, selection))
        groups = groups[state.load(best, left_out) :]
    if not groups or not len(exact):
        return best.neighbours(left_out)
    product = product or best_product(exact.astype(np.float32), len(folder), device)
    done = groups[0][0].start
    run = _Pass(folder, selection, exact, k, product)
    with (
        tqdm(
            total=len(folder),
            initial=done,
            desc="search",
            unit="row",
            unit_scale=True,
            file=sys.stderr,
            mininterval=0.5,
            disable=not progress,
        ) as bar,
        _single_threaded(product, len(folder) - done),
        ThreadPoolExecutor(product.workers) as pool,
    ):
        for group in groups:
            run.group(group, best, left_out, pool, bar.update)
            if state is not None:
                state.save(best, left_out)
    return best.neighbours(left_out)


def unit_queries(queries: NDArray[Any], dimension: int, name: str) -> NDArray[np.float64]:
    """Queries as unit vectors in fp64.

    Raises:
        AuditError: they do not fit an index of that dimension, or one has no direction.
    """
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise AuditError(
            f"queries of shape {queries.shape} do not fit {name}, which holds {dimension}-d "
            "embeddings: embed both with the same CLIP"
        )
    exact = queries.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(wrong):
        raise AuditError(f"query {wrong[0]} is zero or not finite: it has no direction")
    unit: NDArray[np.float64] = exact / norms
    return unit


def cosines(
    queries: NDArray[np.float64],
    rows: NDArray[np.floating],
    query: NDArray[np.int64],
    row: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Cosines of the pairs ``queries[query], rows[row]``, in fp64 and rounded to fp32.

    Args:
        queries: unit vectors, shape (n, d).
        rows: vectors of any length, shape (m, d).
    """
    scores = np.empty(len(query), np.float32)
    for start in range(0, len(query), 2048):
        part = slice(start, start + 2048)
        used, of = np.unique(row[part], return_inverse=True)
        vectors = rows[used].astype(np.float64)
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        dots = np.einsum("ij,ij->i", queries[query[part]], vectors[of])
        scores[part] = dots / np.maximum(norms, 1e-12)[of]
    return scores


class _Pass:
    """One pass over the rows."""

    def __init__(
        self,
        folder: EmbeddingFolder,
        selection: Selection | None,
        queries: NDArray[np.float64],
        k: int,
        product: Product,
    ) -> None:
        self.folder, self.selection, self.product = folder, selection, product
        self.queries, self.k = queries, k

    def group(
        self,
        shards: Sequence[Shard],
        best: Best,
        left_out: Counter[str],
        pool: ThreadPoolExecutor,
        advance: Callable[[int], Any],
    ) -> None:
        """Compare the rows of some shards, blocks side by side; their order does not matter."""
        waiting: deque[tuple[int, Future[Found]]] = deque()

        def take() -> None:
            count, future = waiting.popleft()
            query, ids, scores, damaged = future.result()
            best.merge(query, ids, scores)
            if damaged:
                left_out["not finite"] += damaged
            advance(count)

        try:
            for shard in shards:
                if shard.damage:
                    left_out[f"damaged: {shard.vectors.name}"] += shard.rows
                    advance(shard.rows)
                    continue
                keep = None
                if self.selection is not None:
                    keep, counted = self.selection.mask(shard.metadata, shard.start)
                    left_out.update(counted)
                for first in range(0, shard.rows, self.product.rows):
                    count = min(self.product.rows, shard.rows - first)
                    part = None if keep is None else np.flatnonzero(keep[first : first + count])
                    if part is not None and len(part) == 0:
                        advance(count)
                        continue
                    future = pool.submit(self._block, shard, first, count, part, best)
                    waiting.append((count, future))
                    if len(waiting) > 2 * self.product.workers:
                        take()
            while waiting:
                take()
        finally:
            for _, future in waiting:
                future.cancel()

    def _block(
        self, shard: Shard, first: int, count: int, part: NDArray[np.int64] | None, best: Best
    ) -> Found:
        rows = self.product.buffer(count, self.folder.dimension, np.dtype(shard.dtype))
        self.folder.read(shard, first, rows)
        chosen = rows if part is None or len(part) == count else rows[part]
        row, query, damaged = self.product.above(chosen, best.bar, self.k)
        if len(row) > MANY * self.k * len(self.queries):
            few = _first_copies(chosen, self.k)[row]
            row, query = row[few], query[few]
        scores = cosines(self.queries, chosen, query, row)
        ids = shard.start + first + (row if part is None else part[row])
        return query, ids, scores, damaged


def _first_copies(rows: NDArray[np.floating], k: int) -> NDArray[np.bool_]:
    """Which rows are among the first `k` copies of the same vector: later ones cannot be better."""
    whole: Any = np.ascontiguousarray(rows).view(np.dtype((np.void, rows[:1].nbytes)))
    _, copy_of = np.unique(whole.ravel(), return_inverse=True)
    order = np.argsort(copy_of, kind="stable")
    counts = np.bincount(copy_of)
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    first: NDArray[np.bool_] = rank < k
    return first


def _groups(folder: EmbeddingFolder) -> Iterator[list[Shard]]:
    """Shards in runs of at least GROUP rows."""
    group: list[Shard] = []
    for shard in folder.shards:
        group.append(shard)
        if sum(one.rows for one in group) >= GROUP:
            yield group
            group = []
    if group:
        yield group


def _single_threaded(product: Product, rows: int) -> AbstractContextManager[Any]:
    """One thread of BLAS for each block, where there are blocks enough for all cores."""
    if not isinstance(product, NumpyProduct) or rows < 2 * product.workers * product.rows:
        return nullcontext()
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits
