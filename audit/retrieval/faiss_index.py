"""faiss indices as clip-retrieval and autofaiss write them.

``image.index`` (or ``text.index``) is one file, or a folder with ``populated.index`` and
``merged_index.ivfdata``. Both are memory-mapped. What such an index returns are candidates: their
scores are computed again from the full vectors, where these are at hand, and are approximate
otherwise.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.errors import AuditError

from .base import Neighbours
from .best import Best
from .exact import cosines, unit_queries
from .filters import Selection
from .folder import PARTS, EmbeddingFolder, Modality
from .metadata import MetadataFiles, one_line
from .remote import FAR

TILE = 256
"""Queries that are re-ranked at once: what bounds the memory of their candidates."""


class FaissIndex:
    """A faiss index, re-ranked by the full vectors.

    Args:
        path: the index file or folder.
        embeddings: the embedding folder it was built from; default: its own folder, where that has
            embeddings. An index of type Flat holds the full vectors itself.
        selection: which rows may be found; default: all.
        nprobe: lists of an IVF index that are searched; default: the index's own.
        candidates: of each query that are re-ranked; default: 10 k, at least 100.

    Raises:
        AuditError: the index cannot be read, or does not fit the embeddings or the metadata.
    """

    def __init__(
        self,
        path: Path,
        modality: Modality = "image",
        embeddings: Path | None = None,
        selection: Selection | None = None,
        nprobe: int | None = None,
        candidates: int | None = None,
        skip_damaged: bool = False,
    ) -> None:
        self.name, self.modality = str(path), modality
        self._index = read(path)
        self.dimension = int(self._index.d)
        self.exact = True
        home = path.parent
        self.folder: EmbeddingFolder | None = None
        if embeddings is None and (home / PARTS[modality]).is_dir():
            embeddings = home
        if embeddings is not None:
            self.folder = EmbeddingFolder(embeddings, modality, skip_damaged)
            self._check(f"the embeddings {embeddings}", len(self.folder))
            if self.folder.dimension != self.dimension:
                raise AuditError(
                    f"{path} holds {self.dimension}-d vectors and {embeddings} "
                    f"{self.folder.dimension}-d ones: it was built from others"
                )
        else:
            self.exact = _flat(self._index)
        self.files = self.folder.files if self.folder else MetadataFiles.of(home)
        if len(self.files):
            self._check(f"the metadata of {self.files.name}", len(self.files))
        self._left_out: Counter[str] = Counter()
        self._keep = self._mask(selection) if selection else None
        self._nprobe = nprobe
        if nprobe is not None and _ivf(self._index) is None:
            raise AuditError(f"{path} is not an IVF index: nprobe does not apply to it")
        self._candidates = candidates

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, queries: NDArray[np.float32], k: int) -> Neighbours:
        """See :class:`audit.retrieval.Index`. Not every true neighbour need be among them."""
        unit = unit_queries(queries, self.dimension, self.name)
        if k < 1:
            raise AuditError(f"k is {k}: at least one neighbour is to be asked for")
        parameters = self._parameters()
        if not self.exact:
            scores, ids = self._index.search(unit.astype(np.float32), k, params=parameters)
            return self._as_given(ids, self._cosine(scores))
        best = Best(len(unit), k)
        wanted = min(self._candidates or max(10 * k, 100), len(self))
        for start in range(0, len(unit), TILE):
            tile = unit[start : start + TILE]
            said, ids = self._index.search(
                tile.astype(np.float32), max(wanted, k), params=parameters
            )
            query, column = np.nonzero(ids >= 0)
            found = ids[query, column]
            rows, row = np.unique(found, return_inverse=True)
            scores = cosines(tile, self._full(rows), query, row)
            self._belongs(self._cosine(said[query, column]), scores)
            best.merge(query + start, found, scores)
        return best.neighbours(self._left_out)

    def _belongs(self, said: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        """Refuse full vectors of other rows than the index was built from."""
        error = np.abs(scores - said)[np.isfinite(scores) & np.isfinite(said)]
        unit = bool((np.abs(said[np.isfinite(said)]) < 1.5).all())  # else it holds no unit vectors
        if self.folder is not None and unit and len(error) and error.mean() > FAR:
            raise AuditError(
                f"the vectors in {self.folder.path} give other similarities than {self.name}, by "
                f"{error.mean():.2f} on average: it was built from others"
            )

    def _as_given(self, ids: NDArray[np.int64], scores: NDArray[np.float32]) -> Neighbours:
        """faiss's own rows and scores, equal scores by id."""
        wrong = (ids < 0) | np.isnan(scores)
        if wrong.any():
            ids, scores = np.where(wrong, -1, ids), np.where(wrong, np.float32(np.nan), scores)
        order = np.lexsort((ids, -scores))
        query = np.arange(len(ids))[:, None]
        return Neighbours(ids[query, order], scores[query, order], False, dict(self._left_out))

    def metadata(self, ids: Sequence[int]) -> pd.DataFrame:
        """See :class:`audit.retrieval.Index`."""
        if not len(self.files):
            raise AuditError(f"{self.name} has no metadata/*.parquet beside it")
        return self.files.rows(ids)

    def _full(self, ids: NDArray[np.int64]) -> NDArray[np.floating]:
        """The full vectors of some rows."""
        if self.folder is not None:
            return self.folder.vectors(ids)
        vectors: NDArray[np.float32] = self._index.reconstruct_batch(ids)
        return vectors

    def _cosine(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """A score as the cosine of unit vectors: faiss's L2 is squared."""
        import faiss

        if self._index.metric_type == faiss.METRIC_L2:
            return (1 - scores / 2).astype(np.float32)
        return scores

    def _mask(self, selection: Selection) -> NDArray[np.uint8]:
        """The rows that may be found, as a bitmap."""
        if not len(self.files):
            raise AuditError(f"{self.name} has no metadata/*.parquet beside it to filter by")
        keep = np.zeros(len(self), bool)
        for path, start in zip(self.files.files, self.files.starts, strict=False):
            part, counted = selection.mask(path, int(start))
            keep[start : start + len(part)] = part
            self._left_out.update(counted)
        return np.packbits(keep, bitorder="little")

    def _parameters(self) -> Any:
        """faiss's search parameters for nprobe and the rows that may be found."""
        import faiss

        if self._keep is None and self._nprobe is None:
            return None
        kinds: Any = faiss  # its stubs lack some of these
        chosen: dict[str, Any] = {}
        if self._keep is not None:
            chosen["sel"] = kinds.IDSelectorBitmap(self._keep)
        outer: Any = faiss.downcast_index(self._index)
        inner: Any = faiss.downcast_index(outer.index) if _transformed(outer) else outer
        parameters: Any
        if (ivf := _ivf(inner)) is not None:
            nprobe = self._nprobe or ivf.nprobe
            parameters = kinds.SearchParametersIVF(nprobe=nprobe, **chosen)
        elif isinstance(inner, faiss.IndexHNSW):
            parameters = kinds.SearchParametersHNSW(efSearch=inner.hnsw.efSearch, **chosen)
        else:
            parameters = kinds.SearchParameters(**chosen)
        if _transformed(outer):
            return kinds.SearchParametersPreTransform(index_params=parameters)
        return parameters

    def _check(self, what: str, rows: int) -> None:
        if rows != len(self):
            raise AuditError(
                f"{self.name} holds {len(self)} vectors and {what} {rows} rows: "
                "they do not belong together; build the index again"
            )


def read(path: Path) -> Any:
    """A faiss index, memory-mapped.

    faiss reads such lists ahead with 32 threads that each search starts anew, and once they are in
    memory these cost more than the search. So it does only where they would not fit there.

    Raises:
        AuditError: it cannot be read.
    """
    import faiss

    index = _mapped(path)
    lists = faiss.downcast_InvertedLists(ivf.invlists) if (ivf := _ivf(index)) else None
    if isinstance(lists, faiss.OnDiskInvertedLists) and lists.totsize < _memory() / 2:
        lists.prefetch_nthread = 0
    return index


def _mapped(path: Path) -> Any:
    import faiss

    populated = path / "populated.index"
    if path.is_dir() and not populated.is_file():
        raise AuditError(f"{path} is no faiss index: it has no populated.index")
    if not path.exists():
        raise AuditError(f"no faiss index '{path}'")
    try:
        if path.is_dir():
            with stdout_kept():
                return faiss.read_index(str(populated), faiss.IO_FLAG_ONDISK_SAME_DIR)
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except (RuntimeError, MemoryError) as error:
        raise AuditError(f"{path} is damaged or no faiss index: {one_line(error)}") from error


def _memory() -> int:
    """Bytes that this machine has; 0 where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


@contextmanager
def stdout_kept() -> Iterator[None]:
    """What faiss's C++ prints goes to stderr: stdout is the user's document."""
    flush = getattr(ctypes.CDLL(None), "fflush", None) if os.name == "posix" else None
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        if flush is not None:
            flush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _transformed(index: Any) -> bool:
    import faiss

    return isinstance(index, faiss.IndexPreTransform)


def _ivf(index: Any) -> Any:
    """The IVF index inside, or ``None``."""
    import faiss

    return faiss.try_extract_index_ivf(index)


def _flat(index: Any) -> bool:
    """Whether the index holds the full vectors, by their number."""
    import faiss

    return isinstance(faiss.downcast_index(index), faiss.IndexFlat)
