"""A clip-retrieval server as an index.

Each request says everything that the protocol lets a server decide otherwise: no aesthetic shift
of the query, no deduplication (it hides the very copies that an audit counts), filters as asked.
A similarity that a server computed is approximate under product quantisation and says nothing of
its error, so its scores are ``exact=False`` unless the vectors are here and score its rows anew.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.backends.http import Limits
from audit.errors import AuditError

from .base import Neighbours
from .card import read_card, refuse_legacy
from .exact import unit_queries
from .filter_check import FilterCheck, check
from .filters import Selection
from .folder import EmbeddingFolder
from .protocol import (
    LONGEST_ID,
    FilterNotShown,
    Server,
    ServerAnswerInvalid,
    ServerRefused,
    nearest,
    rows,
)
from .remote import best_of

METADATA_ROWS = 200
"""Of one request: a server may put a picture beside each row."""
PROBES, PROBE_DEPTH = 16, 200
"""Queries, and rows of each, that show whether a filter is in force."""
WIDTHS = (512, 768, 1024, 640, 1280, 384, 256, 896, 1152, 1536, 2048, 4096, 64, 128, 32, 16)
"""Dimensions of CLIP models, those of the common ones first."""


class ClipRetrievalServer:
    """An index of a server that speaks clip-retrieval's protocol, ``http://HOST:PORT#NAME``.

    Args:
        where: its address and the name of an index; the name may be left out where there is one.
        modality: which of its indices: of the images or of the texts.
        embeddings: the embedding folder that the index was built from, where it is at hand: more
            rows are asked for, all are scored anew by their full vectors, and the best are kept.
        refine: how many times as many, then, and where rows are filtered here.
        filters, exclude: see :func:`audit.retrieval.open_index`; applied here, by the metadata.
        allow_legacy_laion: open an index that looks like LAION's of before its cleaning
            (:mod:`.card`); a server cannot declare what it holds, `embeddings` can.
        use_safety_model, use_violence_detector: ask the server to leave rows out by its own
            classifiers.
        unproven_filters: go on where nothing shows that such a filter is in force.
        concurrency: requests under way at once.
        retries: further attempts after an answer that may pass, or none.
        backoff_seconds: base of the exponential backoff.
        connect_timeout, read_timeout, total_timeout: in seconds, of one attempt.
        max_bytes: of one answer.
        insecure: allow plain http to another machine.

    Attributes:
        filter_check: what was seen of the server's filter; ``None`` before the first search, and
            where none was asked for.

    Raises:
        ServerUnreachable, ServerRefused, ServerAnswerInvalid: it gives no list of its indices.
        AuditError: the address cannot be used, or there is no such index.
    """

    def __init__(
        self,
        where: str,
        *,
        modality: Literal["image", "text"] = "image",
        embeddings: EmbeddingFolder | Path | None = None,
        refine: int = 4,
        filters: Sequence[str] = (),
        exclude: Path | None = None,
        allow_legacy_laion: bool = False,
        use_safety_model: bool = False,
        use_violence_detector: bool = False,
        unproven_filters: bool = False,
        concurrency: int = 4,
        retries: int = 4,
        backoff_seconds: float = 0.5,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        total_timeout: float = 120.0,
        max_bytes: int = 64 * 2**20,
        insecure: bool = False,
    ) -> None:
        address, _, name = where.partition("#")
        limits = Limits(connect_timeout, read_timeout, total_timeout, max_bytes)
        self._server = Server(address, limits, retries, backoff_seconds, concurrency, insecure)
        self._indice = self._named(name)
        self.name = f"{self._server.address}#{self._indice}"
        if isinstance(embeddings, str | Path):
            embeddings = EmbeddingFolder(Path(embeddings), modality)
        dataset = read_card(embeddings.path).get("dataset") if embeddings is not None else None
        refuse_legacy(self._indice, self._columns(), dataset, allow_legacy_laion)
        self.modality, self._folder, self._refine = modality, embeddings, refine
        self._selection = Selection(filters, exclude)
        self._filters = {
            "use_safety_model": use_safety_model,
            "use_violence_detector": use_violence_detector,
        }
        self._unproven = unproven_filters
        self.filter_check: FilterCheck | None = None

    def search(self, queries: NDArray[np.float32], k: int) -> Neighbours:
        """See :class:`audit.retrieval.Index`.

        Raises:
            FilterNotShown: a filter was asked for, and no answer lacks a row because of it.
            ServerUnreachable: no answer until the last attempt; the same call may succeed.
            ServerRefused, ServerAnswerInvalid: the server cannot be used so.
        """
        width = queries.shape[-1] if self._folder is None else self._folder.dimension
        exact = unit_queries(queries, width, self.name)
        unit = exact.astype(np.float32)
        if any(self._filters.values()) and self.filter_check is None and len(unit):
            self._check_filters(unit[:PROBES])

        def ask(depth: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
            answers = self._server.each(
                lambda query: self._ask(query, depth, self._filters), list(unit)
            )
            if self._folder is None:
                self._check_cosines([scores for _, scores in answers])
            return answers

        return best_of(
            ask,
            exact,
            k,
            name=self.name,
            refine=self._refine,
            folder=self._folder,
            selection=self._selection,
            metadata=self.metadata,
        )

    def metadata(self, ids: Sequence[int]) -> pd.DataFrame:
        """See :class:`audit.retrieval.Index`: of the folder where it is at hand, else the
        server's. A picture that the server adds is thrown away unread."""
        if self._folder is not None:
            return self._folder.metadata(ids)
        wanted = [int(one) for one in ids]
        if wrong := [one for one in wanted if not 0 <= one <= LONGEST_ID]:
            raise AuditError(f"{self.name} has no row {wrong[0]}")
        blocks = [wanted[i : i + METADATA_ROWS] for i in range(0, len(wanted), METADATA_ROWS)]
        return pd.DataFrame([row for part in self._server.each(self._rows, blocks) for row in part])

    @functools.cached_property
    def dimension(self) -> int:
        """Of the vectors. The protocol does not tell: the dimensions of CLIP models are tried.

        Raises:
            AuditError: none of them is answered.
        """
        if self._folder is not None:
            return self._folder.dimension
        for width in WIDTHS:
            query = np.full(width, width**-0.5, dtype=np.float32)
            try:
                self._ask(query, 1, {})
            except ServerRefused:
                continue
            return width
        raise AuditError(f"{self.name} answers queries of none of the dimensions {WIDTHS}")

    def __len__(self) -> int:
        """Rows whose metadata the server gives. The protocol does not tell: the last one is
        found by bisection."""
        return self._length

    @functools.cached_property
    def _length(self) -> int:
        if self._folder is not None:
            return len(self._folder)
        there, beyond = -1, 0
        while self._has(beyond):
            there, beyond = beyond, 2 * beyond + 1
            if beyond > LONGEST_ID:
                raise ServerAnswerInvalid(f"{self.name} gives metadata for every id there can be")
        while beyond - there > 1:
            middle = (there + beyond) // 2
            there, beyond = (middle, beyond) if self._has(middle) else (there, middle)
        return beyond

    def _columns(self) -> list[str]:
        try:
            return list(self._rows([0])[0])
        except ServerRefused:  # it has no rows, or no metadata
            return []

    def _has(self, row: int) -> bool:
        body = {"indice_name": self._indice, "ids": [row]}
        try:
            return bool(self._server.post("/metadata", body) != [])
        except ServerRefused:
            return False

    def _rows(self, ids: list[int]) -> list[dict[str, Any]]:
        document = self._server.post("/metadata", {"indice_name": self._indice, "ids": ids})
        return rows(document, ids, self.name)

    def _named(self, name: str) -> str:
        listed = self._server.get("/indices-list")
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ServerAnswerInvalid(f"{self._server.address} gives no list of names of indices")
        if name in listed or (not name and len(listed) == 1):
            return name or str(listed[0])
        wrong = f"has no index '{name}'" if name else "has several indices; put one behind '#'"
        raise AuditError(f"{self._server.address} {wrong}; there are: {', '.join(listed)[:300]}")

    def _ask(
        self, query: NDArray[np.float32], k: int, filters: dict[str, bool]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        body = {
            "embedding_input": query.tolist(),
            "modality": self.modality,
            "indice_name": self._indice,
            "num_images": 1,  # rows with metadata, maybe a picture each; some servers fail at 0
            "num_result_ids": k,
            "use_mclip": False,
            "deduplicate": False,
            "use_safety_model": False,
            "use_violence_detector": False,
            "aesthetic_score": "",
            "aesthetic_weight": "",
            **filters,
        }
        return nearest(self._server.post("/knn-service", body), k, self.name)

    def _check_filters(self, unit: NDArray[np.float32]) -> None:
        def ask(query: NDArray[np.float32], filtered: bool) -> Sequence[int]:
            found, _ = self._ask(query, PROBE_DEPTH, self._filters if filtered else {})
            return [int(one) for one in found]

        self.filter_check = found = check(ask, unit)
        if found.in_force or self._unproven:
            return
        self.filter_check = None  # another search brings other queries
        asked = " and ".join(name for name, on in self._filters.items() if on)
        raise FilterNotShown(
            f"{self.name} was asked for {asked}, which cannot be shown to be in force: {found} "
            "(a server that loaded no such filter ignores it in silence); start it with the "
            "filter, filter by metadata instead, or say unproven_filters (--unproven-filters)"
        )

    def _check_cosines(self, scores: Sequence[NDArray[np.float32]]) -> None:
        largest = max((float(np.abs(row).max(initial=0.0)) for row in scores), default=0.0)
        if largest > 1.5:  # quantisation alone brings some to 1.1
            raise ServerAnswerInvalid(
                f"{self.name} answers with similarities up to {largest:.3g}, which are no cosines: "
                "its vectors have not length 1; give their folder as embeddings="
            )
