"""Can a mark be forged? What is left when a marked image is cleared of its content, on another.

A mark that can be carried over proves nothing about where an image comes from. Two forgeries need
neither the key nor the codec: the residual of one marked image, and the mean residual of many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from audit.errors import AuditError

from .calibration import Calibration
from .quality import quality
from .robustness import RATES, Reading, detected, mean_quality, read
from .subjects import Rule, Subject, clustered_interval

Floats = NDArray[np.float64]
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
"""Multiples of the residual."""
_SMOOTH = 5


def residual(marked: Image.Image, original: Image.Image | None = None) -> Floats:
    """What a mark added, shape (H, W, 3), in pixel values.

    Without the `original` it is what a 5×5 median filter takes away, as in the copy attack (Kutter,
    Voloshynovskiy and Herrigel 2000): the mark with the image's own fine detail.

    Raises:
        AuditError: the two differ in size.
    """
    rgb = marked.convert("RGB")
    base = rgb.filter(ImageFilter.MedianFilter(_SMOOTH)) if original is None else original
    if rgb.size != base.size:
        raise AuditError(
            f"a marked image of {rgb.width}×{rgb.height} and its original of "
            f"{base.width}×{base.height} cannot be subtracted"
        )
    difference: Floats = np.asarray(rgb, dtype=float) - np.asarray(base.convert("RGB"), dtype=float)
    return difference


def mean_residual(
    marked: Sequence[Image.Image], clean: Sequence[Image.Image] | None = None
) -> Floats:
    """What many marked images have in common (Yang et al. 2024, "Can Simple Averaging Defeat Modern
    Watermarks?"): their mean less that of `clean` images of others, or their mean residual.

    A mark that does not depend on the image stays while the images average out.

    Raises:
        AuditError: no image, or sizes that differ.
    """
    sizes = {image.size for image in (*marked, *(clean or ()))}
    if not marked or len(sizes) != 1 or clean == []:
        raise AuditError("averaging takes marked images, and clean ones if any, all of one size")
    if clean is None:
        mean: Floats = np.mean([residual(image) for image in marked], axis=0)
        return mean
    return _mean(marked) - _mean(clean)


def forged(target: Image.Image, mark: Floats, strength: float = 1.0) -> Image.Image:
    """An image with `strength` times a residual on it, cut at 0 and 255.

    Raises:
        AuditError: the two differ in size.
    """
    values = np.asarray(target.convert("RGB"), dtype=float)
    if values.shape != mark.shape:
        raise AuditError(
            f"a residual of {mark.shape[1]}×{mark.shape[0]} does not fit an image of "
            f"{target.width}×{target.height}: give images of one size"
        )
    return Image.fromarray((values + strength * mark).round().clip(0, 255).astype(np.uint8))


def spoofing(
    subjects: Iterable[Subject],
    calibrations: Mapping[str, Calibration] | None = None,
    rates: Sequence[float] = RATES,
    strengths: Sequence[float] = STRENGTHS,
) -> pd.DataFrame:
    """How many clean images are taken for marked once a mark is forged on them.

    The forgeries, on each image from others of the subject:
        transplant: the true residual of the image before it, which its owner or whoever was given
            both versions knows;
        copy: the residual of that image by a median filter;
        average: the mean residual by a median filter of the marked images of the other half;
        average-paired: the mean of those less the mean of their unmarked versions.

    Columns:
        mark, forgery, strength, n, unreadable.
        fpr, null, note: as in :func:`safety.watermarks.robustness.robustness`.
        accepted, accepted_low, accepted_high: the share of the n images found to carry the mark;
            without forgery it is the false-positive rate, in the row ``none``.
        psnr, ssim: of the forged against the clean images.

    Raises:
        AuditError: the images of a subject differ in size, or there are fewer than two.
    """
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        if len({i.size for i in (*subject.clean, *subject.marked)}) > 1 or len(subject.clean) < 2:
            raise AuditError(f"forging '{subject.mark}' takes two or more images, all of one size")
        calibration = (calibrations or {}).get(subject.mark)
        rules = [Rule.of(subject.mark, subject.key, alpha, calibration) for alpha in rates]
        rows += _rows(subject, rules, "none", float("nan"), list(subject.clean))
        for forgery, marks in _marks(subject):
            for strength in strengths:
                made = [
                    forged(image, mark, strength)
                    for image, mark in zip(subject.clean, marks, strict=True)
                ]
                rows += _rows(subject, rules, forgery, float(strength), made)
    return pd.DataFrame(rows)


def _marks(subject: Subject) -> Iterator[tuple[str, list[Floats]]]:
    """Each forgery with the residual that each image gets."""
    marked, clean, n = subject.marked, subject.clean, len(subject.clean)
    before = [at - 1 for at in range(n)]
    yield "transplant", [residual(marked[at], clean[at]) for at in before]
    yield "copy", [residual(marked[at]) for at in before]
    # An image is forged from the half it is not in: its own mark must not be what is found.
    even, odd = range(0, n, 2), range(1, n, 2)
    of = {rest: [marked[at] for at in half] for rest, half in ((0, odd), (1, even))}
    without = {rest: [clean[at] for at in half] for rest, half in ((0, odd), (1, even))}
    average = {rest: mean_residual(of[rest]) for rest in of}
    yield "average", [average[at % 2] for at in range(n)]
    paired = {rest: mean_residual(of[rest], without[rest]) for rest in of}
    yield "average-paired", [paired[at % 2] for at in range(n)]


def _rows(
    subject: Subject,
    rules: Sequence[Rule],
    forgery: str,
    strength: float,
    made: list[Image.Image],
) -> list[dict[str, Any]]:
    reading: Reading = read(subject, made)
    cost = mean_quality(map(quality, subject.clean, made))
    found = [detected(reading, rule) for rule in rules]
    intervals = [clustered_interval(one, subject.clusters) for one in found]
    return [
        {
            "mark": subject.mark,
            "forgery": forgery,
            "strength": strength,
            "n": len(made),
            "unreadable": int((~reading[0]).sum()),
            "fpr": rule.alpha,
            "null": rule.kind,
            "note": rule.note,
            "accepted": float(one.mean()),
            "accepted_low": low,
            "accepted_high": high,
            "psnr": cost.psnr,
            "ssim": cost.ssim,
        }
        for rule, one, (low, high) in zip(rules, found, intervals, strict=True)
    ]


def _mean(images: Sequence[Image.Image]) -> Floats:
    total = np.zeros((images[0].height, images[0].width, 3))
    for image in images:
        total += np.asarray(image.convert("RGB"))
    return total / len(images)
