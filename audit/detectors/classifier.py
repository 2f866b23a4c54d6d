"""A user's own image classifier as an instrument."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit

from audit.errors import AuditError

from .base import Batch
from .classifier_settings import Head, Settings, read
from .faces import Face, Faces, face_settings, faces_of, largest
from .models import ONNX, PICKLED, TORCHSCRIPT, Network, open_file, open_transformers

if TYPE_CHECKING:
    from audit.study import Study


class Classifier:
    """Probabilities of perceived attributes by a model that the user brings.

    Options (spec: ``detectors: {classifier: {model: …}}``):
        model: a file ``.onnx``; a TorchScript file ``.pt`` or ``.ts``, with ``allow_code: true``,
            for it is a program; a folder or Hub name of a transformers image-classification model
            with ``.safetensors``. Pickled models are not opened.
        attribute: for a transformers model: what its own labels are labels of, such as ``gender``.

    Settings stand in a YAML file beside a model file (``model.onnx``, ``model.yaml``), or with the
    options, which go first. The network of FairFace, of 7 + 2 + 9 scores, without perceived race::

        input: {size: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], colour: RGB}
        crop: face          # or picture
        margin: 0.25        # of the face's longer side, added on every side; black past the border
        softmax: true       # each head's scores are logits; false: they are probabilities
        sigmoid: false      # each score is a logit of its own; then a head may have one label
        heads:
          gender: {labels: [male, female], from: 7}
          age:
            labels: [0-2, 3-9, 10-19, 20-29, 30-39, 40-49, 50-59, 60-69, 70+]
            merged:          # into the suite's labels, with which CLIP's are compared
              {0-19: [0-2, 3-9, 10-19], 20-39: [20-29, 30-39], 40-59: [40-49, 50-59],
               60+: [60-69, 70+]}

    A transformers model that has one output, or says that it is multi-label, is read by sigmoid.
    A head without `from` begins where the one before it ends. If no head has it, together they
    must name every output; several outputs of a graph are read as one, one after another. A head is
    reported because it is named here: perceived race is, only if someone asks for it.

    Columns:
        <attribute>_<label>: probability; NaN with ``crop: face`` where the detector ``faces``
            counts no face. Of several faces the largest is seen.
    """

    name = "classifier"

    def __init__(self, study: Study) -> None:
        asked = _asked(study)
        if asked is None:
            raise AuditError(_MISSING)
        self.settings = asked.settings
        if asked.settings.input:
            self._network = open_file(asked.path, asked.settings.input, asked.allow_code)
        else:
            self._network = open_transformers(asked.model)
        self.heads = _heads(asked, self._network)
        if self._network.independent and "softmax" not in study.detector_options(self.name):
            self.settings = dataclasses.replace(asked.settings, softmax=False, sigmoid=True)

    @staticmethod
    def unavailable(study: Study) -> str | None:
        """Without a model there is nothing to ask."""
        asked = _asked(study)
        if asked is None:
            return _MISSING
        return Faces.unavailable(study) if asked.settings.crop == "face" else None

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        settings = dataclasses.asdict(self.settings)
        settings |= {"heads": [dataclasses.asdict(head) for head in self.heads]}
        faces = {"faces": face_settings()} if self.settings.crop == "face" else {}
        return {**self._network.identity, "settings": settings, **faces, "known_error": None}

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        if self.settings.crop == "picture":
            crops: list[Image.Image | None] = list(batch.images)
        else:
            crops = [
                face_crop(image, face, self.settings.margin) if (face := largest(faces)) else None
                for image, faces in zip(batch.images, faces_of(batch), strict=True)
            ]
        seen = [index for index, crop in enumerate(crops) if crop is not None]
        scores = np.full((len(batch), max(head.part.stop for head in self.heads)), math.nan)
        if seen:
            rows = self._network.scores([crop for crop in crops if crop is not None])
            scores[seen] = rows[:, : scores.shape[1]]
        columns: dict[str, Sequence[float]] = {}
        for head in self.heads:
            part = scores[:, head.part]
            if self.settings.sigmoid:
                part = expit(part)
            shares = probabilities(part, head.attribute, self.settings.softmax)
            for label, places in head.columns.items():
                columns[f"{head.attribute}_{label}"] = shares[:, places].sum(axis=1).tolist()
        return columns


_MISSING = "no model: name one in the spec, such as detectors: {classifier: {model: fairface.onnx}}"


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the spec says to the classifier."""

    model: str
    path: Path
    attribute: Any
    allow_code: bool
    settings: Settings


