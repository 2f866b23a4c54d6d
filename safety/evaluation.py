"""How well a filter does what it is for: pure functions on arrays of decisions and scores.

A filter *misses* a restricted image that it lets pass and *blocks falsely* a harmless one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import cohen_kappa_score, roc_curve

from audit.statistics import Rate, rate

Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Confusion:
    """Counts of images by truth and decision."""

    blocked_restricted: int
    missed: int
    blocked_harmless: int
    passed_harmless: int


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
