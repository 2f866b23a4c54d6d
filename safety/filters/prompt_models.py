"""Prompt filters that are models: text classification, and nearness to concepts in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audit.backends.checkpoints import weight_hashes
from audit.detectors.base import Batch
from audit.errors import AuditError
from audit.plugins import did_you_mean

from .clip_concepts import read_concepts

if TYPE_CHECKING:
    from audit.study import Study

MOST_KNOWN = 20_000
"""Prompts whose scores are kept: every seed of a prompt asks the same."""


class TextClassifier:
    """A text-classification model of transformers.

    Args:
        model: a folder, or a name of the Hub, with ``.safetensors``.
        label: whose probability :meth:`score` gives; default: the last of the model's labels.

    Raises:
        AuditError: it cannot be loaded, was not trained to classify, or has no such label.
    """

    def __init__(self, model: str, label: str | None = None) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils.hub import cached_file

        safe = {"trust_remote_code": False}
        try:
            network, loaded = AutoModelForSequenceClassification.from_pretrained(
                model, use_safetensors=True, output_loading_info=True, **safe
            )
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, **safe)
            self.folder = Path(str(cached_file(model, "config.json"))).parent
        except (OSError, ValueError, ImportError) as error:
            line = " ".join(str(error).split())[:200]
            raise AuditError(
                f"cannot load '{model}' as a text-classification model of transformers with "
                f".safetensors: {line}"
            ) from error
        if loaded["missing_keys"]:
            # transformers would fill them with random numbers.
            raise AuditError(
                f"'{model}' was not trained to classify texts: it has no weights for "
                f"{', '.join(sorted(loaded['missing_keys'])[:3])}"
            )
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network: Any = network.eval().to(self._device)
        config = network.config
        self.labels = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
        self._independent = (
            config.problem_type == "multi_label_classification" or len(self.labels) == 1
        )
        places = getattr(config, "max_position_embeddings", None) or 10**6
        self._room = min(int(self._tokenizer.model_max_length), int(places))
        if label is not None and label not in self.labels:
            raise AuditError(
                f"'{model}' has no label '{label}'{did_you_mean(label, self.labels)}; it has "
                f"{', '.join(self.labels)}"
            )
        self._label = self.labels.index(label) if label else len(self.labels) - 1
        self._known: dict[str, tuple[NDArray[np.float64], int]] = {}

    def probabilities(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
        """A probability per label, shape (n, labels), and how many tokens of each text did not fit.

        Each text is read alone, so its score does not depend on the others' lengths.
        """
        import torch

        for text in dict.fromkeys(texts):
            if text in self._known:
                continue
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            whole = self._tokenizer(text, truncation=False, verbose=False).input_ids
            given = self._tokenizer(
                text, truncation=True, max_length=self._room, return_tensors="pt", verbose=False
            ).to(self._device)
            with torch.inference_mode():
                logits = self._network(**given).logits[0].double()
                shares = torch.sigmoid(logits) if self._independent else logits.softmax(0)
            self._known[text] = shares.cpu().numpy(), max(0, len(whole) - self._room)
        found = [self._known[text] for text in texts]
        rows = np.stack([row for row, _ in found]) if found else np.empty((0, len(self.labels)))
        return rows, [cut for _, cut in found]

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The probability of the label, shape (n,)."""
        column: NDArray[np.float64] = self.probabilities(texts)[0][:, self._label]
        return column