def _asked(study: Study) -> _Asked | None:
    options = dict(study.detector_options(Classifier.name))
    model, attribute = options.pop("model", None), options.pop("attribute", None)
    allow_code = options.pop("allow_code", False) is True
    if not model:
        return None
    path = Path(str(model)).expanduser()
    hub = not path.exists() and path.suffix not in (*ONNX, *TORCHSCRIPT, *PICKLED)
    if hub and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(model)):
        raise AuditError(f"classifier: no file or folder {model}, and no Hub name (owner/name)")
    if hub or path.is_dir():
        settings = read(None, options)
        if settings.input:
            raise AuditError(f"classifier: {model} says its input itself: leave 'input' away")
        return _Asked(str(model if hub else path), path, attribute, allow_code, settings)
    if not path.is_file():
        raise AuditError(f"classifier: no model file {path}")
    beside = next(filter(Path.is_file, map(path.with_suffix, (".yaml", ".yml"))), None)
    settings = read(beside, options)
    if not settings.input:
        raise AuditError(
            f"{beside or path.with_suffix('.yaml')}: no 'input': it says size, mean and std of "
            "the pixels that the model was trained with"
        )
    return _Asked(str(path), path, attribute, allow_code, settings)


def face_crop(image: Image.Image, face: Face, margin: float) -> Image.Image:
    """The square around a face, `margin` of its longer side added on every side."""
    half = max(face.width, face.height) * (0.5 + margin)
    x, y = face.x + face.width / 2, face.y + face.height / 2
    return image.crop((round(x - half), round(y - half), round(x + half), round(y + half)))


def probabilities(scores: NDArray[Any], attribute: str, softmax: bool) -> NDArray[np.float64]:
    """A head's raw scores, shape (n, labels), as probabilities; rows of NaN stay.

    Raises:
        AuditError: they are plainly not what `softmax` says they are.
    """
    known = scores[~np.isnan(scores).any(axis=1)]
    inside = bool(((known >= -1e-6) & (known <= 1 + 1e-6)).all())
    if softmax:
        if len(known) and inside and np.allclose(known.sum(axis=1), 1, atol=1e-4):
            raise AuditError(
                f"classifier: the scores of '{attribute}' are probabilities already: say "
                "'softmax: false'"
            )
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
    if not inside:
        raise AuditError(
            f"classifier: '{attribute}' has the score {float(known.flat[np.abs(known).argmax()]):g}"
            ", which is no probability: say 'softmax: true'"
        )
    return np.asarray(scores, float)


def _heads(asked: _Asked, network: Network) -> tuple[Head, ...]:
    """The heads, held against what the network gives for a black picture."""
    width = network.scores([Image.new("RGB", (64, 64))]).shape[1]
    heads = asked.settings.heads
    if not heads:
        if not network.labels:
            raise AuditError(
                f"classifier: {asked.model} does not name its {width} outputs: say 'heads', such "
                "as heads: {gender: [female, male]}"
            )
        if not isinstance(asked.attribute, str):
            raise AuditError(
                f"classifier: say which attribute '{network.labels[0]}' and the other labels of "
                f"{asked.model} are of, such as 'attribute: gender'"
            )
        heads = (Head(asked.attribute, network.labels, 0),)
    end = max(head.part.stop for head in heads)
    if end > width or (not asked.settings.placed and end < width):
        raise AuditError(
            f"classifier: the heads name {end} outputs and {asked.model} has {width}; a head that "
            "does not begin where the one before it ends says 'from'"
        )
    return heads
