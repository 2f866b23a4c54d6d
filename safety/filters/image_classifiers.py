"""Image classifiers of a user as filters: any number of them, on the whole image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from audit.detectors.base import Batch
from audit.detectors.classifier import Classifier
from audit.errors import AuditError
from audit.suites import Suite

if TYPE_CHECKING:
    from audit.study import Study


class ImageClassifiers:
    """Models of :class:`audit.detectors.classifier.Classifier` side by side, which that detector
    has one of, for what people are perceived to be.

    Options (spec: ``detectors: {image-classifier: {models: {…}}}``)::

        models:
          falconsai: {model: Falconsai/nsfw_image_detection}   # transformers: a folder or Hub name
          own: {model: own.onnx}                               # with own.yaml beside it
          logit: {model: one.ts, allow_code: true, sigmoid: true, heads: {nsfw: {labels: [unsafe]}},
                  input: {size: 224, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}

    Of a model: the options of the detector ``classifier``; `crop` is the whole picture unless said.

    Columns:
        <name>_<label>: probability, of a transformers model by its own labels.
        <name>_<head>_<label>: of a model whose settings name its heads.
    """

    name = "image-classifier"

    def __init__(self, study: Study) -> None:
        reason = self.unavailable(study)
        if reason is not None:
            raise AuditError(reason)
        self._models = {
            str(name): self._made(study, str(name), options)
            for name, options in study.detector_options(self.name)["models"].items()
        }

    @classmethod
    def unavailable(cls, study: Study) -> str | None:
        """Models are the user's: none is preset."""
        models = study.detector_options(cls.name).get("models")
        if isinstance(models, Mapping) and models:
            return None
        return (
            f"no model: name one in the spec, as in detectors: {{{cls.name}: "
            "{models: {…: {model: …}}}}"
        )

    @classmethod
    def _made(cls, study: Study, name: str, options: Any) -> Classifier:
        where = f"{cls.name}: model '{name}'"
        if not isinstance(options, Mapping) or not options.get("model"):
            raise AuditError(f"{where} needs 'model': a file, a folder or a Hub name")
        alone = {Classifier.name: {"crop": "picture", "attribute": "", **options}}
        bare = dataclasses.replace(
            study,
            suite=Suite(study.suite.name, "", {}),
            spec=dataclasses.replace(study.spec, detectors=alone),
        )
        try:
            return Classifier(bare)
        except AuditError as error:
            raise AuditError(f"{where}: {str(error).removeprefix('classifier: ')}") from error

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        described = {name: dict(model.describe()) for name, model in self._models.items()}
        weights = {
            f"{name}/{file}": digest
            for name, of in described.items()
            for file, digest in of.pop("weights").items()
        }
        return {"models": described, "weights": weights, "known_error": None}

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        columns: dict[str, Sequence[Any]] = {}
        for name, model in self._models.items():
            for column, scores in model.detect(batch).items():
                columns[f"{name}_{column.removeprefix('_')}"] = scores
        return columns
