"""Means over prompts × seeds: every prompt is drawn with the same seeds, so both are clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import (
    UNKNOWN,
    Floats,
    Interval,
    binary,
    finite,
    group_index,
    percentile_interval,
    resampled_counts,
    student_quantile,
)


def two_way_mean(
    values: ArrayLike, prompts: ArrayLike, seeds: ArrayLike, level: float = 0.95
) -> tuple[float, Interval]:
    """The mean over images with an interval that is robust to both kinds of cluster.

    V = V_prompt + V_seed − V_prompt∩seed, each V_g = G/(G − 1) Σ_g (Σ_{i∈g} x_i − x̄)²/N²
    (Cameron, Gelbach and Miller 2011). In small samples V may fall below V_prompt or V_seed, even
    below 0: the largest of the three is taken. Student's t with min(G) − 1 degrees of freedom.
    For proportions give 0 and 1, for paired differences the differences.

    Args:
        values, prompts, seeds: shape (N,), one image each.

    Returns:
        estimate, (low, high); (nan, nan) with fewer than two prompts or seeds.

    >>> mean, (low, high) = two_way_mean([1, 0, 1, 1], ["a", "a", "b", "b"], [0, 1, 0, 1])
    >>> mean, round(low, 2), round(high, 2)
    (0.75, -2.43, 3.93)
    """
    v = finite(values)
    mean = float(v.mean())
    return mean, _two_way(mean, (v - mean) / len(v), prompts, seeds, level)


def two_way_difference(
    values: ArrayLike,
    treated: ArrayLike,
    prompts: ArrayLike,
    seeds: ArrayLike,
    level: float = 0.95,
) -> tuple[float, Interval]:
    """Mean of the treated images minus mean of the others, arms sharing prompts, seeds or neither.

    The variance of `two_way_mean` on the influence of each image, ±(x_i − x̄_arm)/n_arm, which is
    the regression of x on the arm. Where every treated image has its untreated pair, `two_way_mean`
    of the differences is the same and simpler.

    >>> difference, _ = two_way_difference([3, 4, 1, 2], [1, 1, 0, 0], list("abab"), [0, 0, 1, 1])
    >>> difference
    2.0
    """
    v, arm = finite(values), binary(treated, "treated")
    if arm.all() or not arm.any():
        raise ValueError("a difference needs treated and untreated images")
    means = v[arm].mean(), v[~arm].mean()
    difference = float(means[0] - means[1])
    influence = np.where(arm, (v - means[0]) / arm.sum(), -(v - means[1]) / (~arm).sum())
    return difference, _two_way(difference, influence, prompts, seeds, level)


def crossed_bootstrap(
    values: ArrayLike,
    prompts: ArrayLike,
    seeds: ArrayLike,
    treated: ArrayLike | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, Interval]:
    """Percentile interval of the pigeonhole bootstrap (McCullagh 2000; Owen 2007).

    Prompts and seeds are resampled independently, and an image has the weight W_prompt · V_seed.
    With effects of prompt and seed the variance is right to order 1/G; of pure noise it counts
    about three times, so the interval errs on the wide side where nothing clusters. Against
    `two_way_mean` it needs no symmetry, stays within [0, 1] for shares, and wants ≥ 20 prompts.

    Args:
        values, prompts, seeds: shape (N,), one image each; the crossing may have gaps.
        treated: shape (N,) booleans: the difference of the arms' means in place of one mean.

    >>> mean, (low, high) = crossed_bootstrap([1, 0, 1, 1], list("aabb"), [0, 1, 0, 1])
    >>> mean, low, high
    (0.75, 0.0, 1.0)
    """
    v = finite(values)
    p, s = group_index(prompts, len(v), "prompts"), group_index(seeds, len(v), "seeds")
    shape = (int(p.max()) + 1, int(s.max()) + 1)
    if min(shape) < 2:
        return _contrast(v, treated), UNKNOWN
    rng = np.random.default_rng(seed)
    weights = [resampled_counts(size, draws, rng) for size in shape]

    def means(chosen: NDArray[np.bool_]) -> Floats:
        cell = p[chosen] * shape[1] + s[chosen]
        totals = [
            np.bincount(cell, w, minlength=shape[0] * shape[1]).reshape(shape)
            for w in (v[chosen], np.ones(int(chosen.sum())))
        ]
        above, below = (((weights[0] @ total) * weights[1]).sum(axis=1) for total in totals)
        # A draw without an image in the arm has no mean.
        mean: Floats = np.divide(above, below, out=np.full(draws, np.nan), where=below > 0)
        return mean

    everything = np.ones(len(v), dtype=bool)
    if treated is None:
        resampled = means(everything)
    else:
        arm = binary(treated, "treated")
        resampled = means(arm) - means(~arm)
    return _contrast(v, treated), percentile_interval(resampled[np.isfinite(resampled)], level)


def _contrast(v: Floats, treated: ArrayLike | None) -> float:
    if treated is None:
        return float(v.mean())
    arm = binary(treated, "treated")
    if arm.all() or not arm.any():
        raise ValueError("a difference needs treated and untreated images")
    return float(v[arm].mean() - v[~arm].mean())


def _two_way(
    estimate: float, influence: Floats, prompts: ArrayLike, seeds: ArrayLike, level: float
) -> Interval:
    n = len(influence)
    p, s = group_index(prompts, n, "prompts"), group_index(seeds, n, "seeds")
    sizes = int(p.max()) + 1, int(s.max()) + 1
    if min(sizes) < 2:
        return UNKNOWN
    _, both = np.unique(p * sizes[1] + s, return_inverse=True)

    def variance(groups: NDArray[np.intp]) -> float:
        sums = np.bincount(groups, influence)
        return float(len(sums) / (len(sums) - 1) * (sums**2).sum())

    by_prompt, by_seed = variance(p), variance(s)
    total = max(by_prompt + by_seed - variance(both), by_prompt, by_seed)
    half: float = student_quantile(level, min(sizes) - 1) * total**0.5
    return estimate - half, estimate + half
