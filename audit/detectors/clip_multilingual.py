"""A multilingual CLIP of the user: the image held against the very text that was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .base import Batch
from .clip import Clip

if TYPE_CHECKING:
    from audit.study import Study


class MultilingualClip(Clip):
    """A second opinion beside English CLIP, which reads no prompt but English ones.

    Options (spec: ``detectors: {clip-multilingual: {model: …, pretrained: …}}``): as of
    :class:`audit.detectors.clip.Clip`, such as ``model: xlm-roberta-base-ViT-B-32`` with
    ``pretrained: laion5b_s13b_b90k``. Without a model there is no such detector.

    Columns:
        alignment: cosine with the English text.
        asked_alignment: cosine with the prompt in its own language.
    """

    name = "clip-multilingual"

    @classmethod
    def unavailable(cls, study: Study) -> str | None:
        """It is the user's: none is preset."""
        if study.detector_options(cls.name).get("model"):
            return None
        return f"no multilingual CLIP is given (detectors: {{{cls.name}: {{model: …}}}})"

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        images = self.embed(batch)

        def cosines(texts: list[str]) -> list[float]:
            distinct = list(dict.fromkeys(texts))
            encoded = dict(zip(distinct, self.encode_texts(distinct), strict=True))
            both: NDArray[np.float32] = images * np.stack([encoded[text] for text in texts])
            return [float(value) for value in both.sum(axis=1)]

        return {
            "alignment": cosines([item.text for item in batch]),
            "asked_alignment": cosines([item.prompt for item in batch]),
        }

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """Its own embeddings: those of English CLIP are another space."""
        return batch.share(self.name, lambda: self.encode_images(batch.images))
