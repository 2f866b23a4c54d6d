from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.detectors.classifying import AB, AS_DLIB, refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": {"gender": ["female", "male"]}}, "no 'input'"),
        ({"input": AS_DLIB}, "does not name its 2 outputs"),
        ({"input": AS_DLIB, "heads": {"g": ["a", "b", "c"]}}, "name 3 outputs and"),
        ({"input": AS_DLIB, "heads": {"g": {"labels": AB, "from": 1}}}, "name 3 outputs"),
        ({"input": AS_DLIB, "heads": {"g": ["a"]}}, "two labels or more"),
        ({"input": AS_DLIB, "heads": {"g": ["a", "a"]}}, "none twice"),
        ({"input": AS_DLIB, "heads": {"g": {"from": 0}}}, "head 'g' needs labels"),
        ({"input": AS_DLIB, "heads": {"g": [True, False]}}, "yes and no in quotes"),
        ({"input": AS_DLIB, "heads": AB}, "maps an attribute to its labels"),
        ({"input": AS_DLIB, "heads": {"g": {"labels": AB, "at": 0}}}, "unknown key 'at'"),
        (
            {
                "input": AS_DLIB,
                "heads": {
                    "g": {"labels": AB, "from": 1},
                    "h": {"labels": AB, "from": 0},
                },
            },
            "'h' and 'g' overlap",
        ),
        (
            {"input": AS_DLIB, "heads": {"g": {"labels": AB, "merged": {"x": ["a"], "y": ["c"]}}}},
            "head 'g': merged: no label 'c'",
        ),
        (
            {"input": AS_DLIB, "heads": {"g": {"labels": AB, "merged": {"x": ["a"], "y": ["a"]}}}},
            "merged holds each label once, but not a, b",
        ),
        (
            {"input": AS_DLIB, "heads": {"g": {"labels": AB, "merged": ["a"]}}},
            "merged maps a label to a list",
        ),
        (
            {"input": {**AS_DLIB, "size": 64}, "heads": {"g": AB}},
            "does not run on an input",
        ),
        ({"input": {"size": 32}, "heads": {"g": AB}}, "input needs 'mean'"),
        ({"input": {**AS_DLIB, "std": [0, 1, 1]}}, "std is positive"),
        ({"input": {**AS_DLIB, "mean": 0.5}}, "mean is three numbers"),
        ({"input": {**AS_DLIB, "size": 0}}, "size is pixels"),
        ({"input": {**AS_DLIB, "color": "RGB"}}, "unknown key 'color'"),
        ({"input": {**AS_DLIB, "colour": "HSV"}}, "RGB or BGR"),
        ({"input": AS_DLIB, "crop": "body"}, "crop is one of face, picture"),
        ({"input": AS_DLIB, "margin": "wide"}, "margin is a share"),
        ({"input": AS_DLIB, "softmax": "yes"}, "softmax is true or false"),
        ({"input": AS_DLIB, "labels": []}, "unknown key 'labels'"),
        ("input: {size: 32\n", "not valid YAML"),
        ("- 1\n", "a mapping with"),
    ],
)
def test_wrong_settings_are_one_clear_line(onnx: Path, settings: Any, message: str) -> None:
    assert message in refused(onnx, settings)


def test_a_wrong_setting_is_said_with_its_line(onnx: Path) -> None:
    text = yaml.safe_dump({"input": AS_DLIB}) + "softmax: false\ncrop: body\n"
    line = text.splitlines().index("crop: body") + 1
    assert f"gender.yaml:{line}: crop" in refused(onnx, text)
    assert refused(onnx, crop="head").startswith("detectors: classifier: crop")
