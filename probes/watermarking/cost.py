"""What a mark costs in quality: each marked image against the unmarked one of the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from audit.findings import Finding
from safety.watermarks.quality import quality
from safety.watermarks.readings import Reading

from .findings import mean_by_prompt, not_tested, of_images
from .pairs import Pair

HIGHEST = 100.0
"""dB that stand for equal images, whose PSNR has no bound."""


def findings(marked: Reading, pairs: Sequence[Pair]) -> Iterator[Finding]:
    """PSNR and SSIM of a mark. No threshold is declared: what is seen depends on the use."""
    wanted = marked.delivered["prompt"].nunique()
    measured = np.array([quality(pair.clean, pair.marked) for pair in pairs]).reshape(-1, 2)
    measured[:, 0] = measured[:, 0].clip(max=HIGHEST)
    prompts = pd.Series([pair.prompt for pair in pairs], dtype=str)
    used = marked.delivered[marked.delivered["request"].isin([pair.request for pair in pairs])]
    for column, (metric, unit, low) in enumerate((("psnr", " dB", 0.0), ("ssim", "", -1.0))):
        name, values = f"watermark_{metric}", measured[:, column]
        if not len(values):
            reason = f"no image delivered as “{marked.delivery}” has an unmarked twin of its size"
            yield not_tested(name, marked.slice, reason)
            continue
        estimate, ci = mean_by_prompt(values, prompts, low, 1.0 if column else HIGHEST)
        yield of_images(
            marked,
            name,
            estimate,
            ci,
            rows=used,
            method="marked against unmarked image of one seed, Student's t over prompts",
            note=f"{metric.upper()} of images marked with {marked.codec} to the unmarked ones: "
            f"{estimate:.3g}{unit} ({len(pairs)} of {wanted} prompts compared).",
            detail={"lowest": float(values.min()), "highest": float(values.max())},
        )
