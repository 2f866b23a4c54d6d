from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_image

from audit.detectors import faces
from audit.detectors.faces import COUNTED, Faces, find_faces, largest
from audit.statistics import rate
from audit.store import Run
from tests.detectors.people import batch, portraits
from tests.safety.synthetic import study

PUBLISHED = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"


@pytest.fixture(scope="module")
def detector() -> Faces:
    return Faces(study())


def test_every_portrait_has_its_face(detector: Faces, record_property: object) -> None:
    pictures = portraits()
    found = detector.detect(batch([picture.image for picture in pictures]))
    one = rate([count == 1 for count in found["count"]], [p.person for p in pictures])
    record_property("pictures with exactly one face", f"{one.events} of {one.n}, {one.ci}")
    print(f"\nexactly one face: {one.events} of {one.n}")
    assert min(found["count"]) == 1
    assert min(found["confidence"]) > 0.85
    # One selfie shows passers-by.
    assert one.events >= 39


def test_sixteen_faces_on_one_sheet_are_counted(detector: Faces) -> None:
    sheets = [picture.image for picture in portraits(("emotions_sheet",))]
    assert detector.detect(batch(sheets))["count"] == [16] * 10


def test_pictures_without_people_have_no_face(detector: Faces) -> None:
    arrays = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    arrays += [getattr(skimage.data, name)() for name in ("coffee", "rocket", "brick", "page")]
    images = [Image.fromarray(array) for array in arrays]
    images += [Image.new("RGB", size, "tan") for size in ((1, 1), (3000, 1), (700, 700))]
    found = detector.detect(batch(images))
    assert found["count"] == [0] * len(images)
    for name in ("confidence", "x", "y", "width", "height", "size"):
        assert all(math.isnan(value) for value in found[name])


def test_a_pasted_face_is_found_where_it_was_pasted_at_any_size() -> None:
    picture = portraits()[0].image
    original = largest(find_faces(picture))
    assert original
    for width, height, left, top, scale in (
        (2000, 900, 1300, 100, 0.8),
        (400, 1400, 20, 700, 0.5),
        (90, 90, 5, 3, 0.11),
    ):
        canvas = Image.new("RGB", (width, height), "grey")
        size = (round(picture.width * scale), round(picture.height * scale))
        canvas.paste(picture.resize(size), (left, top))
        face = largest(find_faces(canvas))
        assert face
        wanted = np.array([original.x, original.y, original.width, original.height]) * scale
        wanted[:2] += left, top
        near = 0.15 * original.width * scale
        assert np.abs(np.array([face.x, face.y, face.width, face.height]) - wanted).max() < near
        points = original.landmarks * scale + (left, top)
        assert np.abs(face.landmarks - points).max() < near


def test_the_largest_of_two_faces_is_described(detector: Faces) -> None:
    near, far = portraits()[1].image, portraits()[5].image
    both = Image.new("RGB", (near.width + far.width // 2, near.height))
    both.paste(near)
    both.paste(far.resize((far.width // 2, far.height // 2)), (near.width, 0))
    found = detector.detect(batch([both]))
    alone = detector.detect(batch([near]))
    assert found["count"] == [2]
    assert found["x"][0] + found["width"][0] < near.width / both.width
    assert found["size"][0] == pytest.approx(
        alone["size"][0] * near.width * near.height / (both.width * both.height), rel=0.1
    )
    assert sum(np.array(found["confidences"][0]) >= COUNTED) == 2
    assert found["size"][0] == found["sizes"][0].max()


def test_scores_do_not_depend_on_the_batch_or_the_mode(detector: Faces) -> None:
    image = portraits()[2].image
    together = detector.detect(batch([portraits()[0].image, image]))["confidence"][1]
    assert detector.detect(batch([image]))["confidence"] == [together]
    assert detector.detect(batch([image.convert("RGBA")]))["confidence"] == [together]


def test_detectors_share_the_search(monkeypatch: pytest.MonkeyPatch, detector: Faces) -> None:
    from audit.detectors.skin_tone import SkinTone

    searched = []
    search = find_faces
    monkeypatch.setattr(faces, "find_faces", lambda image: searched.append(1) or search(image))
    items = batch([portraits()[0].image, portraits()[1].image])
    detector.detect(items)
    SkinTone(study()).detect(items)
    assert len(searched) == 2


def test_scores_survive_the_store_when_the_first_shard_has_no_face(
    tmp_path: Path, detector: Faces
) -> None:
    import pandas as pd

    run = Run.create(tmp_path / "run")
    for name, image in (("none", Image.new("RGB", (50, 50))), ("face", portraits()[0].image)):
        scores = detector.detect(batch([image]))
        run.add_part("detections/faces", pd.DataFrame({"request": [name], **scores}))
    run.compact("detections/faces", 2)
    table = run.read_table("detections/faces").set_index("request")
    assert table.loc["none", "count"] == 0
    assert len(table.loc["none", "confidences"]) == 0
    assert math.isnan(table.loc["none", "confidence"])
    assert table.loc["face", "confidences"][0] == table.loc["face", "confidence"]


def test_the_weights_are_those_that_opencv_published(detector: Faces) -> None:
    assert detector.describe()["weights"] == {faces.WEIGHTS: PUBLISHED}


def test_drawings_of_the_phantom_are_not_asked() -> None:
    assert "drawings" in str(Faces.unavailable(study("phantom", {"world": "audit.phantom"})))
    assert Faces.unavailable(study()) is None