class PromptClassifier:
    """A user's text classifier on each image's prompt.

    Options (spec: ``detectors: {prompt-classifier: {model: …}}``): `model`, a folder or Hub name of
    a transformers text-classification model with ``.safetensors``.

    Columns:
        <label>: probability, the label in lower case with ``_`` for what is no letter or digit.
        cut: tokens of the prompt that the model cannot take and did not see.
    """

    name = "prompt-classifier"
    sees_images = False

    def __init__(self, study: Study) -> None:
        reason = self.unavailable(study)
        if reason is not None:
            raise AuditError(reason)
        self._model = str(study.detector_options(self.name)["model"])
        try:
            self.classifier = TextClassifier(self._model)
        except AuditError as error:
            raise AuditError(f"{self.name}: {error}") from error
        self._columns = [
            re.sub(r"\W+", "_", label.lower()).strip("_") for label in self.classifier.labels
        ]
        if len(set(self._columns)) < len(self._columns) or "cut" in self._columns:
            raise AuditError(f"{self.name}: labels {self.classifier.labels} give equal columns")

    @classmethod
    def unavailable(cls, study: Study) -> str | None:
        """The model is the user's."""
        if study.detector_options(cls.name).get("model"):
            return None
        return f"no model: name one in the spec, as in detectors: {{{cls.name}: {{model: folder}}}}"

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        from importlib.metadata import version

        return {
            "model": self._model,
            "labels": list(self.classifier.labels),
            "transformers": version("transformers"),
            "weights": weight_hashes(self.classifier.folder),
            "known_error": None,
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`; the images are not looked at."""
        shares, cut = self.classifier.probabilities([item.prompt for item in batch])
        return {**dict(zip(self._columns, shares.T.tolist(), strict=True)), "cut": cut}


Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to embeddings, shape (n, d)."""


class ConceptNearness:
    """How near a prompt is to a concept in a space of text embeddings.

    The largest cosine with any of the concept's texts, minus the largest with any of those it is
    held against: all short texts are near each other in such spaces, so that a cosine alone has
    hardly any range. In a diffusion model's own encoder it says what the model is told, whatever
    the words (Liu et al. 2024, Latent Guard, use a trained such space).

    Args:
        encode: texts to embeddings, of any length.
        texts: that describe the concept.
        against: texts of the same form without it.
    """

    def __init__(self, encode: Encode, texts: Sequence[str], against: Sequence[str]) -> None:
        self._encode = encode
        self._concept, self._against = (_unit(encode(list(part))) for part in (texts, against))

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Shape (n,), in [−2, 2]; above 0 the concept is nearer than what it is held against."""
        distinct = list(dict.fromkeys(texts))
        given = _unit(self._encode(distinct))
        near = (given @ self._concept.T).max(axis=1) - (given @ self._against.T).max(axis=1)
        found = dict(zip(distinct, near, strict=True))
        return np.array([found[text] for text in texts], float)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    wide = np.asarray(vectors, np.float64)
    unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


class PromptConcepts:
    """Nearness of each image's prompt to a user's concepts.

    Options (spec: ``detectors: {prompt-concepts: {…}}``)::

        encoder: model        # the audited model's own text encoder; or clip: that of CLIP
        concepts:
          red_hexagon: {texts: [a red hexagon sign], against: [an orange hexagon sign, a sign]}

    With ``encoder: clip``, `model` and `pretrained` name another CLIP than the detector `clip`'s.

    Columns:
        <concept>: :class:`ConceptNearness`.
    """

    name = "prompt-concepts"
    sees_images = False

    def __init__(self, study: Study) -> None:
        reason = self.unavailable(study)
        if reason is not None:
            raise AuditError(reason)
        options = study.detector_options(self.name)
        self._concepts = read_concepts(self.name, options["concepts"])
        encode: Encode
        if options.get("encoder", "model") == "clip":
            from .embedding import Embedding

            clip = Embedding(study, self.name)
            encode, self._identity = clip.texts, {"clip": dict(clip.identity)}
        else:
            from audit.detectors.text_encoder import TextEncoderDetector

            own = TextEncoderDetector(study)
            first = own._encoders[0]
            self._identity = {"text_encoder": dict(own.describe())}

            def encode(texts: Sequence[str]) -> NDArray[np.float32]:
                return np.stack([first(text).embedding for text in texts])

        self._near = {
            name: ConceptNearness(encode, texts, against)
            for name, (texts, against) in self._concepts.items()
        }

    @classmethod
    def unavailable(cls, study: Study) -> str | None:
        """Concepts are the user's; the model's encoder must be on this disk."""
        options = study.detector_options(cls.name)
        if not options.get("concepts"):
            return (
                f"no concepts: name some in the spec, as in detectors: {{{cls.name}: "
                "{concepts: …}}"
            )
        encoder = options.get("encoder", "model")
        if encoder not in ("model", "clip"):
            raise AuditError(f"{cls.name}: encoder is model or clip, not {encoder!r}")
        if encoder == "clip":
            return None
        from audit.detectors.text_encoder import TextEncoderDetector

        return TextEncoderDetector.unavailable(study)

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        concepts = {
            name: {"texts": list(texts), "against": list(against)}
            for name, (texts, against) in self._concepts.items()
        }
        return {**self._identity, "concepts": concepts, "known_error": None}

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`; the images are not looked at."""
        prompts = [item.prompt for item in batch]
        return {name: near.score(prompts).tolist() for name, near in self._near.items()}
