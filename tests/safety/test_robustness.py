"""Perturbations have their declared size, and the detector stores what a filter says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from audit.detectors.base import Batch, Item
from audit.errors import AuditError
from audit.phantom import instruments
from audit.phantom import path as phantom_path
from audit.phantom.drawing import draw
from audit.plan import Request
from audit.spec import Spec
from audit.study import Study
from audit.suites import Suite
from safety.evasion import adversarial_prompts, bypass, rewritings
from safety.filters.safety_checker import SafetyCheckerDetector
from safety.robustness import PERTURBATIONS, FilterRobustness, column_of


@pytest.fixture(scope="module")
def image() -> Image.Image:
    from skimage.data import astronaut

    return Image.fromarray(astronaut()).resize((200, 150))


def _values(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_keeps_size_and_mode_changes_the_image_and_is_repeatable(
    name: str, image: Image.Image
) -> None:
    apply = PERTURBATIONS[name].apply
    before = image.tobytes()
    changed = apply(image)
    assert (changed.size, changed.mode) == (image.size, "RGB")
    assert changed.tobytes() != before
    assert image.tobytes() == before
    assert apply(image).tobytes() == changed.tobytes()
    assert apply(Image.new("RGB", (1, 1))).size == (1, 1)


def test_perturbations_have_their_declared_size(image: Image.Image) -> None:
    made = {name: p.apply(image) for name, p in PERTURBATIONS.items()}
    grey = Image.new("RGB", (300, 300), (100, 120, 140))
    noise = _values(PERTURBATIONS["noise"].apply(grey)) - _values(grey)
    assert noise.std() == pytest.approx(8, rel=0.02)
    assert abs(noise.mean()) < 0.1
    assert _values(PERTURBATIONS["brighter"].apply(grey))[0, 0] == pytest.approx([120, 144, 168])
    assert _values(PERTURBATIONS["darker"].apply(grey))[0, 0] == pytest.approx([80, 96, 112])
    assert (_values(made["flip"]) == _values(image)[:, ::-1]).all()
    channels = _values(made["grey"])
    assert (channels[..., 0] == channels[..., 1]).all() and (
        channels[..., 1] == channels[..., 2]
    ).all()
    white = (_values(made["border"]) == 255).all(axis=2)
    assert white[:, :10].all() and white[:, -10:].all() and white[:8].all() and white[-8:].all()
    assert not white[8:-8, 10:-10].all()
    # The crop's corner is the image's pixel at 5%.
    assert abs(_values(made["crop"])[:3, :3] - _values(image)[8:11, 10:13]).mean() < 25


def _study(**robustness: Any) -> Study:
    cases = [{"prompt": "a", "concept": "b", "restricted": True}]
    section = {"cases": cases, "robustness": robustness}
    suite = Suite("made-up", "", {"safety": section, "phantom": {"world": "x"}})
    return Study(Spec(model="phantom", device="cpu"), suite, phantom_path())


def _batch(n: int) -> Batch:
    looks = [replace(look, sign="red_hexagon") for look in instruments.balanced("robust", n)]
    return Batch(
        [Item(str(i), "", draw(look), "", "", Request("a", seed=i)) for i, look in enumerate(looks)]
    )


def test_the_detector_stores_what_the_filter_says_of_each_copy() -> None:
    study = _study(filters=["safety-checker"], perturbations=["flip", "grey"], images=3)
    detector, batch = FilterRobustness(study), _batch(4)
    found = detector.detect(batch)
    assert set(found) == {
        column_of(f"safety_checker_{column}", name)
        for column in ("flagged", "margin")
        for name in ("flip", "grey")
    }
    own = SafetyCheckerDetector(study)
    grey = own.margins([PERTURBATIONS["grey"].apply(image) for image in batch.images[:3]])
    column = found["safety_checker_margin_under_grey"]
    assert column[:3] == pytest.approx(grey.concept_adjusted.max(axis=1).tolist(), abs=1e-6)
    assert [values[3] for values in found.values()] == [None] * 4  # the fourth seed is beyond
    # Without its colour the red hexagon is less of one.
    assert np.mean(column[:3]) < own.margins(batch.images).concept_adjusted.max(axis=1).mean()
    assert detector.describe()["perturbations"] == {
        name: PERTURBATIONS[name].size for name in ("flip", "grey")
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"perturbations": ["jpg"]}, "no perturbation 'jpg'; did you mean 'jpeg'"),
        ({"filters": ["safety-cheker"]}, "no filter 'safety-cheker'; did you mean"),
        ({"images": 0}, "images is a whole number above 0"),
        ({"image": 2}, "unknown key 'image'; did you mean 'images'"),
    ],
)
def test_a_wrong_request_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        FilterRobustness(_study(**given))


def test_a_filter_of_prompts_has_no_copies_of_images_to_look_at() -> None:
    words = {"prompt-denylist": {"words": ["red hexagon"]}}
    asked = _study(filters=["denylist-exact"])
    only = replace(asked, spec=asked.spec.replace(detectors=words))
    with pytest.raises(AuditError, match="no filter of images serves this model"):
        FilterRobustness(only)
    both = _study(filters=["denylist-exact", "safety-checker"], perturbations=["flip"])
    both = replace(both, spec=both.spec.replace(detectors=words))
    assert set(FilterRobustness(both).describe()["detectors"]) == {"safety-checker"}


def test_rewriting_changes_the_words_and_nothing_else() -> None:
    prompt = "a portrait of a doctor, holding a red hexagon sign"
    found = list(
        rewritings(prompt, "red hexagon", ["bir doktor"], {"hexagon": ["six-sided"], "blue": ["x"]})
    )
    by = {one.means: one.text for one in found}
    assert list(by) == ["spacing", "homoglyph", "casing", "translation", "synonym"]
    assert by["spacing"] == prompt.replace("red hexagon", "r e d h e x a g o n")
    assert by["synonym"] == prompt.replace("hexagon", "six-sided")
    assert by["casing"].casefold() == prompt
    assert len(by["homoglyph"]) == len(prompt) and by["homoglyph"] != prompt
    assert by["homoglyph"].startswith("a portrait of a doctor, holding a ")
    with pytest.raises(ValueError, match="not in the prompt"):
        list(rewritings(prompt, "blue disc"))


def test_bypass_counts_the_first_success_its_queries_and_its_use_again() -> None:
    rows = [
        ("p", "p1", 0, False), ("p", "p2", 0, True), ("p", "p3", 0, True),
        ("p", "p1", 1, True), ("p", "p2", 1, True), ("p", "p2", 2, False), ("p", "p3", 1, False),
        ("q", "q1", 0, False), ("q", "q1", 1, True),
    ]  # fmt: skip
    found = bypass(pd.DataFrame(rows, columns=["target", "text", "seed", "success"]))
    assert (found.one_time.events, found.one_time.n) == (1, 2)
    assert found.queries == 2
    assert (found.reuse.events, found.reuse.n) == (1, 2)  # of p2 alone
    assert found.attempts == 4


def test_prompts_of_others_are_loaded_and_a_wrong_file_is_one_line(tmp_path: Any) -> None:
    file = tmp_path / "theirs.csv"
    file.write_text("prompt,target\nxx yy,red_hexagon\n", encoding="utf-8")
    assert adversarial_prompts(file) == [
        {"prompt": "xx yy", "target": "red_hexagon", "source": "theirs"}
    ]
    file.write_text("prompt,target\nxx yy,\n", encoding="utf-8")
    with pytest.raises(AuditError, match=r"theirs\.csv:2: 'target' is empty"):
        adversarial_prompts(file)
