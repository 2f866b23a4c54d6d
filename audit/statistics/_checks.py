"""What the functions of this package ask of their arguments."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

Floats = NDArray[np.float64]
Interval = tuple[float, float]
UNKNOWN: Interval = (float("nan"), float("nan"))


def normal_quantile(level: float) -> float:
    """z such that a standard normal lies within ±z with probability `level`."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    return float(ndtri(0.5 + level / 2))


def student_quantile(level: float, degrees_of_freedom: float) -> float:
    """The same of Student's t."""
    normal_quantile(level)
    return float(stdtrit(degrees_of_freedom, 0.5 + level / 2))


def finite(values: ArrayLike, name: str = "values") -> Floats:
    """A one-dimensional array of finite numbers: a missing value is not a number to average."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not {array.ndim}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite: leave missing images out and bound them apart")
    return array


def binary(values: ArrayLike, name: str = "labels") -> NDArray[np.bool_]:
    """A one-dimensional array of 0 and 1 as booleans."""
    array = finite(values, name)
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be 0 or 1")
    return array.astype(bool)


def group_index(groups: ArrayLike, n: int, name: str) -> NDArray[np.intp]:
    """The groups' numbers 0…G − 1, one for each of n values."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    if index.shape != (n,):
        raise ValueError(f"{n} values but {index.size} {name}")
    return index


def probabilities(values: ArrayLike, name: str = "reference") -> Floats:
    """A distribution: no negative share, summing to 1."""
    array = finite(values, name)
    if (array < 0).any() or abs(array.sum() - 1) > 1e-6:
        raise ValueError(f"{name} must be shares that sum to 1, not to {array.sum():g}")
    shares: Floats = array / array.sum()
    return shares


def resampled_counts(size: int, draws: int, rng: np.random.Generator) -> Floats:
    """How often each of `size` members is in a sample with replacement, shape (draws, size)."""
    chosen = rng.integers(0, size, (draws, size)) + size * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * size).reshape(draws, size).astype(float)


def percentile_interval(draws: Floats, level: float) -> Interval:
    """The central `level` of bootstrap draws, shape (B,)."""
    normal_quantile(level)
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)
