"""Is a filter's probability true? Calibration error, Brier score, reliability curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from audit.statistics import brier_score, calibration_error, cluster_mean, wilson

from .separation import Interval

DRAWS = 1000


@dataclass(frozen=True)
class Reliability:
    """Probabilities against what is true.

    Attributes:
        ece: expected calibration error over bins of equal mass (Naeini et al. 2015).
        floor: its expectation if every probability were true; p: the probability of an error as
            large as `ece` then (consistency resampling, Bröcker and Smith 2007).
        rms: the root-mean-square calibration error without its bias (Kumar, Liang and Ma 2019).
        brier, brier_ci: mean (p − y)²; always answering the overall share gives `uncertainty`.
        curve: a row per bin: mean, rate, low, high (Wilson), n.
    """

    ece: float
    floor: float
    p: float
    rms: float
    brier: float
    brier_ci: Interval
    uncertainty: float
    curve: pd.DataFrame


def reliability(
    probabilities: ArrayLike,
    restricted: ArrayLike,
    clusters: ArrayLike | None = None,
    bins: int = 10,
    level: float = 0.95,
    seed: int = 0,
) -> Reliability:
    """Calibration of a probability to be restricted, on images with this share of restricted ones.

    A set in which restricted images are common makes a filter for rare ones look underconfident:
    calibration holds for the mix it was measured on.

    Args:
        probabilities: shape (N,), in [0, 1].
        restricted: shape (N,), booleans.
        clusters: shape (N,), the prompts, for the Brier score's interval.

    >>> found = reliability([0.2] * 10 + [0.8] * 10, [1] * 2 + [0] * 8 + [1] * 8 + [0] * 2, bins=2)
    >>> round(found.ece, 9), found.p
    (0.0, 1.0)
    """
    p, y = np.asarray(probabilities, dtype=float), np.asarray(restricted).astype(bool)
    found = calibration_error(p, y, bins)
    null = _if_true(np.sort(p), np.r_[0, found.n.cumsum()[:-1]], seed)
    above = int((null >= found.ece - 1e-12).sum())
    groups = np.arange(len(p)) if clusters is None else np.asarray(clusters).astype(str)
    brier = brier_score(p, y)
    _, ci = cluster_mean((p - y) ** 2, groups, level)
    bounds = [wilson(r * n, n, level) for r, n in zip(found.rate, found.n.tolist(), strict=True)]
    curve = pd.DataFrame(
        {
            "mean": found.mean,
            "rate": found.rate,
            "low": [low for low, _ in bounds],
            "high": [high for _, high in bounds],
            "n": found.n,
        }
    )
    return Reliability(
        found.ece,
        found.floor,
        (1 + above) / (1 + len(null)),
        found.rms,
        brier.score,
        (max(0.0, min(ci[0], brier.score)), min(1.0, max(ci[1], brier.score))),
        brier.uncertainty,
        curve,
    )


def _if_true(p: NDArray[np.float64], starts: NDArray[np.intp], seed: int) -> NDArray[np.float64]:
    """The calibration error of outcomes that are drawn from the sorted probabilities themselves.

    Bins are of equal mass, so they are stretches of the sorted probabilities.
    """
    rng = np.random.default_rng(seed)
    size = max(1, 2_000_000 // len(p))
    parts = []
    for start in range(0, DRAWS, size):
        drawn = rng.random((min(size, DRAWS - start), len(p))) < p
        parts.append(np.abs(np.add.reduceat(drawn - p, starts, axis=1)).sum(axis=1) / len(p))
    return np.concatenate(parts)
