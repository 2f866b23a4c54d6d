"""A user's image classifiers are filters beside one another, each as its own library runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from scipy.special import expit

from audit.detectors.base import Batch, Item
from audit.errors import AuditError
from safety.commands.filters import filters
from safety.filters.image_classifiers import ImageClassifiers
from tests.safety.synthetic import study

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")

COLOURS = ("red", "blue", "black", (200, 10, 40), (90, 0, 0))
PLAIN = {"size": 8, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


class Redness(torch.nn.Module):
    """One logit: how much red there is."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return 6 * pixels.mean(dim=(2, 3))[:, :1] - 3


def _images() -> list[Image.Image]:
    return [Image.new("RGB", (9, 12), colour) for colour in COLOURS]


def _batch() -> Batch:
    return Batch([Item(str(i), "", image, "", "") for i, image in enumerate(_images())])


def _asked(**models: Any) -> Any:
    return study(detectors={"image-classifier": {"models": models}})


def _transformers(folder: Path, labels: int, **settings: Any) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(labels)
    names = {index: f"kind {index}" for index in range(labels)}
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, id2label=names, initializer_range=0.5, **settings,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "red.pt"
    torch.jit.script(Redness()).save(path)
    return path


LOGIT = {"allow_code": True, "input": PLAIN, "heads": {"nsfw": {"labels": ["unsafe"]}}}


def test_models_stand_side_by_side_and_a_single_logit_goes_through_a_sigmoid(
    script: Path, tmp_path: Path
) -> None:
    vit = _transformers(tmp_path / "vit", 3)
    models = {"own": {"model": str(script), "sigmoid": True, **LOGIT}, "vit": {"model": str(vit)}}
    detector = ImageClassifiers(_asked(**models))
    found = detector.detect(_batch())
    assert list(found) == ["own_nsfw_unsafe", "vit_kind 0", "vit_kind 1", "vit_kind 2"]
    red = np.array([np.asarray(image)[0, 0, 0] / 255 for image in _images()])
    np.testing.assert_allclose(found["own_nsfw_unsafe"], expit(6 * red - 3), atol=1e-6)
    total = sum(np.array(found[name]) for name in found if name.startswith("vit"))
    np.testing.assert_allclose(total, 1, atol=1e-6)
    described = detector.describe()
    assert json.dumps(described)
    assert {"own/red.pt", "vit/model.safetensors"} <= set(described["weights"])


@pytest.mark.parametrize(
    ("labels", "settings"), [(1, {}), (3, {"problem_type": "multi_label_classification"})]
)
def test_outputs_of_their_own_are_read_as_transformers_reads_them(
    tmp_path: Path, labels: int, settings: dict[str, Any]
) -> None:
    from transformers import pipeline

    vit = _transformers(tmp_path / "vit", labels, **settings)
    found = ImageClassifiers(_asked(m={"model": str(vit)})).detect(_batch())
    own = pipeline("image-classification", model=str(vit))
    for place, image in enumerate(_images()):
        for row in own(image, top_k=labels):
            assert found[f"m_{row['label']}"][place] == pytest.approx(row["score"], abs=1e-5)
    assert np.ptp(found["m_kind 0"]) > 0.01


def test_two_classifiers_are_compared_on_a_folder_of_images(script: Path, tmp_path: Path) -> None:
    for label, colours in (("unsafe", COLOURS[:1] + COLOURS[3:4]), ("safe", COLOURS[1:3])):
        (tmp_path / label).mkdir()
        for number, colour in enumerate(colours):
            Image.new("RGB", (9, 9), colour).save(tmp_path / label / f"{number}.png")
    spec = {
        "detectors": {
            "image-classifier": {
                "models": {
                    "own": {"model": str(script), "sigmoid": True, **LOGIT},
                    "bgr": {
                        "model": str(script), "sigmoid": True, **LOGIT,
                        "input": PLAIN | {"colour": "BGR"},
                    },
                }
            }
        },
        "probes": {
            "safety-filters": {
                "filters": [
                    {"name": n, "score": f"image_classifier_{n}_nsfw_unsafe", "threshold": 0.5}
                    for n in ("own", "bgr")
                ]
            }
        },
    }  # fmt: skip
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    asked = ["--filter", "own", "--filter", "bgr", "--spec", str(tmp_path / "spec.yaml")]
    result = CliRunner().invoke(filters, ["compare", str(tmp_path), *asked, "--json"])
    assert result.exception is None, result.exception
    (pair,) = json.loads(result.stdout)["pairs"]
    # The one sees red, which is unsafe here; the other takes blue for red.
    assert (pair["only_own"], pair["only_bgr"], pair["both_block"]) == (2, 1, 0)
    assert pair["auc"]["difference"] > 0


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"m": "red.pt"}, "model 'm' needs 'model'"),
        ({"m": {"model": "none.onnx"}}, "model 'm': no model file none.onnx"),
        ({"m": {"sigmoid": True, "softmax": True}}, "and not beside softmax"),
        ({"m": {}}, r"head 'nsfw' needs two labels or more.*\(one needs sigmoid: true\)"),
        ({"m": {"softmax": False}}, "no probability: say 'softmax: true'"),
        ({"m": {"sigmoid": True, "heads": {"nsfw": {"labels": ["a", "b"]}}}}, "red.pt has 1"),
        ({"m": {"sigmod": True}}, "unknown key 'sigmod'; did you mean 'sigmoid'"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(
    script: Path, models: dict[str, Any], message: str
) -> None:
    full = {
        name: {"model": str(script), **LOGIT, **given} if isinstance(given, dict) else given
        for name, given in models.items()
    }
    with pytest.raises(AuditError, match=message) as caught:
        ImageClassifiers(_asked(**full)).detect(_batch())
    assert "\n" not in str(caught.value)
    assert "no model: name one" in str(ImageClassifiers.unavailable(study()))
