"""The pictures that images are held against: their CLIP embeddings, from an index or a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit import suites
from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.statistics import Distance, cmmd, kid

from .apart import Apart, unit

KEYS: Mapping[str, str] = {
    "index": "a folder with img_emb and metadata of `t2i-audit index embed`, by the run's own CLIP",
    "match": "captions: only the rows whose caption is one of the prompts, of two images each",
    "images": "a folder of pictures",
    "most": "rows at most, an even sample of them; default 10000",
}
MOST = 10_000
NONE = "no reference set: name one, as in probes: {limitations: {photorealism: {reference: …}}}"


@dataclass(frozen=True)
class Reference:
    """Pictures to be held against.

    Attributes:
        embeddings: unit vectors, shape (m, d).
        name: how many, and of what.
        matched: they are those of the prompts themselves, which then are all there is and not a
            sample.
    """

    embeddings: NDArray[np.float64]
    name: str
    matched: bool = False

    @property
    def interval(self) -> str:
        """How a distance's interval is made, in words."""
        images = "images within prompts" if self.matched else "prompts"
        return f"jackknife over {images} and over reference pictures"


def open_reference(
    given: Mapping[str, Any], prompts: Sequence[str], apart: Apart, where: str
) -> Reference:
    """The reference set that a section declares; see :data:`KEYS`.

    Raises:
        AuditError: there is none, or it does not fit; one line for a finding.
    """
    if not given:
        raise AuditError(NONE)
    if not isinstance(given, Mapping):
        raise AuditError(f"{where}: reference is a mapping such as {{index: FOLDER}}")
    for key in given:
        if key not in KEYS:
            raise AuditError(f"{where}: unknown key 'reference.{key}'{did_you_mean(key, KEYS)}")
    if ("index" in given) == ("images" in given):
        raise AuditError(f"{where}: reference names either 'index' or 'images'")
    most = given.get("most", MOST)
    if isinstance(most, bool) or not isinstance(most, int) or most < 3:
        raise AuditError(f"{where}: reference.most is a whole number from 3, not {most!r}")
    if given.get("match") not in (None, "captions") or ("match" in given and "images" in given):
        raise AuditError(f"{where}: reference.match is 'captions', and of an index")
    if "images" in given:
        return _of_folder(Path(str(given["images"])).expanduser(), most, apart)
    return _of_index(str(given["index"]), "match" in given, prompts, most, apart)


def distances(
    embeddings: NDArray[np.floating], prompts: Sequence[str], reference: Reference
) -> dict[str, Distance]:
    """CMMD and KID of images to the reference; the prompts are clusters, or, of a matched
    reference, strata (:func:`audit.statistics.mmd`).

    KID's kernel is made for features of squared length d: unit vectors are scaled by √d.

    Args:
        embeddings: shape (n, d), unit vectors.
        prompts: of each image.
    """
    x, y = unit(embeddings), reference.embeddings
    if x.shape[1] != y.shape[1]:
        raise AuditError(
            f"the reference has embeddings of {y.shape[1]} numbers and the run's CLIP gives "
            f"{x.shape[1]}: embed it with the run's CLIP"
        )
    long = x.shape[1] ** 0.5
    by: dict[str, Any] = {"strata" if reference.matched else "clusters": list(prompts)}
    try:
        return {"cmmd": cmmd(x, y, **by), "kid": kid(x * long, y * long, **by)}
    except ValueError as error:  # as: a stratum needs two images
        raise AuditError(f"the distance cannot be computed: {error}") from error


def _of_index(name: str, match: bool, prompts: Sequence[str], most: int, apart: Apart) -> Reference:
    from audit.retrieval.card import read_card
    from audit.retrieval.folder import EmbeddingFolder

    shipped = suites.datasets() / name
    path = shipped if shipped.is_dir() else Path(name).expanduser()
    card = read_card(path)
    if (declared := card.get("embedded_with")) and (own := apart.clip_identity):
        for key in ("model", "weights"):
            if isinstance(declared, Mapping) and declared.get(key, own.get(key)) != own.get(key):
                raise AuditError(f"{path} was embedded by another CLIP than the run's")
    folder = EmbeddingFolder(path)
    ids = np.arange(len(folder), dtype=np.int64)
    if match:
        captions = folder.metadata(ids.tolist(), ["caption"])["caption"]
        ids = ids[captions.isin(list(prompts)).to_numpy()]
        if len(ids) < 3:
            raise AuditError(f"{path} has {len(ids)} rows whose caption is one of the prompts")
    vectors = folder.vectors(_even(ids, most)).astype(float)
    vectors = vectors[np.isfinite(vectors).all(axis=1)]
    said = ", of the same captions" if match else ""
    return Reference(unit(vectors), f"{len(vectors):,} pictures of {path.name}{said}", match)


def _of_folder(path: Path, most: int, apart: Apart) -> Reference:
    frame = apart.embedded(path, most)
    rows = np.stack(frame["embedding"].to_list())
    return Reference(unit(rows), f"{len(rows):,} pictures of {path.name}")


def _even(ids: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    if len(ids) <= most:
        return ids
    chosen: NDArray[np.int64] = ids[np.linspace(0, len(ids) - 1, most).round().astype(int)]
    return chosen
