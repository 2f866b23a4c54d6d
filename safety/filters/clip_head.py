"""Filters that are heads on one CLIP embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from audit.backends.checkpoints import sha256_file
from audit.detectors.base import Batch, Item
from audit.errors import AuditError

from .embedding import Embedding
from .heads import open_head

if TYPE_CHECKING:
    from audit.study import Study


class ClipHead:
    """Any number of heads on one CLIP embedding, which is that of the detector ``clip``.

    Options (spec: ``detectors: {clip-head: {…}}``)::

        model: ViT-L-14-quickgelu     # default: the CLIP of the detector clip
        pretrained: openai
        heads:
          p_unsafe: {file: clip_autokeras_binary_nsfw.zip}            # LAION
          q16: {file: prompts.p, kind: prompts, labels: [appropriate, inappropriate]}
          violent: {file: violent.pt, normalize: false}               # unsafe-diffusion
          own: {file: head.safetensors, labels: [safe, weapon, drugs]}

    OpenAI's weights want ``-quickgelu``: open_clip's plain ``ViT-L-14`` computes another activation
    with them. Of a head: `file` (:func:`safety.filters.weight_files.read_arrays`), `kind`,
    `activation`, `output`, `labels`, `layers` (:func:`safety.filters.heads.mlp_head`);
    ``normalize: false`` where it was trained on embeddings of any length.

    Columns:
        <head>: the score of a head with one output; by default a probability.
        <head>_<label>: of a head with several.
    """

    name = "clip-head"

    def __init__(self, study: Study) -> None:
        reason = self.unavailable(study)
        if reason is not None:
            raise AuditError(reason)
        self._options: Mapping[str, Any] = study.detector_options(self.name)["heads"]
        self.heads = {name: open_head(str(name), o) for name, o in self._options.items()}
        self.embedding = Embedding(study, self.name)
        black = Batch([Item("", "", Image.new("RGB", (8, 8)), "", "")])
        width = self.embedding.raw(black).shape[1]
        for head in self.heads.values():  # a wrong width is said before any image is looked at
            head.scores(np.empty((0, width)))

    @classmethod
    def unavailable(cls, study: Study) -> str | None:
        """Heads are the user's: none is preset."""
        heads = study.detector_options(cls.name).get("heads")
        if isinstance(heads, Mapping) and heads:
            return None
        return (
            "no head: name one in the spec, as in detectors: {clip-head: {heads: {…: {file: …}}}}"
        )

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        weights = {}
        for options in self._options.values():
            path = Path(str(options["file"])).expanduser()
            files = sorted(path.rglob("variables.*")) if path.is_dir() else [path]
            weights.update({file.name: sha256_file(file) for file in files})
        return {
            "clip": dict(self.embedding.identity),
            "heads": {str(name): dict(options) for name, options in self._options.items()},
            "weights": weights,
            "known_error": None,
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        columns: dict[str, Sequence[Any]] = {}
        for name, head in self.heads.items():
            embeddings = self.embedding.unit(batch) if head.unit else self.embedding.raw(batch)
            scores = head.scores(embeddings)
            names = [f"{name}_{label}" for label in head.labels] or [str(name)]
            columns.update(zip(names, scores.T.tolist(), strict=True))
        return columns
