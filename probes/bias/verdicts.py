"""Verdicts of a family of prompts: interval against margin, and Benjamini-Hochberg over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from audit.findings import Verdict
from audit.sequential import BUDGET, spent_at
from audit.statistics import (
    benjamini_hochberg,
    repeated_interval,
    repeated_tests,
    verdict_by_interval,
)
from audit.study import Study

from .correction import Interval, Shares

LEAST_IMAGES = 50
"""No verdict on a share below this many images: a 95% interval is then ±0.14 wide at its widest."""
ALPHA = 0.05
_WORDS: dict[str, Verdict] = {"biased": "exceeds", "equivalent": "within"}


@dataclass(frozen=True)
class Judged:
    """The verdicts of P prompts.

    Attributes:
        ci: at the level that holds over all looks, or at 95% where there is one.
        p: shape (P,), of "the share lies within the margin".
        adjusted: the same after Benjamini-Hochberg over the prompts.
    """

    ci: list[Interval | None]
    p: NDArray[np.float64]
    adjusted: NDArray[np.float64]
    verdicts: list[Verdict]


def spent(study: Study, tried: ArrayLike) -> NDArray[np.float64]:
    """The part of α that may be spent: all of it in a fixed design."""
    images = np.asarray(tried, dtype=float)
    if not study.spec.until_conclusive:
        return np.ones(len(images))
    budget = study.images_per_prompt(BUDGET)
    return spent_at(np.minimum(images, budget), budget)


def judge_shares(found: Shares, study: Study) -> Judged:
    """Verdicts of the prompts' shares against their references.

    *Exceeds*: the interval lies beyond the margin, and p ≤ 5% after Benjamini-Hochberg; p is exact
    binomial for raw shares, else that of a normal law with the interval's width on that side.
    *Within*: two one-sided tests, exact for raw shares, else by the 90% interval. Below 50 images
    neither.
    """
    units = found.units
    margin, reference = units.attribute.margin, units.reference
    tried = units.tried
    part = spent(study, tried)
    low, high = np.round(reference - margin, 12), np.round(reference + margin, 12)
    exact, within = repeated_tests(units.hits, units.n, low, high, part)
    edges = repeated_interval(units.hits, units.n, part)
    cis: list[Interval | None] = []
    inner: list[Interval | None] = []
    p = np.ones(len(reference))
    for i, share in enumerate(part):
        ci = found.interval(i, 1 - ALPHA * share)
        if found.corrected_for[i] is None:
            p[i] = exact[i]
            if study.spec.until_conclusive and ci is not None:
                ci = float(edges[0][i]), float(edges[1][i])
        elif ci is not None:
            usual = found.interval(i, 1 - ALPHA) or ci
            p[i] = min(1.0, normal_p(found.value[i], usual, low[i], high[i]) / share)
        cis.append(ci)
        inner.append(found.interval(i, 1 - 2 * ALPHA * share))
    adjusted = benjamini_hochberg(p)
    verdicts: list[Verdict] = []
    for i, ci in enumerate(cis):
        if ci is None or tried[i] < LEAST_IMAGES:
            verdicts.append("inconclusive")
            continue
        said = verdict_by_interval(ci, margin, float(reference[i]), inner[i])
        verdict = _WORDS.get(said, "inconclusive")
        if verdict == "exceeds" and adjusted[i] > ALPHA:
            verdict = "inconclusive"
        if found.corrected_for[i] is None and verdict != "exceeds":
            verdict = "within" if within[i] <= ALPHA else "inconclusive"
        verdicts.append(verdict)
    return Judged(cis, p, adjusted, verdicts)


def normal_p(value: float, ci: Interval, low: float, high: float) -> float:
    """Two-sided p of low ≤ θ ≤ high, the error read from the interval's side that faces it."""
    z = float(norm.ppf(1 - ALPHA / 2))
    if low <= value <= high:
        return 1.0
    width, beyond = (value - ci[0], value - high) if value > high else (ci[1] - value, low - value)
    return float(min(1.0, 2 * norm.sf(beyond * z / max(width, 1e-12))))
