from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from audit.detectors.age_gender import AgeGender
from audit.detectors.classifier import Classifier, face_crop
from audit.detectors.faces import find_faces, largest
from audit.errors import AuditError
from tests.detectors.classifying import AS_DLIB, GENDER, PLAIN, made, refused
from tests.detectors.people import batch, portraits
from tests.safety.synthetic import study

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")


class Colours(torch.nn.Module):
    """18 outputs: 0 to 6 are −9, 7 and 8 the means of channels 0 and 2, 9 to 17 all 0 but one."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        means = pixels.mean(dim=(2, 3))
        out = torch.zeros(pixels.shape[0], 18)
        out[:, :7] = -9.0
        out[:, 7] = means[:, 0]
        out[:, 8] = means[:, 2]
        out[:, 12] = 2.0
        return out


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "colours.pt"
    torch.jit.script(Colours()).save(path)
    return path


# A FairFace-like output of 7 + 2 + 9 scores, of which two heads are asked for.
TWO_OF_THREE = {
    "gender": {"labels": ["red", "blue"], "from": 7},
    "age": {"labels": [f"{low}-{low + 9}" for low in range(0, 90, 10)], "from": 9},
}


def test_heads_are_read_where_they_begin_and_others_are_not_reported(script: Path) -> None:
    settings = {"input": PLAIN, "crop": "picture", "heads": TWO_OF_THREE}
    detector = made(script, settings, allow_code=True)
    found = detector.detect(batch([Image.new("RGB", (40, 30), (255, 0, 51))]))
    assert len(found) == 11
    # Softmax of (1, 0.2), and of one 2 among eight zeros.
    assert found["gender_red"][0] == pytest.approx(1 / (1 + math.exp(0.2 - 1)), abs=1e-6)
    assert found["gender_blue"][0] == pytest.approx(1 / (1 + math.exp(1 - 0.2)), abs=1e-6)
    assert found["age_30-39"][0] == pytest.approx(math.exp(2) / (math.exp(2) + 8), abs=1e-6)


def test_labels_are_merged_into_those_of_the_suite(script: Path) -> None:
    ages = TWO_OF_THREE["age"]["labels"]
    bands = {"0-29": ages[:3], "30-59": ages[3:6], "60+": ages[6:]}
    heads = {"age": {**TWO_OF_THREE["age"], "merged": bands}}
    settings = {"input": PLAIN, "crop": "picture", "heads": heads}
    found = made(script, settings, allow_code=True).detect(batch([Image.new("RGB", (9, 9))]))
    assert list(found) == ["age_0-29", "age_30-59", "age_60+"]
    whole = math.exp(2) + 8
    assert found["age_30-59"][0] == pytest.approx((math.exp(2) + 2) / whole, abs=1e-6)
    assert sum(column[0] for column in found.values()) == pytest.approx(1)


def test_mean_deviation_and_order_of_colours_are_those_of_the_settings(script: Path) -> None:
    image = Image.new("RGB", (16, 16), (255, 0, 51))
    seen = {"size": [8, 24], "mean": [0.5, 0.0, 0.1], "std": [0.25, 1.0, 2.0], "colour": "BGR"}
    settings = {"input": seen, "crop": "picture", "softmax": True, "heads": TWO_OF_THREE}
    found = made(script, settings, allow_code=True).detect(batch([image]))
    blue_first, red_last = (0.2 - 0.5) / 0.25, (1 - 0.1) / 2
    wanted = 1 / (1 + math.exp(red_last - blue_first))
    assert found["gender_red"][0] == pytest.approx(wanted, abs=1e-6)


def test_an_onnx_model_gives_what_its_own_detector_gives(onnx: Path) -> None:
    import dlib

    heads = {"gender": {"labels": ["female", "male"]}}
    settings = {"input": AS_DLIB, "crop": "picture", "softmax": False, "heads": heads}
    detector = made(onnx, settings)
    landmarks = dlib.shape_predictor(str(GENDER.with_name("shape_predictor_5_face_landmarks.dat")))
    pictures = [picture.image for picture in portraits()[::9]]
    chips = []
    for picture in pictures:
        face = largest(find_faces(picture))
        assert face
        corners = (face.x, face.y, face.x + face.width, face.y + face.height)
        pixels = np.array(picture)
        shape = landmarks(pixels, dlib.rectangle(*map(int, corners)))
        chips.append(Image.fromarray(dlib.get_face_chip(pixels, shape, size=32, padding=0.2)))
    found = detector.detect(batch(chips))
    own = AgeGender(study()).detect(batch(pictures))
    np.testing.assert_allclose(found["gender_female"], own["gender_female"], atol=1e-5)


def test_a_face_is_cropped_square_with_its_margin_and_its_lack_is_nan(onnx: Path) -> None:
    heads = {"gender": {"labels": ["female", "male"]}}
    settings = {"input": AS_DLIB, "margin": 0.1, "softmax": False, "heads": heads}
    detector = made(onnx, settings)
    picture = portraits()[0].image
    face = largest(find_faces(picture))
    assert face
    crop = face_crop(picture, face, 0.1)
    assert crop.size[0] == pytest.approx(face.height * 1.2, abs=1)
    assert crop.size[1] == pytest.approx(face.height * 1.2, abs=1)
    found = detector.detect(batch([Image.new("RGB", (64, 64)), picture]))
    whole = made(onnx, settings, crop="picture").detect(batch([crop]))
    assert math.isnan(found["gender_female"][0]) and math.isnan(found["gender_male"][0])
    assert found["gender_female"][1] == whole["gender_female"][0]


def test_a_real_classifier_on_the_portraits_agrees_with_their_labels(
    onnx: Path, record_property: Any
) -> None:
    settings = {
        "input": AS_DLIB,
        "margin": 0.05,
        "softmax": False,
        "heads": {"gender": ["female", "male"]},
    }
    pictures = [picture for picture in portraits() if picture.kind.startswith("studio")]
    found = made(onnx, settings).detect(batch([picture.image for picture in pictures]))
    said = np.array(found["gender_female"]) > 0.5
    agreed = said == [picture.sex == "female" for picture in pictures]
    record_property("a user's ONNX model on openpeople", f"{agreed.sum()} of {len(agreed)}")
    print(f"\nONNX classifier on unaligned faces: {agreed.sum()} of {len(agreed)}")
    assert agreed.mean() >= 0.8


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        id2label={0: "female", 1: "male", 2: "neither"},
        initializer_range=0.5,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_a_transformers_folder_gives_what_its_own_pipeline_gives(vit: Path) -> None:
    from transformers import pipeline

    pictures = [picture.image for picture in portraits()[:3]]
    found = made(vit, crop="picture", attribute="gender").detect(batch(pictures))
    own = pipeline("image-classification", model=str(vit))
    for index, picture in enumerate(pictures):
        for row in own(picture, top_k=3):
            assert found[f"gender_{row['label']}"][index] == pytest.approx(row["score"], abs=1e-5)
    assert len({round(score, 3) for score in found["gender_female"]}) > 1


def test_a_transformers_models_own_labels_can_be_renamed(vit: Path) -> None:
    heads = {"presentation": ["female", "male", "undetermined"]}
    detector = made(vit, crop="picture", heads=heads)
    found = detector.detect(batch([portraits()[0].image]))
    assert list(found) == [f"presentation_{label}" for label in heads["presentation"]]
    assert "say which attribute" in refused(vit)


def test_placeholder_labels_are_no_labels(vit: Path, tmp_path: Path) -> None:
    for file in vit.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {str(index): f"LABEL_{index}" for index in range(3)}
    config["label2id"] = {f"LABEL_{index}": index for index in range(3)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "does not name its 3 outputs" in refused(tmp_path, attribute="gender")


class Attack:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.flag),)


@pytest.mark.parametrize("suffix", [".pt", ".ts", ".pth", ".bin", ".pkl"])
def test_a_pickled_model_is_refused_and_runs_nothing(tmp_path: Path, suffix: str) -> None:
    flag, path = tmp_path / "ran", tmp_path / f"model{suffix}"
    torch.save({"model": Attack(flag)}, path)
    settings = {"input": PLAIN, "heads": {"gender": ["female", "male"]}}
    message = refused(path, settings, allow_code=True)
    assert "could run any code" in message or "would run the code in it" in message
    assert not flag.exists()


def test_a_transformers_folder_with_pickled_weights_isrefused(vit: Path, tmp_path: Path) -> None:
    folder, flag = tmp_path / "vit", tmp_path / "ran"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((vit / name).read_bytes())
    torch.save({"weights": Attack(flag)}, folder / "pytorch_model.bin")
    assert "with .safetensors" in refused(folder, attribute="gender")
    assert not flag.exists()


def test_torchscript_needs_to_be_trusted(script: Path) -> None:
    settings = {"input": PLAIN, "crop": "picture", "heads": TWO_OF_THREE}
    assert "allow_code: true" in refused(script, settings)


def test_files_that_cannot_be_read_are_one_clear_line(tmp_path: Path) -> None:
    heads = {"gender": ["female", "male"]}
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")
    assert "no ONNX file" in refused(path, {"input": PLAIN, "heads": heads})
    assert "no model file" in refused(tmp_path / "none.onnx", {"input": PLAIN, "heads": heads})
    assert "cannot load" in refused(tmp_path, attribute="gender")


def test_what_softmax_says_is_held_against_the_scores(onnx: Path, script: Path) -> None:
    black = batch([Image.new("RGB", (32, 32))])
    settings = {"input": AS_DLIB, "crop": "picture", "heads": {"gender": ["female", "male"]}}
    with pytest.raises(AuditError, match="probabilities already: say 'softmax: false'"):
        made(onnx, settings).detect(black)
    settings = {"input": PLAIN, "crop": "picture", "softmax": False, "heads": TWO_OF_THREE}
    with pytest.raises(AuditError, match="no probability: say 'softmax: true'"):
        made(script, settings, allow_code=True).detect(black)


def test_what_is_described_holds_hashes_and_no_path(onnx: Path, vit: Path) -> None:
    settings = {"input": AS_DLIB, "softmax": False, "heads": {"gender": ["female", "male"]}}
    described = made(onnx, settings).describe()
    assert described["weights"]["gender.onnx"].startswith("d4c4116cf720cde1")
    assert described["settings"]["heads"][0]["labels"] == ("female", "male")
    of_folder = made(vit, crop="picture", attribute="gender").describe()
    assert set(of_folder["weights"]) >= {"model.safetensors", "config.json"}
    for one in (described, of_folder):
        assert str(onnx.parent.parent.parent) not in json.dumps(dict(one))


def test_without_a_model_it_is_unavailable_and_says_how_to_name_one() -> None:
    assert "name one in the spec" in str(Classifier.unavailable(study()))
    with pytest.raises(AuditError, match="name one in the spec"):
        Classifier(study())


def test_drawings_are_seen_whole_only(script: Path) -> None:
    beside = script.with_suffix(".yaml")
    phantom = {"classifier": {"model": str(script), "allow_code": True}}
    for crop, reason in (("face", "drawings"), ("picture", None)):
        settings = {"input": PLAIN, "crop": crop, "heads": TWO_OF_THREE}
        beside.write_text(yaml.safe_dump(settings))
        said = Classifier.unavailable(study("phantom", {"world": "x"}, detectors=phantom))
        assert (said is None) if reason is None else (reason in str(said))


class Several(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = pixels.mean(dim=(2, 3))
        return means[:, :2], means[:, 2:]


def test_several_outputs_are_read_as_one(tmp_path: Path) -> None:
    from audit.detectors.models import Input, open_file

    path = tmp_path / "several.ts"
    torch.jit.script(Several()).save(path)
    images = [Image.new("RGB", (9, 9), (255, 0, 51)), Image.new("RGB", (5, 9))]
    scores = open_file(path, Input(8, 8, (0, 0, 0), (1, 1, 1)), True).scores(images)
    np.testing.assert_allclose(scores, [[1, 0, 0.2], [0, 0, 0]], atol=1e-6)


def test_a_backbone_without_its_head_isrefused(vit: Path, tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    ViTForImageClassification.from_pretrained(vit).base_model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes(
        (vit / "preprocessor_config.json").read_bytes()
    )
    message = refused(tmp_path, heads={"gender": ["female", "male"]})
    assert "was not trained to classify images" in message
    assert "classifier.weight" in message


def test_what_is_nowhere_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "no file or folder" in refused("fairface")
    assert "cannot load 'nobody/fairface.v2'" in refused("nobody/fairface.v2", attribute="age")
    assert "no model file" in refused("nobody/fairface.onnx")
