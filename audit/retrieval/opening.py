"""From what a user names to an index that can be searched."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audit.errors import AuditError

from .base import Index
from .card import read_card, refuse_legacy
from .filters import Selection
from .folder import PARTS, Modality
from .metadata import columns_of


def open_index(
    where: str | Path,
    *,
    modality: Modality = "image",
    filters: Sequence[str] = (),
    exclude: Path | None = None,
    allow_legacy_laion: bool = False,
    **options: Any,
) -> Index:
    """The index at `where`.

    ============================  ===========================================================
    folder with ``img_emb/``      exact search
    ``FILE.index``, or a folder   faiss
    with ``image.index``
    ``http(s)://HOST:PORT#NAME``  clip-retrieval server
    ``qdrant:PLACE#COLLECTION``   Qdrant, in a folder or a server
    ============================  ===========================================================

    Args:
        modality: the rows' images (``img_emb``, ``image.index``) or their texts; of the files
            ``image.index`` and ``text.index`` the name says it.
        filters: conditions on the metadata, all of which must hold, such as ``punsafe < 0.45``.
        exclude: a file of ids, URLs, md5s or sha256s that are left out, one a line.
        allow_legacy_laion: open an index of LAION data from before the cleaning of 2024.
        options: further ones of that kind of index.

    Raises:
        AuditError: there is no such index, or it is not to be opened, or an option is not of its
            kind.
    """
    place = str(where)
    if place.startswith(("http://", "https://")):
        from .client import ClipRetrievalServer

        _fit(options, ClipRetrievalServer, f"{place}, a server")
        server: Index = ClipRetrievalServer(
            place,
            modality=modality,
            filters=filters,
            exclude=exclude,
            allow_legacy_laion=allow_legacy_laion,
            **options,
        )
        return server
    if place.startswith("qdrant:"):
        from .qdrant import QdrantIndex

        _fit(options, QdrantIndex, f"{place}, a collection of Qdrant")
        collection: Index = QdrantIndex(
            place.removeprefix("qdrant:"),
            modality=modality,
            filters=filters,
            exclude=exclude,
            allow_legacy_laion=allow_legacy_laion,
            **options,
        )
        return collection
    path = Path(place).expanduser()
    selection = Selection(filters, exclude)
    if path.name == "image.index" and modality == "text":
        raise AuditError(f"{where} is an index of images: name text.index, or leave --text out")
    if path.name == "text.index":
        modality = "text"
    if path.suffix == ".index" or (
        (path / f"{modality}.index").exists() and not _has(path, modality)
    ):
        file = path if path.suffix == ".index" else path / f"{modality}.index"
        from .faiss_index import FaissIndex

        _fit(options, FaissIndex, f"{where}, a faiss index")
        if not file.exists():
            raise AuditError(f"no faiss index '{file}'")
        refuse_folder(file.parent, allow_legacy_laion, options.get("embeddings"))
        return FaissIndex(file, modality, selection=selection or None, **options)
    if _has(path, modality):
        from .exact import ExactIndex
        from .folder import EmbeddingFolder

        refuse_folder(path, allow_legacy_laion)
        skip = bool(options.pop("skip_damaged", False))
        _fit(options, ExactIndex, f"{where}, an embedding folder that is searched exactly")
        return ExactIndex(
            EmbeddingFolder(path, modality, skip), selection=selection or None, **options
        )
    if not path.exists():
        raise AuditError(f"no index '{where}': name a folder, a .index file, or a server's URL")
    raise AuditError(
        f"{where} is no index: it has neither {PARTS[modality]}/*.npy nor {modality}.index"
    )


def _fit(options: Mapping[str, Any], kind: type, said: str) -> None:
    """Refuse options that this kind of index does not have."""
    known = inspect.signature(kind).parameters
    for name in options:
        if name not in known:
            raise AuditError(f"'{name}' does not apply to {said}")


def _has(path: Path, modality: Modality) -> bool:
    return (path / PARTS[modality]).is_dir()


def refuse_folder(folder: Path, allowed: bool, embeddings: Path | None = None) -> None:
    """Refuse an index folder with LAION data from before its cleaning, unless it is allowed.

    Args:
        embeddings: whose metadata is looked at too.

    Raises:
        AuditError: with the reason and what to do.
    """
    dataset = read_card(folder).get("dataset")
    for place in {folder, embeddings or folder}:
        refuse_legacy(place.resolve().name, columns_of(place), dataset, allowed)
