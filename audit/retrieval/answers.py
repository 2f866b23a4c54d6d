"""Answers of our server to batches of requests for one index."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .asked import Wanted
from .base import Index
from .rows import Rows, as_json

NEARLY_EQUAL = 0.94
"""Cosine similarity above which clip-retrieval calls two rows duplicates."""
UNSAFE = 0.5
"""``punsafe`` above which clip-retrieval's safety model calls a row unsafe."""


@dataclass
class _Found:
    """Rows of one answer, best first."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]

    def only(self, keep: NDArray[np.bool_]) -> _Found:
        return _Found(self.ids[keep], self.scores[keep])


class Answerer:
    """One index, and a CLIP model that is loaded when it is first needed.

    Args:
        index: any of ours.
        encode: texts and pictures to unit vectors; ``None``: such questions do not come here.
    """

    def __init__(
        self, index: Index, encode: Callable[[Sequence[Any]], NDArray[np.float32]] | None = None
    ) -> None:
        self.index, self._encode = index, encode
        self._rows = Rows(index)
        columns = self._rows.documents([0])[0] if len(index) else {}
        self.says_unsafe = "punsafe" in columns or "NSFW" in columns
        self._vectors_of = getattr(index, "vectors", None)
        if self._vectors_of is None:
            self._vectors_of = getattr(getattr(index, "folder", None), "vectors", None)
        self.knows_vectors = self._vectors_of is not None

    def answers(self, questions: Sequence[Wanted]) -> list[bytes]:
        """The JSON for each question; one search for all that want as many rows."""
        vectors = self._vectors(questions)
        groups = defaultdict(list)
        for number, question in enumerate(questions):
            groups[question.rows].append(number)
        found: dict[int, _Found] = {}
        for rows, numbers in groups.items():
            near = self.index.search(vectors[numbers], rows)
            for number, ids, scores in zip(numbers, near.ids, near.scores, strict=True):
                found[number] = _Found(ids, scores).only(ids >= 0)
        for number, question in enumerate(questions):
            if question.safe and len(found[number].ids):
                found[number] = found[number].only(self._is_safe(found[number].ids))
            if question.deduplicate and len(found[number].ids):
                found[number] = found[number].only(self._is_first(found[number].ids))
        told = [found[n].ids[: question.with_metadata] for n, question in enumerate(questions)]
        documents = iter(self._rows.documents(np.concatenate(told).tolist()))
        return [
            as_json(_rows(found[number], [next(documents) for _ in shown]))
            for number, shown in enumerate(told)
        ]

    def metadata(self, ids: Sequence[int]) -> bytes:
        """The JSON answer of ``/metadata``."""
        rows = zip(ids, self._rows.documents(ids), strict=True)
        return as_json([{"id": i, "metadata": row} for i, row in rows])

    def _vectors(self, questions: Sequence[Wanted]) -> NDArray[np.float32]:
        asked = [question for question in questions if question.embedding is None]
        encoded = iter(self._encode([q.text or q.image for q in asked]) if self._encode else ())
        return np.stack([next(encoded) if q.embedding is None else q.embedding for q in questions])

    def _is_safe(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Rows whose metadata calls them safe; what it says nothing of is not called so."""
        return np.array([_safe(row) for row in self._rows.documents(ids.tolist())], dtype=bool)

    def _is_first(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Rows that are connected with no earlier one through pairs nearly equal."""
        from scipy.sparse.csgraph import connected_components

        assert self._vectors_of is not None  # else such questions do not come here
        vectors = self._vectors_of(ids.tolist())
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        _, group = connected_components(unit @ unit.T > NEARLY_EQUAL, directed=False)
        first = np.zeros(len(ids), dtype=bool)
        first[np.unique(group, return_index=True)[1]] = True
        return first


def _safe(row: Mapping[str, Any]) -> bool:
    if "punsafe" in row:
        return row["punsafe"] is not None and row["punsafe"] <= UNSAFE
    return bool(row["NSFW"] == "UNLIKELY")


def _rows(found: _Found, documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The answer's rows, the first ones with their metadata.

    A column of the metadata that is called id or similarity loses.
    """
    pairs: Any = zip_longest(documents, found.ids.tolist(), found.scores.tolist(), fillvalue={})
    return [{**document, "id": i, "similarity": score} for document, i, score in pairs]
