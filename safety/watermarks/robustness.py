"""What is left of a mark after an attack, and what the attack costs: one table for all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from .attacks import ATTACKS, Attack
from .calibration import Calibration
from .quality import Quality, quality
from .subjects import Rule, Scores, Subject, clustered_interval

RATES = (1e-3, 1e-6)
"""False-positive rates at which detection is reported."""


def robustness(
    subjects: Iterable[Subject],
    attacks: Iterable[Attack] = tuple(ATTACKS.values()),
    calibrations: Mapping[str, Calibration] | None = None,
    rates: Sequence[float] = RATES,
    strengths: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Bit accuracy, detection and quality of marks under attacks.

    A row per mark, attack, strength and false-positive rate; the attack ``none`` comes first.

    Columns:
        mark, attack, strength, unit: a strength is in its attack's unit.
        n, unreadable: marked images, and those of them too small to be read after the attack.
        bits, domain, bit_accuracy, bit_low, bit_high: the share of the readable images' bits that
            agree with the message, upright, in the domain in which the unattacked images agree
            most; the exact 95% interval respects clusters. Missing without a message.
        fpr, null, note: the promised rate, by which null, and why where it is the nominal one.
        tpr, tpr_low, tpr_high: the share of all n images that is found; one that cannot be read is
            not found.
        clean_n, false, false_rate_low, false_rate_high: the same decision on the same images
            without the mark, after the same attack: an attack can make clean images look marked.
        psnr, ssim: median PSNR and mean SSIM, of the marked against the clean images for ``none``,
            of the attacked against the marked ones otherwise; missing where the size changes.

    Args:
        calibrations: mark → its null. Rates that it does not support are decided nominally.
        strengths: attack → strengths to try in place of its own.
        seed: image k is attacked with seed + k, marked and clean alike.

    Raises:
        AuditError: a calibration is another mark's; a strength lies outside an attack's range.
    """
    chosen, rows = list(attacks), []
    for subject in subjects:
        calibration = (calibrations or {}).get(subject.mark)
        rules = [Rule.of(subject.mark, subject.key, alpha, calibration) for alpha in rates]
        reading = read(subject, subject.marked)
        domain = _best_domain(reading)
        cost = mean_quality(map(quality, subject.clean, subject.marked))
        clean = read(subject, subject.clean)
        rows += list(_rows(subject, rules, "none", float("nan"), "", domain, reading, clean, cost))
        for attack in chosen:
            for strength in (strengths or {}).get(attack.name, attack.strengths):
                attacked = _attacked(attack, subject.marked, strength, seed)
                cost = mean_quality(map(quality, subject.marked, attacked))
                reading = read(subject, attacked)
                clean = read(subject, _attacked(attack, subject.clean, strength, seed))
                at = (attack.name, float(strength), attack.unit, domain)
                rows += list(_rows(subject, rules, *at, reading, clean, cost))
    return pd.DataFrame(rows)


Reading = tuple[NDArray[np.bool_], Scores | None]
"""Which images are large enough, shape (N,), and the scores of those."""


def read(subject: Subject, images: Sequence[Image.Image]) -> Reading:
    """Read those images that are large enough."""
    fit = subject.readable(images)
    kept = [image for image, large in zip(images, fit, strict=True) if large]
    return fit, subject.score(kept) if kept else None


def detected(reading: Reading, rule: Rule) -> NDArray[np.bool_]:
    """Which of all images are found to carry the mark; one that cannot be read is not."""
    fit, scores = reading
    found = np.zeros(len(fit), bool)
    if scores is not None:
        found[fit] = rule(scores)
    return found


def mean_quality(each: Iterable[Quality]) -> Quality:
    """Median PSNR, which equal images leave finite, and mean SSIM."""
    psnr, ssim = np.array(list(each)).T
    return Quality(float(np.median(psnr)), float(ssim.mean()))


def _attacked(
    attack: Attack, images: Sequence[Image.Image], strength: float, seed: int
) -> list[Image.Image]:
    return [attack.apply(image, strength, seed + at) for at, image in enumerate(images)]


def _best_domain(reading: Reading) -> int:
    _, scores = reading
    if scores is None or scores.agreement is None:
        return 0
    return int(scores.agreement.mean(axis=0).argmax())


def _rows(
    subject: Subject,
    rules: Sequence[Rule],
    attack: str,
    strength: float,
    unit: str,
    domain: int,
    reading: Reading,
    clean: Reading,
    cost: Quality,
) -> Iterator[dict[str, Any]]:
    fit, scores = reading
    clusters = np.asarray(subject.clusters)
    accuracy, low, high = (float("nan"),) * 3
    if scores is not None and scores.agreement is not None:
        share = scores.agreement[:, domain]
        accuracy = float(share.mean())
        # Whole bits again: the interval counts them, image by image.
        right = np.arange(subject.bits) < np.rint(share * subject.bits)[:, None]
        low, high = clustered_interval(right.ravel(), np.repeat(clusters[fit], subject.bits))
    for rule in rules:
        found, false = detected(reading, rule), detected(clean, rule)[clean[0]]
        tpr_low, tpr_high = clustered_interval(found, clusters)
        false_low, false_high = clustered_interval(false, clusters[clean[0]])
        yield {
            "mark": subject.mark,
            "attack": attack,
            "strength": strength,
            "unit": unit,
            "n": len(found),
            "unreadable": int((~fit).sum()),
            "bits": subject.bits,
            "domain": domain,
            "bit_accuracy": accuracy,
            "bit_low": low,
            "bit_high": high,
            "fpr": rule.alpha,
            "null": rule.kind,
            "note": rule.note,
            "tpr": float(found.mean()),
            "tpr_low": tpr_low,
            "tpr_high": tpr_high,
            "clean_n": len(false),
            "false": int(false.sum()),
            "false_rate_low": false_low,
            "false_rate_high": false_high,
            "psnr": cost.psnr,
            "ssim": cost.ssim,
        }
