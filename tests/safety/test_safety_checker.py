"""The detector's boolean is the checker's own, for the true class, everywhere near a threshold."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

from audit.detectors.base import Batch, Item
from audit.errors import AuditError
from audit.spec import Spec
from audit.study import Study
from audit.suites import Suite
from safety.filters.safety_checker import Margins, SafetyCheckerDetector, margins

D = 12


class _Given(torch.nn.Module):
    """A vision model that hands out embeddings as they are, so a test can choose them."""

    def forward(self, embeddings: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, embeddings


def _random_checker(seed: int, dtype: torch.dtype) -> tuple[Any, torch.Tensor]:
    """The true class, and 300 embeddings whose margins crowd around 0 and −0.01."""
    rng = torch.Generator().manual_seed(seed)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = CLIPConfig(
        text_config={
            **size,
            "num_attention_heads": 1,
            "vocab_size": 8,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**size, "num_attention_heads": 1, "image_size": 8, "patch_size": 8},
        projection_dim=D,
    )
    checker = StableDiffusionSafetyChecker(config)
    checker.vision_model, checker.visual_projection = _Given(), torch.nn.Identity()
    embeddings = torch.randn(1, D, generator=rng) + 0.03 * torch.randn(300, D, generator=rng)
    for concepts, thresholds, ease in (
        (checker.concept_embeds, checker.concept_embeds_weights, (1.5, 3.0)),
        (checker.special_care_embeds, checker.special_care_embeds_weights, (0.5, 2.5)),
    ):
        concepts.data = torch.randn(concepts.shape, generator=rng)
        cosines = torch.nn.functional.cosine_similarity(embeddings[:, None], concepts[None], dim=2)
        low, high = ease
        above = low + (high - low) * torch.rand(len(concepts), generator=rng)
        thresholds.data = cosines.mean(0) + above * cosines.std(0)
    return checker.to(dtype).eval(), (embeddings * 7).to(dtype)


def _asked(checker: Any, embeddings: torch.Tensor) -> np.ndarray:
    _, flagged = checker(embeddings, [np.zeros((1, 1, 3))] * len(embeddings))
    return np.array(flagged)


def _asked_onnx(checker: Any, embeddings: torch.Tensor) -> np.ndarray:
    images = torch.zeros(len(embeddings), 3, 1, 1)
    with torch.no_grad():
        _, flagged = checker.forward_onnx(embeddings, images)
    return flagged.numpy()


def _measured(checker: Any, embeddings: torch.Tensor) -> Margins:
    return margins(
        embeddings,
        checker.concept_embeds,
        checker.concept_embeds_weights,
        checker.special_care_embeds,
        checker.special_care_embeds_weights,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_decision_near_a_threshold_is_the_checkers_own(dtype: torch.dtype) -> None:
    near = unrounded = unadjusted = flagged = total = 0
    by_onnx = 0
    for seed in range(6 if dtype == torch.float32 else 3):
        checker, embeddings = _random_checker(seed, dtype)
        found = _measured(checker, embeddings)
        np.testing.assert_array_equal(found.flagged, _asked(checker, embeddings))
        if dtype == torch.float32:  # forward_onnx adds in the embeddings' own precision
            np.testing.assert_array_equal(found.flagged_onnx, _asked_onnx(checker, embeddings))
        by_onnx += int((found.flagged_onnx != found.flagged).sum())
        assert not (found.flagged & ~found.flagged_onnx).any()
        np.testing.assert_array_equal(
            found.flagged_unadjusted, (np.round(found.concept, 3) > 0).any(1)
        )
        total += len(found.flagged)
        flagged += int(found.flagged.sum())
        near += int((np.abs(found.concept_adjusted) < 0.001).sum())
        unrounded += int(((found.concept_adjusted > 0).any(1) != found.flagged).sum())
        unadjusted += int(((np.round(found.concept, 3) > 0).any(1) != found.flagged).sum())
    # The test has power: a checker without rounding, or without adjustment, would be caught.
    assert 0.1 < flagged / total < 0.9
    assert near > total / 10
    assert unrounded > total / 100
    assert unadjusted > total / 20
    assert by_onnx > total / 100


def test_cosines_on_the_grid_of_the_rounding_are_decided_alike() -> None:
    """Cosines of t + k/2000: half of them sit on the tie that rounding decides."""
    checker, _ = _random_checker(0, torch.float32)
    axes = torch.eye(19)
    checker.concept_embeds.data = axes[:17]
    checker.special_care_embeds.data = axes[18].repeat(3, 1)
    checker.special_care_embeds_weights.data.fill_(0.1)
    thresholds = torch.linspace(0.1, 0.9, 17)
    checker.concept_embeds_weights.data = thresholds
    for steps in range(-22, 23):
        cosines = thresholds + steps / 2000
        own, rest = torch.diag(cosines), (1 - cosines**2).sqrt()[:, None]
        plain = torch.cat([own, rest, torch.zeros(17, 1)], 1)
        special = torch.cat([own, torch.zeros(17, 1), rest], 1)
        embeddings = torch.cat([plain, special])
        found = _measured(checker, embeddings)
        np.testing.assert_array_equal(found.flagged, _asked(checker, embeddings))
        assert found.adjustment.tolist() == [0] * 17 + [np.float32(0.01)] * 17


def test_the_adjustment_is_set_once_and_reaches_later_special_care_concepts() -> None:
    image = torch.tensor([[0.6, 0.8, 0.0]])
    concepts = torch.eye(3)
    found = margins(
        image,
        concepts[:1],
        torch.tensor([0.605]),
        concepts[[1, 0, 0]],
        torch.tensor([0.7, 0.605, 0.605]),
    )
    np.testing.assert_allclose(found.special, [[0.1, -0.005, -0.005]], atol=1e-6)
    # 0.01 once, though three special-care concepts fire: it is set, not added up.
    np.testing.assert_allclose(found.special_adjusted, [[0.1, 0.005, 0.005]], atol=1e-6)
    np.testing.assert_allclose(found.concept_adjusted, [[0.005]], atol=1e-6)
    assert found.flagged.all()
    before = margins(
        image, concepts[:1], torch.tensor([0.605]), concepts[[0, 1]], torch.tensor([0.605, 0.7])
    )
    # A concept that comes first does not profit from one that fires after it.
    np.testing.assert_allclose(before.special_adjusted, [[-0.005, 0.1]], atol=1e-6)


# ---- the detector on a model folder ------------------------------------------------------------


def _study(folder: Path | None, **settings: Any) -> Study:
    return Study(Spec(device="cpu", **settings), Suite("made-up", "", {}), folder)


def _images(n: int = 24) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (n, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((48, 40)) for pixels in small]


def _batch(images: list[Image.Image]) -> Batch:
    return Batch([Item(str(i), "", image, "", "") for i, image in enumerate(images)])


@pytest.fixture(scope="module")
def sharpened(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with thresholds in the middle of what its checker sees."""
    folder = tmp_path_factory.mktemp("checker") / "model"
    shutil.copytree(tiny_model, folder)
    detector = SafetyCheckerDetector(_study(folder))
    found = detector.margins(_images())
    path = folder / "safety_checker" / "model.safetensors"
    weights = load_file(path)
    rows = np.arange(17) % 24
    weights["concept_embeds_weights"] += torch.from_numpy(
        np.sort(found.concept, 0)[-1 - rows // 8, range(17)]
    )
    weights["special_care_embeds_weights"] += torch.from_numpy(np.median(found.special, 0))
    save_file(weights, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_detector_decides_as_the_pipeline_would(sharpened: Path, dtype: str) -> None:
    images = _images()
    columns = SafetyCheckerDetector(_study(sharpened, dtype=dtype)).detect(_batch(images))
    precision = getattr(torch, dtype)
    checker = StableDiffusionSafetyChecker.from_pretrained(
        sharpened / "safety_checker", dtype=precision
    )
    extract = CLIPImageProcessor.from_pretrained(sharpened / "feature_extractor")
    pixels = extract(images, return_tensors="pt").pixel_values.to(precision)
    _, flagged = checker(clip_input=pixels, images=[np.zeros((2, 2, 3))] * len(images))
    assert columns["flagged"] == flagged
    assert 0 < sum(flagged) < len(images)


def test_the_columns_are_raw_scores_that_explain_the_decision(sharpened: Path) -> None:
    columns = SafetyCheckerDetector(_study(sharpened)).detect(_batch(_images()))
    assert len(columns) == 6 + 17 + 3
    assert {len(values) for values in columns.values()} == {24}
    concepts = np.array([columns[f"concept_{j:02d}"] for j in range(17)], np.float32).T
    adjustment = np.array(columns["adjustment"], np.float32)
    assert set(np.unique(adjustment)) == {np.float32(0), np.float32(0.01)}
    best = np.array(columns["concept"])
    np.testing.assert_array_equal(best, concepts.argmax(1))
    margin = np.array(columns["margin"], np.float32)
    np.testing.assert_array_equal(margin, concepts[np.arange(24), best] + adjustment)
    np.testing.assert_array_equal(np.round(margin, 3) > 0, columns["flagged"])
    without = (np.round(concepts, 3) > 0).any(1)
    np.testing.assert_array_equal(columns["flagged_by_adjustment"], columns["flagged"] & ~without)
    assert any(columns["flagged_by_adjustment"])


@pytest.mark.parametrize("sizes", [(1,) * 6, (2, 3, 1)])
def test_a_decision_does_not_depend_on_the_rest_of_the_batch(
    sharpened: Path, sizes: tuple[int, ...]
) -> None:
    detector, images = SafetyCheckerDetector(_study(sharpened)), _images()[:6]
    whole = detector.margins(images)
    starts = np.cumsum((0, *sizes))
    parts = [detector.margins(images[a:b]) for a, b in itertools.pairwise(starts)]
    for name in ("flagged", "flagged_onnx", "flagged_unadjusted"):
        alone = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(alone, getattr(whole, name))
    for name in ("concept", "special"):
        alone = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(alone, getattr(whole, name), atol=1e-6)


def test_the_description_names_weights_and_thresholds_and_is_json(sharpened: Path) -> None:
    described = SafetyCheckerDetector(_study(sharpened)).describe()
    assert len(described["concept_thresholds"]) == 17
    assert len(described["weights"]["safety_checker/model.safetensors"]) == 64
    assert json.loads(json.dumps(dict(described))) == described


def test_the_published_layout_of_the_weights_is_read(sharpened: Path, tmp_path: Path) -> None:
    """Checkpoints of the Hub nest the vision model twice; what is not found is drawn at random."""
    folder = tmp_path / "model"
    shutil.copytree(sharpened, folder)
    path = folder / "safety_checker" / "model.safetensors"
    weights = {
        name.replace("vision_model.", "vision_model.vision_model.", 1): value
        for name, value in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})
    old, new = (
        SafetyCheckerDetector(_study(f)).detect(_batch(_images())) for f in (folder, sharpened)
    )
    assert old == new


def test_a_checker_with_missing_weights_is_refused(sharpened: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sharpened, folder)
    path = folder / "safety_checker" / "model.safetensors"
    weights = load_file(path)
    del weights["visual_projection.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(AuditError, match=r"lacks 1 weights, such as visual_projection\.weight"):
        SafetyCheckerDetector(_study(folder))


def test_damaged_weights_are_one_line(sharpened: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sharpened, folder)
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(AuditError, match="cannot load the safety checker") as caught:
        SafetyCheckerDetector(_study(folder))
    assert "\n" not in str(caught.value)


def test_a_model_without_checker_says_so(tmp_path: Path) -> None:
    assert "not on this machine" in str(SafetyCheckerDetector.unavailable(_study(None)))
    assert "no readable model_index" in str(SafetyCheckerDetector.unavailable(_study(tmp_path)))
    index = tmp_path / "model_index.json"
    for named in ({}, {"safety_checker": [None, None]}):
        index.write_text(json.dumps(named))
        reason = SafetyCheckerDetector.unavailable(_study(tmp_path))
        assert reason == "the model ships without a safety checker"
    with pytest.raises(AuditError, match="ships without a safety checker"):
        SafetyCheckerDetector(_study(tmp_path))
    index.write_text(json.dumps({"safety_checker": ["deepfloyd_if", "IFSafetyChecker"]}))
    assert "is of the class IFSafetyChecker; only StableDiffusion" in str(
        SafetyCheckerDetector.unavailable(_study(tmp_path))
    )
    index.write_text(
        json.dumps({"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]})
    )
    assert "lacks its part 'safety_checker'" in str(
        SafetyCheckerDetector.unavailable(_study(tmp_path))
    )
    (tmp_path / "safety_checker").mkdir()
    assert "'feature_extractor'" in str(SafetyCheckerDetector.unavailable(_study(tmp_path)))


def test_the_phantoms_checker_decides_as_the_true_class_does() -> None:
    from audit.phantom import corpus, path

    items = [item for item in corpus.load("phantom").items if item.name is None][::60]
    images = [item.draw() for item in items]
    columns = SafetyCheckerDetector(_study(path("phantom"))).detect(_batch(images))
    checker = StableDiffusionSafetyChecker.from_pretrained(
        path("phantom") / "safety_checker"
    ).float()
    extract = CLIPImageProcessor.from_pretrained(path("phantom") / "feature_extractor")
    pixels = extract(images, return_tensors="pt").pixel_values
    _, flagged = checker(clip_input=pixels, images=[np.zeros((2, 2, 3))] * len(images))
    assert columns["flagged"] == flagged
    assert any(flagged)
    assert not all(flagged)
