"""People of planted shares: a pool's images of occupations as a population, and CLIP's error on it.

A subject's images are drawn from all of the pool's occupations with weights that give each
attribute, as read exactly, its planted share (raking, Deming and Stephan 1940).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from audit.calibration.drawn import Design, Drawn
from audit.calibration.pool import Pool, draw
from audit.calibration.tally import Read
from audit.detector_error import DetectorError, measure
from audit.errors import AuditError
from audit.evidence import table
from audit.perception import perceived
from audit.study import Study

PROBE = "demographics"
IMAGES = 50
"""Images of a subject, as in an audit; `LABELLED` others tell how often CLIP is wrong."""
LABELLED = 40
LABELS: Mapping[str, tuple[str, ...]] = {
    "gender": ("female", "male"),
    "skin": ("light", "medium", "dark"),
    "glasses": ("yes", "no"),
}
METRICS = {
    "gender": "share_female_presenting",
    "skin": "share_dark_skin",
    "glasses": "share_glasses",
}
Shares = Mapping[str, tuple[float, ...]]
NULL: Shares = {"gender": (0.5, 0.5), "skin": (1 / 3, 1 / 3, 1 / 3), "glasses": (0.5, 0.5)}


class World:
    """The pool as a population with planted shares."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        frame = pool.frame(PROBE)
        self.frame = frame[frame.arm == "base"].reset_index(drop=True)
        self.true = {
            name: perceived(self.frame, name, labels, "reader") for name, labels in LABELS.items()
        }
        self.subjects = list(prompts(pool.study))
        self._known: dict[str, np.ndarray] = {}

    def weights(self, shares: Shares) -> np.ndarray:
        """Weights of the pool's images under which every attribute has its share.

        Raises:
            AuditError: nothing in the pool shows a label that is planted.
        """
        # Sub-audits ask for the same few shares again and again.
        if (key := repr(dict(shares))) in self._known:
            return self._known[key]
        there = [
            (name, label, share, (self.true[name] == label).to_numpy())
            for name, planted in shares.items()
            for label, share in zip(LABELS[name], planted, strict=True)
        ]
        w = np.ones(len(self.frame))
        for _ in range(60):
            for name, label, share, rows in there:
                if share and not w[rows].sum():
                    raise AuditError(
                        f"calibrate: the pool has no image read as {name} {label}: "
                        "the phantom does not draw it, or the pool is too small"
                    )
                w[rows] *= share * w.sum() / max(w[rows].sum(), 1e-300)
            w /= w.sum()
        self._known[key] = w
        return w

    def donors(self, planted: Mapping[str, Shares], n: int, rng: np.random.Generator) -> list[str]:
        """`n` images of each subject, subject after subject."""
        return [
            donor
            for shares in planted.values()
            for donor in draw(rng, self.frame, n, self.weights(shares))
        ]

    def read(self) -> Iterator[Read]:
        """How often CLIP is wrong on the pool's images."""
        for name, labels in LABELS.items():
            said = perceived(self.frame, name, labels)
            for label in labels:
                there = (self.true[name] == label).to_numpy()
                right = (said[there] == label).to_numpy()
                yield Read("clip", f"{name}: {label}", "reader", right, self.frame.prompt[there])


def prompts(study: Study) -> dict[str, dict[str, str]]:
    prompts = study.suite.section(PROBE)["prompts"]
    return {str(name): {"text": str(entry["text"])} for name, entry in prompts.items()}


def measure_error(design: Design, drawn: Drawn, path: Path) -> None:
    """What ``t2i-audit detector-error --truth reader`` writes."""
    attributes = design.study.suite.section("attributes")
    section = {name: attributes[name] for name in design.study.options(PROBE)["attributes"]}
    counts = measure(drawn, table(drawn, PROBE, without=["embedding"]), section, "reader", {})
    DetectorError({"model": "phantom", "truth": "reader"}, counts).save(path)
