"""The phantom's attribute reader as a detector: exact up to its published confusion matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import Batch

if TYPE_CHECKING:
    from audit.study import Study


class PhantomReader:
    """Reads what the phantom drew.

    Columns: occupation, gender, skin, glasses, sign, background as labels, and the probability of
    each label as ``<attribute>_p``.
    """

    name = "reader"

    def __init__(self, study: Study) -> None:
        from audit.phantom import path
        from audit.phantom.reader import Reader

        self._folder = path("reader")
        self._reader = Reader.load()

    @staticmethod
    def unavailable(study: Study) -> str | None:
        """The reader knows drawn portraits only."""
        if study.suite.section("phantom"):
            return None
        return "the attribute reader knows the phantom's drawings only"

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`; the known error is the confusion matrix."""
        from audit.backends.checkpoints import weight_hashes

        known = json.loads((self._folder / "confusion.json").read_text(encoding="utf-8"))
        return {"weights": weight_hashes(self._folder), "known_error": known}

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        frame = self._reader.read(batch.images)
        return {str(name): frame[name].tolist() for name in frame.columns}
