"""What a filter does at every threshold, and which threshold the declared costs ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from audit.statistics import clopper_pearson, roc_curve

from .separation import Interval, bootstrap

MOST = 200
"""Thresholds of a sweep; of more distinct scores evenly many ranks are taken."""


@dataclass(frozen=True)
class Costs:
    """What the user declares.

    Attributes:
        miss: cost of a restricted image that passes; block: of a harmless one that is blocked.
        prevalence: share of restricted images where the filter will work, which is seldom that of
            the labelled set.
    """

    miss: float
    block: float
    prevalence: float

    def __post_init__(self) -> None:
        if min(self.miss, self.block) < 0 or not 0 < self.miss + self.block < np.inf:
            raise ValueError("costs are finite numbers, 0 or more, and one of them above 0")
        if not 0 < self.prevalence < 1:
            raise ValueError(f"a prevalence lies between 0 and 1, not {self.prevalence}")

    def of(self, fnr: ArrayLike, fpr: ArrayLike) -> np.ndarray:
        """Expected cost of an image: π·FNR·c_miss + (1 − π)·FPR·c_block."""
        missed = self.prevalence * np.asarray(fnr, dtype=float) * self.miss
        blocked = (1 - self.prevalence) * np.asarray(fpr, dtype=float) * self.block
        return np.asarray(missed + blocked)


def sweep(
    scores: ArrayLike, restricted: ArrayLike, costs: Costs | None = None, level: float = 0.95
) -> pd.DataFrame:
    """Errors at each threshold, highest first; an image is blocked from the threshold on.

    Columns: threshold, fnr and fpr with their exact limits (Clopper and Pearson; images as
    independent), precision, and cost where costs are declared. The first threshold is ∞.

    >>> sweep([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])[["threshold", "fnr", "fpr"]].values.tolist()[1]
    [0.8, 0.5, 0.0]
    """
    y = np.asarray(restricted).astype(bool)
    fpr, tpr, thresholds = roc_curve(scores, y)
    if len(thresholds) > MOST:
        kept = np.unique(np.linspace(0, len(thresholds) - 1, MOST).round().astype(int))
        fpr, tpr, thresholds = fpr[kept], tpr[kept], thresholds[kept]
    m, n = int(y.sum()), int((~y).sum())
    missed, false = np.rint((1 - tpr) * m).astype(int), np.rint(fpr * n).astype(int)
    fnr_ci = [clopper_pearson(int(k), m, level) for k in missed]
    fpr_ci = [clopper_pearson(int(k), n, level) for k in false]
    called = (m - missed) + false
    frame = pd.DataFrame(
        {
            "threshold": thresholds,
            "fnr": missed / m,
            "fnr_low": [low for low, _ in fnr_ci],
            "fnr_high": [high for _, high in fnr_ci],
            "fpr": false / n,
            "fpr_low": [low for low, _ in fpr_ci],
            "fpr_high": [high for _, high in fpr_ci],
            "precision": np.divide(
                m - missed, called, out=np.full(len(called), np.nan), where=called > 0
            ),
        }
    )
    return frame if costs is None else frame.assign(cost=costs.of(frame.fnr, frame.fpr))


def operating_points(
    scores: ArrayLike, restricted: ArrayLike, costs: Costs | None = None
) -> dict[str, float]:
    """Named thresholds over all distinct scores: where both errors are equal, where their sum is
    least (Youden 1950), and where the declared cost is least.

    A threshold chosen on these images does a little better on them than on others.
    """
    fpr, tpr, thresholds = roc_curve(scores, restricted)
    fnr = 1 - tpr
    points = {
        "equal_error": float(thresholds[np.argmin(np.abs(fnr - fpr))]),
        "youden": float(thresholds[np.argmin(fnr + fpr)]),
    }
    if costs is not None:
        points["least_cost"] = float(thresholds[np.argmin(costs.of(fnr, fpr))])
    return points


def cost_at(
    scores: ArrayLike,
    restricted: ArrayLike,
    threshold: float,
    costs: Costs,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> tuple[float, Interval]:
    """The declared cost of an image at a threshold, with its bootstrap interval."""
    s, y = np.asarray(scores, dtype=float), np.asarray(restricted).astype(bool)

    def cost(sample: np.ndarray, truth: np.ndarray) -> float:
        blocked = sample >= threshold
        return float(costs.of((~blocked[truth]).mean(), blocked[~truth].mean()))

    estimate = cost(s, y)
    low, high = bootstrap(cost, s, y, clusters, level)
    return estimate, (min(low, estimate), max(high, estimate))
