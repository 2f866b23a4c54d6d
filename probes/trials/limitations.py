"""Compositions that are kept, and half of them bound to the wrong thing.

What an image shows is read exactly; an image of the other caption of its set is put in the place of
some. The captions stay as they are, for CLIP puts an image to its own set's captions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from audit.calibration.drawn import Design
from audit.calibration.pool import Pool, Size
from audit.calibration.tally import Answer, Effect, Outcome, Read, found
from audit.study import Study

from . import detectors

PROBE = "limitations"
IMAGES = 4
SWAPPED = 0.5
SHOWN = ("occupation", "background", "sign")


class LimitationsTrials:
    """See :class:`audit.calibration.pool.Trials`."""

    models = ("phantom",)
    images_of: tuple[str, ...] = ()
    detectors = ("clip", "reader")

    def asked(self, study: Study, size: Size) -> tuple[Mapping[str, Any], int | None]:
        """The suite's sets of captions alone."""
        return _options(study), max(2, size.seeds // 2)

    def outcomes(self, pools: Mapping[str, Pool], size: Size) -> Iterator[Answer]:
        """Nothing swapped, then half."""
        pool = pools["phantom"]
        frame = pool.frame(PROBE)
        sets = _sets(pool.study)
        captions = [caption for one in sets for caption in one]
        drawing = {caption: one[caption] for one in sets for caption in one}
        other = {caption: next(c for c in one if c != caption) for one in sets for caption in one}
        right = pd.Series(
            [
                all(row[f"reader_{name}"] == drawing[row["prompt"]][name] for name in SHOWN)
                for row in frame.to_dict("records")
            ],
            index=frame.request,
        )
        parts = {c: frame.request[frame.prompt == c].to_numpy() for c in captions}
        kept = float(np.mean([right[parts[c]].mean() for c in captions]))
        design, rng = (
            Design(pool, PROBE, _options(pool.study), images_per_prompt=IMAGES),
            (np.random.default_rng(6)),
        )
        # Captions and drawings are embedded once: every sub-audit's are the same.
        first = design.analysed(design.draw([parts[p][0] for p in _asked(design)])).tables
        design = Design(
            pool, PROBE, _options(pool.study), images_per_prompt=IMAGES, tables=dict(first)
        )
        asked = _asked(design)
        for number in range(size.sub_audits):
            for swapped in (0.0, SWAPPED):
                turned = rng.random(len(asked)) < swapped
                donors = [
                    parts[other[p] if t else p][rng.integers(len(parts[p]))]
                    for p, t in zip(asked, turned, strict=True)
                ]
                one = found(design.findings(donors), "binding_accuracy")
                effect = Effect(
                    PROBE,
                    "half of the captions exchanged" if swapped else "captions as they are",
                    "binding_accuracy",
                    "images that fit their own caption",
                    "planted" if swapped else "null",
                    open=not swapped,
                )
                yield Outcome.of(effect, number, kept * (1 - swapped), one)
        yield Read("reader", "the caption's things", "what was asked", right, frame.prompt)
        yield from detectors.of_words()
        yield from detectors.unread(PROBE)


def _sets(study: Study) -> list[dict[str, Any]]:
    return [dict(one) for one in study.suite.section(PROBE)["compositions"]["binding"]]


def _options(study: Study) -> dict[str, Any]:
    return {
        "photorealism": {"prompts": []},
        "text": {"prompts": []},
        "autoencoder": {"drawn": False},
        "compositions": {"binding": _sets(study)},
    }


def _asked(design: Design) -> list[str]:
    """The prompt of each request, in order."""
    uses = design.uses.drop_duplicates("place").sort_values("place")
    prompts: list[str] = uses.prompt.tolist()
    return prompts
