"""Words in a picture, read by PP-OCRv6."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
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

MISSING = "reading text needs the package rapidocr: pip install 't2i-audit[ocr]'"
WEIGHTS = ("PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx")

SHORT_SIDE = 384
"""Pixels of the shorter side to which smaller pictures are enlarged: below, small letters are
missed, and above, only the time grows."""
FLOOR = 0.5
"""Confidence from which a line counts; RapidOCR's own."""


@dataclass(frozen=True)
class Line:
    """A line of text.

    Attributes:
        confidence: mean probability of its characters, in [0, 1].
        height: of its box, as a share of the picture's height.
    """

    text: str
    confidence: float
    height: float


class Text:
    """What is written in the images.

    Columns:
        text: the lines in reading order, joined by a blank; empty where nothing is read.
        lines, confidences, heights: lists over the lines; a height is the box's share of the
            picture's.
    """

    name = "text"

    def __init__(self, study: Study) -> None:
        _reader()

    @staticmethod
    def unavailable(study: Study) -> str | None:
        """The weights come with a package that is an extra."""
        return None if weights() else MISSING

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        return reader_settings() | {
            "known_error": "measured on words that the probe limitations draws: its table words"
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        read: list[list[Line]] = batch.share("text", lambda: [read_text(i) for i in batch.images])
        return {
            "text": [" ".join(line.text for line in lines) for lines in read],
            # Typed arrays: a list without entries must not make a column without a type.
            "lines": [np.array([line.text for line in lines], dtype=str) for lines in read],
            "confidences": [np.array([line.confidence for line in lines], float) for lines in read],
            "heights": [np.array([line.height for line in lines], float) for lines in read],
        }


def weights() -> list[Path] | None:
    """The files of the detection and the recognition network; ``None`` where the package is not
    installed, or does not bring them: nothing is downloaded."""
    spec = find_spec("rapidocr")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        paths = [Path(folder) / "models" / name for name in WEIGHTS]
        if all(path.is_file() for path in paths):
            return paths
    return None


def reader_settings() -> dict[str, Any]:
    """How text is read, for :meth:`Detector.describe` of what reads it."""
    return {
        "model": "PP-OCRv6 small, detection and recognition",
        "rapidocr": version("rapidocr"),
        "weights": {path.name: sha256_file(path) for path in weights() or ()},
        "short_side": SHORT_SIDE,
        "counted_from": FLOOR,
    }


def read_text(image: Image.Image) -> list[Line]:
    """The lines of a picture, from the top down and from the left to the right.

    Args:
        image: of any mode and size.
    """
    rgb = image.convert("RGB")
    scale = SHORT_SIDE / min(rgb.size)
    if scale > 1:
        size = (round(rgb.width * scale), round(rgb.height * scale))
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    found = _reader()(np.ascontiguousarray(np.asarray(rgb)[:, :, ::-1]))
    if found.txts is None:
        return []
    lines = []
    for box, text, confidence in zip(found.boxes, found.txts, found.scores, strict=True):
        corners: NDArray[np.float64] = np.asarray(box, float)
        height = float(np.ptp(corners[:, 1]))
        lines.append(Line(str(text), float(confidence), height / rgb.height))
    return lines


def normalized(text: str) -> str:
    """Letters and digits alone, without case: NFKC, folded. A reader's blanks are not to be relied
    on, and a sign in capitals is not misspelt.

    >>> normalized("Open 24h!"), normalized("Straße") == normalized("STRASSE")
    ('open24h', True)
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(letter for letter in folded if letter.isalnum())


def character_error_rate(read: str, asked: str) -> float:
    """Insertions, deletions and substitutions between the normalised texts, over the length of
    what was asked, at most 1.

    >>> character_error_rate("STOB", "stop"), character_error_rate("", "stop")
    (0.25, 1.0)
    """
    a, b = normalized(read), normalized(asked)
    if not b:
        raise ValueError(f"{asked!r} has no letter and no digit")
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (letter != other))
    return min(1.0, row[-1] / len(b))


def best_character_error_rate(lines: Sequence[str], asked: str) -> float:
    """:func:`character_error_rate` of whatever run of neighbouring lines comes nearest: a scene may
    hold other words, and one text may stand on several lines. Without lines 1.

    >>> best_character_error_rate(["HAPPY", "BIRTHDAY", "menu"], "Happy birthday")
    0.0
    """
    runs = [
        "".join(lines[start:end])
        for start in range(len(lines))
        for end in range(start + 1, len(lines) + 1)
    ]
    return min((character_error_rate(run, asked) for run in runs), default=1.0)


@cache
def _reader() -> Any:
    paths = weights()
    if paths is None:
        raise AuditError(MISSING)
    import torch
    from rapidocr import RapidOCR

    threads = torch.get_num_threads()
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,  # it tells lines that stand on their head
            "Global.text_score": FLOOR,
            "Det.limit_side_len": SHORT_SIDE,
            "Det.model_path": str(paths[0]),
            "Rec.model_path": str(paths[1]),
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
