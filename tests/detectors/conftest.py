from __future__ import annotations

from pathlib import Path

import pytest

from tests.detectors.classifying import GENDER


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "gender.onnx"
    path.symlink_to(GENDER)
    return path
