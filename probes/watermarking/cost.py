"""What a mark costs in quality: each marked image against the unmarked one of the same seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from zlib import crc32

import numpy as np
import pandas as pd
from PIL import Image

from audit.findings import Finding
from safety.watermarks.attacks import ATTACKS
from safety.watermarks.quality import Quality, quality
from safety.watermarks.readings import Attack, Reading
from safety.watermarks.robustness import mean_quality

from .findings import mean_by_prompt, not_tested, of_images
from .pairs import Pair

HIGHEST = 100.0
"""dB that stand for equal images, whose PSNR has no bound."""
ATTACKED = 8
"""Pairs whose images are attacked once more to be compared: an attack changes all about alike."""


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


def of_attacks(pairs: Sequence[Pair], attacks: Iterable[Attack]) -> Mapping[Attack | None, Quality]:
    """Median PSNR and mean SSIM of the marked images to the unmarked ones (``None``), and of the
    attacked images to the marked ones; NaN where an attack changes the size."""
    some = pairs[:ATTACKED]
    if not some:
        return {}
    found: dict[Attack | None, Quality] = {None: _mean((pair.clean, pair.marked) for pair in some)}
    for name, strength in attacks:
        apply = ATTACKS[name].apply
        found[name, strength] = _mean(
            (pair.marked, apply(pair.marked, strength, crc32(pair.request.encode())))
            for pair in some
        )
    return found


def _mean(pairs: Iterable[tuple[Image.Image, Image.Image]]) -> Quality:
    found = mean_quality(quality(before, after) for before, after in pairs)
    return Quality(float(np.minimum(found.psnr, HIGHEST)), found.ssim)
