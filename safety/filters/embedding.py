"""The CLIP embedding that filters read: the detector `clip`'s own, computed once per batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audit.detectors.base import Batch
from audit.detectors.clip import Clip
from audit.suites import Suite

if TYPE_CHECKING:
    from audit.study import Study

Floats = NDArray[np.float32]


class Embedding:
    """CLIP for one filter.

    Args:
        study: the options ``model`` and ``pretrained`` of the detector `name`, or, without a
            model, those of ``clip``, whose embedding is then shared.
    """

    def __init__(self, study: Study, name: str) -> None:
        own = study.detector_options(name)
        chosen = own if own.get("model") else study.detector_options(Clip.name)
        chosen = {key: chosen[key] for key in ("model", "pretrained") if key in chosen}
        shared = chosen == {
            key: value
            for key, value in study.detector_options(Clip.name).items()
            if key in ("model", "pretrained")
        }
        self._key = Clip.name if shared else f"{Clip.name} {sorted(chosen.items())}"
        # Without the suite's vocabulary: only the embedding is wanted.
        bare = dataclasses.replace(
            study,
            suite=Suite(study.suite.name, "", {}),
            spec=dataclasses.replace(study.spec, detectors={Clip.name: chosen}),
        )
        self._clip = Clip(bare)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Which CLIP, with its weights' SHA-256."""
        described = dict(self._clip.describe())
        described.pop("vocabulary")
        described.pop("known_error")
        return described

    def unit(self, batch: Batch) -> Floats:
        """Unit vectors, shape (len(batch), d)."""
        return batch.share(self._key, lambda: self._clip.encode_images(batch.images))

    def raw(self, batch: Batch) -> Floats:
        """As the network gives them, for heads trained on these, shape (len(batch), d)."""
        key = f"{self._key} raw"
        return batch.share(key, lambda: self._clip.encode_images(batch.images, normalize=False))

    def texts(self, texts: Sequence[str]) -> Floats:
        """Unit embeddings of texts, shape (n, d)."""
        return self._clip.encode_texts(texts)
