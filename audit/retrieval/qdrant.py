"""A Qdrant collection as an index: in a folder, or on a server or a cluster.

Rows keep their ids: a point's id is the row's place in the embedding folder it was loaded from.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from audit.backends.http import is_loopback
from audit.errors import AuditError, Incomplete

from .base import Neighbours
from .card import read_card, refuse_legacy
from .exact import unit_queries
from .filters import Selection
from .folder import EmbeddingFolder, Modality
from .remote import best_of

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import CollectionConfig

BATCH = 256
"""Points of one request, and queries."""


class QdrantIndex:
    """A collection of Qdrant, ``PLACE#COLLECTION``; PLACE is a folder or ``http(s)://HOST:PORT``.

    Its scores are exact where the collection is not quantised: Qdrant's graph chooses the rows and
    their full vectors score them, though it may miss a row.

    Args:
        where: the place and the collection.
        modality: what it holds; :func:`load` notes it.
        embeddings: the embedding folder that it was loaded from, where it is at hand: `refine`
            times as many rows are asked for and scored anew, and the best are kept.
        exhaustive: let Qdrant compare every row instead of going through its graph.
        filters, exclude: see :func:`audit.retrieval.open_index`.
        allow_legacy_laion: open a collection that looks like LAION's of before its cleaning
            (:mod:`.card`); :func:`load` takes along what the folder declares.
        api_key: of a server; default: the environment variable ``QDRANT_API_KEY``.
        timeout: seconds for one request.
        client: an open client, instead of one of its own.

    Raises:
        AuditError: there is no such collection, or qdrant-client is not installed.
    """

    def __init__(
        self,
        where: str,
        *,
        modality: Modality = "image",
        embeddings: EmbeddingFolder | Path | None = None,
        refine: int = 4,
        exhaustive: bool = False,
        filters: Sequence[str] = (),
        exclude: Path | None = None,
        allow_legacy_laion: bool = False,
        api_key: str | None = None,
        timeout: int = 60,
        client: QdrantClient | None = None,
    ) -> None:
        place, self._collection = _parts(where)
        self.name, self.modality = f"qdrant:{where}", modality
        if isinstance(embeddings, str | Path):
            embeddings = EmbeddingFolder(Path(embeddings), modality)
        self._folder, self._refine, self._exhaustive = embeddings, refine, exhaustive
        self._selection = Selection(filters, exclude)
        if client is None and not place.startswith(("http://", "https://")):
            _existing(place)
        self._client = client or _open(place, api_key, timeout)
        try:
            self._inspect(place, allow_legacy_laion)
        except BaseException:
            if client is None:
                self._client.close()  # its folder is locked until then
            raise

    def _inspect(self, place: str, allow_legacy_laion: bool) -> None:
        with _errors(self.name):
            if not self._client.collection_exists(self._collection):
                there = [one.name for one in self._client.get_collections().collections]
                raise AuditError(
                    f"{place} has no collection '{self._collection}'; there are: "
                    f"{', '.join(there) or 'none'}; load one with t2i-audit index load"
                )
            config = self._client.get_collection(self._collection).config
            points, _ = self._client.scroll(self._collection, limit=1)
        columns = list(points[0].payload or {}) if points else []
        declared = config.metadata or {}
        dataset, held = declared.get("dataset"), declared.get("modality", self.modality)
        if held != self.modality:
            raise AuditError(
                f"{self.name} holds embeddings of modality {held}, not {self.modality}"
            )
        refuse_legacy(self._collection, columns, dataset, allow_legacy_laion)
        params = config.params.vectors
        if params is None or isinstance(params, dict) or params.distance.value != "Cosine":
            raise AuditError(f"{self.name} does not hold one vector a point with cosine distance")
        self.dimension = int(params.size)
        self._exact = keeps_full_vectors(config)

    def __len__(self) -> int:
        with _errors(self.name):
            return int(self._client.count(self._collection, exact=True).count)

    def search(self, queries: NDArray[np.float32], k: int) -> Neighbours:
        """See :class:`audit.retrieval.Index`."""
        exact = unit_queries(queries, self.dimension, self.name)
        unit = exact.astype(np.float32)

        def ask(depth: int) -> Iterator[tuple[list[int], list[float]]]:
            for points in self._points(unit, depth):
                yield [point.id for point in points], [point.score for point in points]

        return best_of(
            ask,
            exact,
            k,
            name=self.name,
            refine=self._refine,
            folder=self._folder,
            selection=self._selection,
            metadata=self.metadata,
            exact=self._exact,
        )

    def metadata(self, ids: Sequence[int]) -> pd.DataFrame:
        """See :class:`audit.retrieval.Index`: the points' payloads."""
        wanted = [int(one) for one in ids]
        found: dict[Any, Any] = {}
        for start in range(0, len(wanted), BATCH):
            with _errors(self.name):
                points = self._client.retrieve(
                    self._collection, wanted[start : start + BATCH], with_payload=True
                )
            found.update((point.id, point.payload or {}) for point in points)
        if missing := [one for one in wanted if one not in found]:
            raise AuditError(f"{self.name} has no row {missing[0]}")
        return pd.DataFrame([found[one] for one in wanted])

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Unit vectors of the rows `ids`, shape (len(ids), dimension)."""
        with _errors(self.name):
            points = self._client.retrieve(
                self._collection, list(ids), with_payload=False, with_vectors=True
            )
        found = {point.id: point.vector for point in points}
        return np.array([found[one] for one in ids], dtype=np.float32)

    def close(self) -> None:
        """Let the folder go: another process may open it then."""
        self._client.close()

    def _points(self, unit: NDArray[np.float32], depth: int) -> Iterator[Any]:
        from qdrant_client import models

        params = models.SearchParams(exact=True) if self._exhaustive else None
        for start in range(0, len(unit), BATCH):
            requests = [
                models.QueryRequest(
                    query=query.tolist(), limit=depth, params=params, with_payload=False
                )
                for query in unit[start : start + BATCH]
            ]
            with _errors(self.name):
                answers = self._client.query_batch_points(self._collection, requests)
            yield from (answer.points for answer in answers)


def load(
    folder: EmbeddingFolder,
    where: str,
    *,
    api_key: str | None = None,
    timeout: int = 60,
    batch: int = BATCH,
    progress: bool = False,
    client: QdrantClient | None = None,
) -> tuple[int, int]:
    """Load an embedding folder into a collection, which is made if it is not there.

    Rows go in by their order, so a load that was interrupted goes on after the rows that are
    there. Columns of the metadata become the payload.

    Args:
        where: ``PLACE#COLLECTION``, as for :class:`QdrantIndex`.
        batch: rows of one request.

    Returns:
        Rows that were sent, and rows that were left out because they are zero or not finite.

    Raises:
        AuditError: a shard cannot be read, or the collection holds something else.
        Incomplete: the server cannot be reached; the same call goes on.
    """
    from qdrant_client import models

    place, collection = _parts(where)
    own, left_out = client is None, 0
    client = client or _open(place, api_key, timeout)
    try:
        with _errors(f"qdrant:{where}"):
            if not client.collection_exists(collection):
                client.create_collection(
                    collection,
                    vectors_config=models.VectorParams(
                        size=folder.dimension, distance=models.Distance.COSINE
                    ),
                    metadata=read_card(folder.path) | {"modality": folder.modality},
                )
            there = _done(client, collection, folder, where)
            done = there if there == len(folder) else there // batch * batch
            with tqdm(
                total=len(folder), initial=done, desc="load", unit="row", disable=not progress
            ) as bar:
                for start in range(done, len(folder), batch):
                    ids = range(start, min(start + batch, len(folder)))
                    vectors = folder.vectors(ids)
                    norms = np.linalg.norm(vectors, axis=1)
                    sound = np.isfinite(norms) & (norms > 0)
                    left_out += int((~sound).sum())
                    payloads = _payloads(folder.metadata(ids))
                    points = [
                        models.PointStruct(id=i, vector=vector.tolist(), payload=payload)
                        for i, vector, payload, good in zip(
                            ids, vectors, payloads, sound, strict=True
                        )
                        if good
                    ]
                    if points:
                        client.upsert(collection, points, wait=True)
                    bar.update(len(ids))
    finally:
        if own:
            client.close()
    return len(folder) - done - left_out, left_out


def keeps_full_vectors(config: CollectionConfig) -> bool:
    """Whether a collection scores rows by their full vectors."""
    params = config.params.vectors
    quantised = config.quantization_config or getattr(params, "quantization_config", None)
    return quantised is None and getattr(params, "datatype", None) in (None, "float32", "float16")


def _done(client: QdrantClient, collection: str, folder: EmbeddingFolder, where: str) -> int:
    """One more than the highest id in the collection, whose rows are checked to be the folder's.

    Not their number: rows that are zero or not finite are left out.
    """
    size = client.get_collection(collection).config.params.vectors
    wrong = f"qdrant:{where} holds other rows than {folder.path}: choose another collection"

    def first_from(row: int) -> Any:
        points, _ = client.scroll(collection, limit=1, offset=row, with_vectors=True)
        return points[0] if points else None

    if getattr(size, "size", None) != folder.dimension or first_from(len(folder)) is not None:
        raise AuditError(wrong)
    there, beyond = 0, len(folder)
    while there < beyond:
        middle = (there + beyond) // 2
        there, beyond = (there, middle) if first_from(middle) is None else (middle + 1, beyond)
    for point in map(first_from, sorted({0, there // 2, there - 1}) if there else []):
        ours = folder.vectors([int(point.id)])[0]
        cosine = float(np.dot(ours / np.linalg.norm(ours), np.asarray(point.vector)))
        if not cosine > 0.999:
            raise AuditError(wrong)
    return there


def _payloads(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: missing values are null, times are text."""
    text = frame.to_json(orient="records", date_format="iso", double_precision=15)
    rows: list[dict[str, Any]] = json.loads(text)
    return rows


