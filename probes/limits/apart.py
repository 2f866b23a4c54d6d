"""What is measured beside the run's images: captions, our drawings, a user's pictures.

It is kept as tables of the probe, with a key of all that it depends on, so an analysis that is run
again, or elsewhere, loads no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from audit import plugins
from audit.detectors.base import unavailable
from audit.detectors.caption_judge import CaptionJudge
from audit.errors import AuditError
from audit.store import Run, column_safe
from audit.study import Study

CHUNK = 64


class Apart:
    """The instruments of a run, loaded when something new is to be measured.

    Attributes:
        tables: what was measured or read again; the probe hands them to its analysis.
    """

    def __init__(self, run: Run, study: Study, probe: str) -> None:
        self.run, self.study, self.probe = run, study, probe
        self.tables: dict[str, pd.DataFrame] = {}
        self._status: Mapping[str, Any] = run.read_json("detectors.json")

    def measured(
        self, name: str, depends: Any, compute: Callable[[], pd.DataFrame]
    ) -> pd.DataFrame:
        """A table: the run's own, where it was measured with exactly this; else computed now.

        Args:
            depends: JSON-ready: instruments and what they were shown.
        """
        text = json.dumps(depends, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        kept = self.kept(name)
        if kept.empty or "key" not in kept or not (kept["key"] == key).all():
            kept = compute().assign(key=key)
        self.tables[name] = kept
        return kept

    def kept(self, name: str) -> pd.DataFrame:
        """A table as the run holds it; empty where it has none."""
        return self.run.read_table(f"tables/{column_safe(self.probe)}.{name}")

    def why_not(self, detector: str) -> str | None:
        """Why an instrument cannot serve, or ``None``: as the run says, else as it would be."""
        about = self._status.get(detector)
        if about is not None:
            reason = about.get("unavailable")
            return None if reason is None else str(reason)
        return unavailable(plugins.load("detectors", detector), self.study)

    def identity(self, detector: str) -> Mapping[str, Any]:
        """What one of the run's detectors says of itself, without its vocabulary."""
        about = self._status.get(detector) or {}
        return {key: value for key, value in about.items() if key != "vocabulary"}

    @property
    def clip_identity(self) -> Mapping[str, Any]:
        """:meth:`identity` of the run's CLIP."""
        return self.identity("clip")

    @cached_property
    def clip(self) -> Any:
        """The run's CLIP.

        Raises:
            AuditError: it cannot serve.
        """
        if (reason := self.why_not("clip")) is not None:
            raise AuditError(reason)
        from audit.detectors.clip import Clip

        return Clip(self.study)

    @cached_property
    def judge(self) -> CaptionJudge:
        """The user's judge of captions.

        Raises:
            AuditError: none is named, or it cannot be used.
        """
        return CaptionJudge(self.study)

    def captions(self, texts: Sequence[str]) -> Mapping[str, NDArray[np.float64]]:
        """Unit embeddings of texts."""
        wanted = list(dict.fromkeys(texts))

        def compute() -> pd.DataFrame:
            return pd.DataFrame(
                {"caption": wanted, "embedding": self.clip.encode_texts(wanted).tolist()}
            )

        frame = self.measured("captions", [self.clip_identity, wanted], compute)
        rows = unit(np.stack(frame["embedding"].to_list()))
        return dict(zip(frame["caption"], rows, strict=True))

    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float64]:
        """Unit embeddings of pictures, shape (n, d)."""
        parts = [
            self.clip.encode_images(images[start : start + CHUNK])
            for start in range(0, len(images), CHUNK)
        ]
        return unit(np.concatenate(parts))

    def embedded(self, folder: Path, most: int) -> pd.DataFrame:
        """The table ``reference``: file and embedding of a folder's pictures."""
        files = sampled(folder, most)

        def compute() -> pd.DataFrame:
            rows: list[dict[str, Any]] = []
            for start in range(0, len(files), CHUNK):
                opened = list(pictures(files[start : start + CHUNK]))
                found = self.embed([image for _, image in opened])
                rows += [
                    {"file": path.name, "embedding": row.tolist()}
                    for (path, _), row in zip(opened, found, strict=True)
                ]
            return pd.DataFrame(rows)

        return self.measured("reference", [self.clip_identity, stamps(files)], compute)


def unit(rows: ArrayLike) -> NDArray[np.float64]:
    """Rows divided by their length."""
    array = np.asarray(rows, float)
    lengths: NDArray[np.float64] = np.linalg.norm(array, axis=1, keepdims=True)
    return array / lengths


def picture_files(folder: Path) -> list[Path]:
    """The PNG, JPEG and WebP files of a folder, by name.

    Raises:
        AuditError: there are none.
    """
    from audit.retrieval.images import IMAGES

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if not files:
        raise AuditError(f"{folder} holds no PNG, JPEG or WebP picture")
    return files


def sampled(folder: Path, most: int) -> list[Path]:
    """The pictures of a folder, or `most` of them, evenly taken.

    Raises:
        AuditError: there are none.
    """
    files = picture_files(folder)
    places = np.linspace(0, len(files) - 1, min(most, len(files))).astype(int)
    return [files[place] for place in places]


def stamps(files: Sequence[Path]) -> list[tuple[str, int]]:
    """Names and sizes, which tell one set of files from another."""
    return [(path.name, path.stat().st_size) for path in files]


def pictures(files: Sequence[Path]) -> Iterator[tuple[Path, Image.Image]]:
    """Pictures within the limits of :mod:`audit.backends.pictures`.

    Raises:
        AuditError: one cannot be read.
    """
    from audit.backends.pictures import decode, size_of

    for path in files:
        try:
            size_of(path)
            yield path, decode(path.read_bytes())
        except (OSError, ValueError) as error:
            raise AuditError(f"{path}: {error}") from error
