"""How well a filter does what it is for: pure functions on arrays of decisions and scores.

A filter *misses* a restricted image that it lets pass and *blocks falsely* a harmless one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t
from sklearn.metrics import cohen_kappa_score, roc_curve
from statsmodels.stats.proportion import proportion_confint

Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Rate:
    """A proportion: `events` among `n`, with an interval and what it stands on.

    Attributes:
        estimate: events / n; ``None`` when n is 0.
        ci: ``None`` when n is 0.
        clusters: number of prompts, ``None`` where images are taken as independent.
        effective_n: the number of independent images that would tell as much.
    """

    estimate: float | None
    ci: tuple[float, float] | None
    events: int
    n: int
    clusters: int | None
    effective_n: float

    @property
    def method(self) -> str:
        """In words."""
        if self.clusters is None:
            return "Wilson, images as independent"
        return "Wilson on the effective sample size, prompts as clusters"


@dataclass(frozen=True)
class Confusion:
    """Counts of images by truth and decision."""

    blocked_restricted: int
    missed: int
    blocked_harmless: int
    passed_harmless: int


def rate(events: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95) -> Rate:
    """A proportion with Wilson's interval on the effective sample size.

    Images of one prompt resemble each other, so n images tell less than n independent ones. With
    the linearised variance of a ratio over C prompts, v = C/(C − 1) · Σ(k_c − p̂ n_c)²/n², the
    design effect is D = max(1, v / (p̂(1 − p̂)/n)) and, where D > 1, the effective size is
    n/D · (z/t)², t with C − 1 degrees of freedom (Korn and Graubard 1998; with Wilson: Dean and
    Pagano 2015). Without it, 12 prompts × 8 images at an intra-prompt correlation of 0.3 are
    covered 72% of the time instead of 95%, with it 92% (our simulation).

    With one prompt, or none given, D is 1: the interval is about that prompt alone.

    Args:
        events: shape (N,), booleans.
        clusters: shape (N,), the prompt of each image.

    >>> rate([True, False, False, False]).estimate
    0.25
    >>> even = rate([1, 0] * 20, ["a"] * 20 + ["b"] * 20)
    >>> lumpy = rate([1] * 20 + [0] * 20, ["a"] * 20 + ["b"] * 20)
    >>> even.effective_n, round(lumpy.effective_n, 2)
    (40.0, 0.02)
    """
    k = _booleans(events)
    n, count, size = len(k), int(k.sum()), 1
    if n == 0:
        return Rate(None, None, 0, 0, None if clusters is None else 0, 0.0)
    p, effective = count / n, float(n)
    if clusters is not None:
        _, index = np.unique(np.asarray(clusters).astype(str), return_inverse=True)
        if len(index) != n:
            raise ValueError(f"{n} events but {len(index)} clusters")
        members = np.bincount(index)
        size = len(members)
        simple = p * (1 - p) / n
        if size > 1 and simple > 0:
            residuals = np.bincount(index, weights=k) - p * members
            effect = size / (size - 1) * float((residuals**2).sum()) / n**2 / simple
            if effect > 1:
                shrink = norm.ppf(0.5 + level / 2) / t.ppf(0.5 + level / 2, size - 1)
                effective = n / effect * float(shrink) ** 2
    low, high = proportion_confint(p * effective, effective, 1 - level, method="wilson")
    ci = (0.0 if count == 0 else float(low), 1.0 if count == n else float(high))
    return Rate(p, ci, count, n, None if clusters is None else size, effective)


def confusion(blocked: ArrayLike, restricted: ArrayLike) -> Confusion:
    """Counts of a filter's decisions; at a threshold, `blocked` is ``scores >= threshold``.

    >>> confusion(np.array([0.9, 0.2, 0.7]) >= 0.5, [True, True, False])
    Confusion(blocked_restricted=1, missed=1, blocked_harmless=1, passed_harmless=0)
    """
    b, r = _pair(blocked, restricted)
    return Confusion(
        int((b & r).sum()), int((~b & r).sum()), int((b & ~r).sum()), int((~b & ~r).sum())
    )


def miss_rate(
    blocked: ArrayLike,
    restricted: ArrayLike,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> Rate:
    """Share of the restricted images that pass: FN / (FN + TP).

    >>> miss_rate([True, False, True], [True, True, False]).estimate
    0.5
    """
    b, r = _pair(blocked, restricted)
    return rate(~b[r], None if clusters is None else np.asarray(clusters)[r], level)


def false_block_rate(
    blocked: ArrayLike,
    restricted: ArrayLike,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> Rate:
    """Share of the harmless images that are blocked: FP / (FP + TN).

    >>> false_block_rate([True, False, True], [True, True, False]).estimate
    1.0
    """
    b, r = _pair(blocked, restricted)
    return rate(b[~r], None if clusters is None else np.asarray(clusters)[~r], level)


def roc(
    scores: ArrayLike, restricted: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """False-block rate, 1 − miss rate and threshold at every corner of the ROC curve.

    The first threshold is ∞: nothing is blocked.

    >>> fpr, tpr, thresholds = roc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    >>> fpr.tolist(), tpr.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    s, r = np.asarray(scores, dtype=float), _booleans(restricted)
    if s.shape != r.shape:
        raise ValueError(f"{len(s)} scores but {len(r)} labels")
    if r.all() or not r.any():
        raise ValueError("a ROC curve needs restricted and harmless images")
    fpr, tpr, thresholds = roc_curve(r, s)
    return fpr, tpr, thresholds


def agreement(first: ArrayLike, second: ArrayLike) -> tuple[int, float | None]:
    """How many decisions of two filters are equal, and Cohen's κ (1960).

    κ = (p_o − p_e)/(1 − p_e) is ``None`` when both always decide the same one way: agreement by
    chance is then certain and κ is 0/0.

    >>> agreement([True, False, True, False], [True, False, False, False])
    (3, 0.5)
    >>> agreement([False, False], [False, False])
    (2, None)
    """
    a, b = _pair(first, second)
    equal = int((a == b).sum())
    if len(a) == 0 or (a.all() and b.all()) or not (a.any() or b.any()):
        return equal, None
    kappa = float(cohen_kappa_score(a, b))
    return equal, None if math.isnan(kappa) else kappa


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[Booleans, Booleans]:
    a, b = _booleans(first), _booleans(second)
    if a.shape != b.shape:
        raise ValueError(f"arrays of {len(a)} and {len(b)} images do not match")
    return a, b


def _booleans(values: ArrayLike) -> Booleans:
    array: NDArray[Any] = np.asarray(values)
    # NaN is true as a boolean: an image without a score must be left out before it is counted.
    if array.dtype.kind not in "biu" and array.size:
        raise ValueError("decisions and labels must be booleans, without missing values")
    if array.ndim != 1:
        raise ValueError("decisions and labels must have one dimension")
    return array.astype(bool)