def _parts(where: str) -> tuple[str, str]:
    place, _, collection = where.rpartition("#")
    if not place or not collection:
        raise AuditError(
            f"'{where}' is no place of Qdrant: write qdrant:FOLDER#COLLECTION or "
            "qdrant:http://HOST:6333#COLLECTION"
        )
    return place, collection


def _existing(place: str) -> None:
    if not Path(place).expanduser().is_dir():
        raise AuditError(f"no folder '{place}' of Qdrant")


def _open(place: str, api_key: str | None, timeout: int) -> QdrantClient:
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise AuditError("qdrant-client is missing: pip install 't2i-audit[qdrant]'") from error
    api_key = api_key or os.environ.get("QDRANT_API_KEY") or None
    with _errors(f"qdrant:{place}"):
        if place.startswith(("http://", "https://")):
            url = urlsplit(place)
            if api_key and url.scheme == "http" and not is_loopback(url.hostname or ""):
                raise AuditError(
                    f"{place} is another machine and would get the key unencrypted; use https"
                )
            return QdrantClient(
                url=place, api_key=api_key, timeout=timeout, check_compatibility=False
            )
        return QdrantClient(path=str(Path(place).expanduser()))


@contextlib.contextmanager
def _errors(name: str) -> Iterator[None]:
    """Qdrant's errors in one line."""
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException

    try:
        yield
    except AuditError:
        raise
    except ResponseHandlingException as error:
        raise Incomplete(f"no answer from {name} ({_line(error)}); try again") from error
    except json.JSONDecodeError as error:
        raise AuditError(f"{name} answers with no JSON: it is no server of Qdrant") from error
    except (ApiException, ValueError, RuntimeError, OSError) as error:
        raise AuditError(f"{name}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
