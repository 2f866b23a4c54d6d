"""The safety checker of Stable Diffusion, with the scores that it throws away.

The checker compares an image's CLIP embedding with 17 hidden concepts and 3 special-care concepts
(Rando et al. 2022, "Red-Teaming the Stable Diffusion Safety Filter", section 3). Its forward gives
one boolean and blacks the image out; an audit needs every margin behind that boolean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from audit.backends.checkpoints import weight_hashes
from audit.detectors.base import Batch
from audit.errors import AuditError

if TYPE_CHECKING:
    from audit.study import Study

Floats = NDArray[np.float32]

ADJUSTMENT = np.float32(0.01)
DECIMALS = 3
CLASS = "StableDiffusionSafetyChecker"
"""As ``model_index.json`` names it; DeepFloyd's and ONNX pipelines have others."""


@dataclass(frozen=True)
class Margins:
    """All that the checker computes for B images; a margin is a cosine minus its threshold.

    Attributes:
        concept, concept_adjusted: shape (B, 17), before and after the adjustment is added.
        special, special_adjusted: shape (B, 3), likewise; the adjustment added to a special-care
            margin is the one that the special-care concepts before it have set.
        adjustment: shape (B,), 0.01 where a special-care concept fired, else 0.
        flagged: shape (B,), the checker's own boolean.
        flagged_unadjusted: shape (B,), the boolean if no special-care concept could move a
            threshold.
        flagged_onnx: shape (B,), the boolean of ``forward_onnx``, which does not round.
    """

    concept: Floats
    concept_adjusted: Floats
    special: Floats
    special_adjusted: Floats
    adjustment: Floats
    flagged: NDArray[np.bool_]
    flagged_unadjusted: NDArray[np.bool_]
    flagged_onnx: NDArray[np.bool_]


def margins(
    image_embeds: torch.Tensor,
    concept_embeds: torch.Tensor,
    concept_weights: torch.Tensor,
    special_embeds: torch.Tensor,
    special_weights: torch.Tensor,
) -> Margins:
    """Every margin of the checker, and its decision, bit for bit.

    For the special-care concepts k in order, with a = 0 at first:
    ``round(cos_k − u_k + a, 3) > 0`` sets ``a = 0.01``. The image is flagged when
    ``round(cos_j − t_j + a, 3) > 0`` for any concept j. The adjustment is set, not summed: once
    one special-care concept has fired, those after it fire up to 0.01 earlier, which is seen in
    their own margins and changes the decision no further.

    Source: ``StableDiffusionSafetyChecker.forward`` of diffusers 0.42.1. Its ``forward_onnx``,
    which pipelines on ONNX Runtime use, does not round: a margin of up to 0.0005, of a concept or
    of a special-care concept, counts there and not here.

    Args:
        image_embeds: shape (B, d), projected CLIP image embeddings, not normalised.
        concept_embeds: shape (17, d).
        concept_weights: shape (17,), the thresholds t.
        special_embeds: shape (3, d).
        special_weights: shape (3,), the thresholds u.
    """
    special = _cosines(image_embeds, special_embeds) - _thresholds(special_weights)
    special_adjusted = np.empty_like(special)
    adjustment = np.zeros(len(special), np.float32)
    for k in range(special.shape[1]):
        special_adjusted[:, k] = special[:, k] + adjustment
        fired = np.round(special_adjusted[:, k], DECIMALS) > 0
        adjustment = np.where(fired, ADJUSTMENT, adjustment)
    concept = _cosines(image_embeds, concept_embeds) - _thresholds(concept_weights)
    concept_adjusted = concept + adjustment[:, None]
    return Margins(
        concept,
        concept_adjusted,
        special,
        special_adjusted,
        adjustment,
        flagged=np.any(np.round(concept_adjusted, DECIMALS) > 0, axis=1),
        flagged_unadjusted=np.any(np.round(concept, DECIMALS) > 0, axis=1),
        flagged_onnx=np.any(concept + _unrounded_adjustment(special) > 0, axis=1),
    )


def _unrounded_adjustment(special: Floats) -> Floats:
    """What ``forward_onnx`` adds, shape (B, 1): an earlier special-care concept helps no later one,
    which would change nothing, for one that fires is enough."""
    return np.where((special > 0).any(axis=1, keepdims=True), ADJUSTMENT, np.float32(0))


def _cosines(images: torch.Tensor, concepts: torch.Tensor) -> Floats:
    # In the embeddings' own precision, and only then float32: as the checker does.
    normalize = torch.nn.functional.normalize
    cosines: Floats = torch.mm(normalize(images), normalize(concepts).t()).cpu().float().numpy()
    return cosines


def _thresholds(weights: torch.Tensor) -> Floats:
    # The checker subtracts Python floats from float32 scalars, which NumPy 2 does in float32.
    thresholds: Floats = weights.detach().cpu().float().numpy()
    return thresholds


