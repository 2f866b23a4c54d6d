"""Are a classifier's probabilities true?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import Floats, binary, finite


@dataclass(frozen=True)
class Calibration:
    """The calibration error of probabilities in bins, with the bins for a reliability diagram.

    Attributes:
        ece: Σ w_b |ȳ_b − p̄_b| (Naeini et al. 2015; Guo et al. 2017).
        floor: its expectation for a classifier of the same probabilities that are true.
        rms: the root of Σ w_b [(ȳ_b − p̄_b)² − ȳ_b(1 − ȳ_b)/(n_b − 1)], cut at 0: without that bias
            (Kumar, Liang and Ma 2019). Bins of a single image do not enter.
        mean, rate, n: shape (B,), mean probability, share of positives and images of each bin.
    """

    ece: float
    floor: float
    rms: float
    mean: Floats
    rate: Floats
    n: NDArray[np.intp]


def calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    bins: int = 15,
    scheme: Literal["width", "mass"] = "mass",
    draws: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Expected calibration error over bins of equal width or, steadier, of equal numbers of images.

    Args:
        probabilities: shape (N,), of the positive class, in [0, 1].
        labels: shape (N,), 0 or 1.
        scheme: equal ``width`` are (0, 1/B], …; equal ``mass`` are split by rank, ties together.

    >>> found = calibration_error([0.2] * 10 + [0.8] * 10, [1] * 2 + [0] * 8 + [1] * 6 + [0] * 4, 2)
    >>> round(found.ece, 3), round(found.floor, 3)
    (0.1, 0.094)
    """
    p, y = _forecasts(probabilities, labels)
    if scheme == "width":
        # Rounded, because 0.15 · 20 is a little more than 3.
        index = np.clip(np.ceil(np.round(p * bins, 9)).astype(int) - 1, 0, bins - 1)
    elif scheme == "mass":
        # Equal probabilities share the lowest of their ranks, and so their bin.
        _, first, inverse = np.unique(np.sort(p), return_index=True, return_inverse=True)
        rank = np.empty(len(p), dtype=int)
        rank[np.argsort(p, kind="stable")] = first[inverse]
        index = rank * bins // len(p)
    else:
        raise ValueError(f"scheme must be width or mass, not {scheme!r}")
    _, index = np.unique(index, return_inverse=True)
    n = np.bincount(index)
    mean, rate = np.bincount(index, p) / n, np.bincount(index, y) / n
    weight = n / len(p)
    several = n > 1
    bias = rate[several] * (1 - rate[several]) / (n[several] - 1)
    squared = (weight[several] * ((rate - mean)[several] ** 2 - bias)).sum()
    rng = np.random.default_rng(seed)
    members = np.eye(len(n))[index]
    true = ((rng.random((draws, len(p))) < p) - p) @ members
    return Calibration(
        float((weight * np.abs(rate - mean)).sum()),
        float(np.abs(true).sum(axis=1).mean() / len(p)),
        float(np.sqrt(max(0.0, squared))),
        mean,
        rate,
        n,
    )


@dataclass(frozen=True)
class Brier:
    """The Brier score and its parts: score = reliability − resolution + uncertainty.

    Attributes:
        reliability: how far the probabilities are from the rates; 0 is calibrated.
        resolution: how far the rates differ from the overall rate; more is better.
        uncertainty: the overall rate's variance, the score of always forecasting it.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> Brier:
    """Mean (p − y)² (Brier 1950) with Murphy's (1973) decomposition over distinct probabilities.

    The score is a mean over images: its interval is `cluster_mean` of (p − y)². With distinct
    probabilities on every image the parts say nothing: round the probabilities first.

    >>> found = brier_score([0.2] * 5 + [0.8] * 5, [0, 0, 0, 0, 1, 1, 1, 1, 0, 0])
    >>> round(found.score, 3), round(found.reliability, 3), round(found.resolution, 3)
    (0.22, 0.02, 0.04)
    """
    p, y = _forecasts(probabilities, labels)
    values, index = np.unique(p, return_inverse=True)
    n = np.bincount(index)
    rate, overall = np.bincount(index, y) / n, float(y.mean())
    weight = n / len(p)
    return Brier(
        float(((p - y) ** 2).mean()),
        float((weight * (values - rate) ** 2).sum()),
        float((weight * (rate - overall) ** 2).sum()),
        overall * (1 - overall),
    )


def _forecasts(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    p, y = finite(probabilities, "probabilities"), binary(labels).astype(float)
    if p.shape != y.shape or not len(p):
        raise ValueError(f"{len(p)} probabilities but {len(y)} labels")
    if ((p < 0) | (p > 1)).any():
        raise ValueError("probabilities must lie in 0…1")
    return p, y