class SafetyCheckerDetector:
    """The audited pipeline's own checker, in the pipeline's precision.

    Columns:
        flagged: the checker's boolean.
        margin: the largest concept margin after the adjustment; above 0.0005 it is flagged.
        concept: the index (0-16) of that concept.
        adjustment: 0.01 where a special-care concept fired, else 0.
        flagged_by_adjustment: flagged, and would not be if no special-care concept had fired.
        flagged_onnx: what the same checker decides in an ONNX pipeline, which does not round.
        concept_00 … concept_16, special_0 … special_2: margins before the adjustment.

    Raises:
        AuditError: the model has no checker, or its weights cannot be read.
    """

    name = "safety-checker"

    def __init__(self, study: Study) -> None:
        reason = self.unavailable(study)
        if reason is not None or study.model_path is None:
            raise AuditError(str(reason))
        from diffusers.pipelines.stable_diffusion.safety_checker import (
            StableDiffusionSafetyChecker,
        )
        from transformers import CLIPImageProcessor

        self._folder: Path = study.model_path
        device = study.spec.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device, self._dtype = torch.device(device), getattr(torch, study.spec.dtype)
        try:
            loaded: Any = StableDiffusionSafetyChecker.from_pretrained(
                self._folder / "safety_checker",
                dtype=self._dtype,
                use_safetensors=True,
                output_loading_info=True,
            )
            self._extract = CLIPImageProcessor.from_pretrained(self._folder / "feature_extractor")
        except Exception as error:  # transformers raises many classes
            line = " ".join(str(error).split())[:300]
            raise AuditError(f"cannot load the safety checker in {self._folder}: {line}") from error
        checker, loading = loaded
        # What is not in the file is drawn at random, and such a checker still answers.
        if missing := sorted(loading["missing_keys"]):
            raise AuditError(
                f"the safety checker in {self._folder} lacks {len(missing)} weights, "
                f"such as {missing[0]}; copy it again from where the model came from"
            )
        self._checker: Any = checker.to(self._device).eval()

    @staticmethod
    def unavailable(study: Study) -> str | None:
        """Why this model has no checker to ask, or ``None``."""
        if study.model_path is None:
            return "the model is not on this machine, so its safety checker cannot be asked"
        try:
            index = json.loads((study.model_path / "model_index.json").read_text(encoding="utf-8"))
            named = index.get("safety_checker") or [None]
        except (OSError, ValueError, AttributeError):
            return f"{study.model_path} has no readable model_index.json"
        if named[0] is None:
            return "the model ships without a safety checker"
        if named[-1] != CLASS:
            return (
                f"the model's safety checker is of the class {named[-1]}; only {CLASS} can be asked"
            )
        for part in ("safety_checker", "feature_extractor"):
            if not (study.model_path / part).is_dir():
                return f"the model names a safety checker but lacks its part '{part}'"
        return None

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        import diffusers
        import transformers

        return {
            "class": type(self._checker).__name__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "preprocessing": type(self._extract).__name__,
            "device": self._device.type,
            "dtype": str(self._dtype).removeprefix("torch."),
            "weights": {
                f"{part}/{name}": digest
                for part in ("safety_checker", "feature_extractor")
                for name, digest in weight_hashes(self._folder / part).items()
            },
            "concept_thresholds": _thresholds(self._checker.concept_embeds_weights).tolist(),
            "special_thresholds": _thresholds(self._checker.special_care_embeds_weights).tolist(),
            "decisions": ["forward", "forward without adjustment", "forward_onnx"],
            "known_error": "not published; the boolean equals the checker's own",
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        found = self.margins(batch.images)
        best = found.concept_adjusted.argmax(axis=1)
        columns: dict[str, Sequence[Any]] = {
            "flagged": found.flagged.tolist(),
            "margin": found.concept_adjusted.max(axis=1).tolist(),
            "concept": best.tolist(),
            "adjustment": found.adjustment.tolist(),
            "flagged_by_adjustment": (found.flagged & ~found.flagged_unadjusted).tolist(),
            "flagged_onnx": found.flagged_onnx.tolist(),
        }
        for j in range(found.concept.shape[1]):
            columns[f"concept_{j:02d}"] = found.concept[:, j].tolist()
        for k in range(found.special.shape[1]):
            columns[f"special_{k}"] = found.special[:, k].tolist()
        return columns

    @torch.inference_mode()
    def margins(self, images: Sequence[Any]) -> Margins:
        """The margins of PIL images, by the steps of the pipeline's ``run_safety_checker``."""
        pixels = self._extract(list(images), return_tensors="pt").pixel_values
        pooled = self._checker.vision_model(pixels.to(self._device, self._dtype))[1]
        return margins(
            self._checker.visual_projection(pooled),
            self._checker.concept_embeds,
            self._checker.concept_embeds_weights,
            self._checker.special_care_embeds,
            self._checker.special_care_embeds_weights,
        )
