"""How far two runs differ in one measured thing: the difference, its interval and its p-values.

Where the values of the single images are at hand, the two runs share prompts and, mostly, seeds:
:func:`of_readings` takes that into account. Of two estimates alone, :func:`of_estimates` takes
the runs as independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from audit.statistics import wilson
from audit.statistics.paired import tango, tango_score

Interval = tuple[float, float]
Floats = NDArray[np.float64]

LEAST_SEEDS = 8
"""Common seeds below which the interval is over the prompts, for these seeds as they are: Student's
t over 4 seeds alone would make it half as wide again."""

FEW = 5
"""Events, or their absence, below which a normal interval of a rate is not to be trusted."""


@dataclass(frozen=True)
class Reading:
    """What was read in the images of one run that a finding rests on; N images.

    Attributes:
        values: shape (N,); 0 and 1 where `binary`.
        weights: shape (N,), summing to 1: the finding's raw estimate is the weighted sum.
        clusters: shape (N,), what was asked about: the prompt, or the subject of several wordings.
        prompts, seeds: shape (N,); an image with both in common has the same initial noise.
    """

    values: Floats
    weights: Floats
    clusters: NDArray[np.object_]
    prompts: NDArray[np.object_]
    seeds: NDArray[np.int64]
    binary: bool

    @property
    def mean(self) -> float:
        """The finding's raw estimate."""
        return float(self.weights @ self.values)

    @property
    def cells(self) -> list[tuple[str, int]]:
        """Prompt and seed of each image."""
        return list(zip(map(str, self.prompts), map(int, self.seeds), strict=True))


@dataclass(frozen=True)
class Difference:
    """δ = second − first.

    Attributes:
        ci: at the level asked for.
        above: bound → p-value of δ ≤ bound.
        below: bound → p-value of δ ≥ bound.
        pairs: images with the same prompt and seed in both runs.
    """

    estimate: float
    ci: Interval
    above: Callable[[float], float]
    below: Callable[[float], float]
    method: str
    pairs: int = 0

    def p_beyond(self, margin: float = 0.0) -> float:
        """Two-sided p-value of |δ| ≤ margin; of "nothing changed" where the margin is 0."""
        return min(1.0, 2 * min(self.above(margin), self.below(-margin)))


def of_readings(first: Reading, second: Reading, level: float = 0.95) -> Difference | None:
    """Difference of two weighted means over images that share prompts and seeds.

    The influence of an image on the difference is ±w_i(x_i − x̄_run); summed within a prompt of
    *both* runs it carries their covariance, so V_prompt = G/(G − 1) Σ_g (Σ_{i∈g} ψ_i)² is the
    paired, prompt-clustered variance; of complete pairs it is that of Student's test on the
    prompts' mean differences. All prompts of a run have the same seeds, so seeds are clusters too:
    V = V_prompt + V_seed − V_prompt∩seed, not below any of the first two (Cameron, Gelbach and
    Miller 2011, as in :func:`audit.statistics.two_way_mean`). G is the smaller number of clusters
    of the two runs. Student's t has the fewest degrees of freedom: G − 1, of other seeds in each
    run Satterthwaite's (1946). With fewer than :data:`LEAST_SEEDS` common seeds these are taken as
    given. Of a single prompt the seeds alone are the clusters.

    For outcomes of 0 and 1 that interval collapses when hardly an image differs. It is never
    narrower than the score interval of the pairs (Tango 1998); without pairs, where fewer than
    :data:`FEW` events or non-events were seen, than Newcombe's (1998).

    Returns:
        ``None`` where there are too few prompts or seeds for any interval.
    """
    cells = first.cells, second.cells
    pairs = _pairs(first, second, cells)
    clusters = np.concatenate([first.clusters, second.clusters]).astype(str)
    seeds = np.concatenate([first.seeds, second.seeds])
    arm = np.repeat([0, 1], [len(first.values), len(second.values)])
    influence = np.concatenate(
        [
            -first.weights * (first.values - first.mean),
            second.weights * (second.values - second.mean),
        ]
    )
    one = len(np.unique(clusters)) == 1
    common = _mostly_common(first.seeds, second.seeds)
    variance, groups = _clustered(influence, seeds, arm)
    freedom: float = groups - 1
    if not common:
        freedom = _satterthwaite(influence, seeds, arm)
        pairs = None
    how = "over the seeds of this one prompt"
    if not one:
        by_seed, drawn = variance, groups
        variance, groups = _clustered(influence, clusters, arm)
        how = "over prompts"
        if common and drawn < LEAST_SEEDS:
            freedom = groups - 1
        else:
            both, _ = _clustered(influence, np.array([*map(str, [*cells[0], *cells[1]])]), arm)
            variance = max(variance + by_seed - both, variance, by_seed)
            freedom, groups = min(freedom, groups - 1), min(groups, drawn)
            how = "clustered by prompt and by seed"
    if groups < 2:
        return None
    estimate = second.mean - first.mean
    if pairs is not None:
        how = f"paired by prompt and seed; Student's t {how}"
    else:
        how = f"{'other seeds' if one else 'prompts in common, other seeds'}; Student's t {how}"
    found = student(estimate, math.sqrt(max(variance, 0.0)), freedom, level)
    wider, name = _floor(first, second, pairs, one, level)
    if wider is not None:
        found, how = _wider(found, wider), f"{how}, at least as wide as {name}"
    low, high = found.ci
    if first.binary and second.binary:
        low, high = max(low, -1.0), min(high, 1.0)
    number = 0 if pairs is None else len(pairs)
    return Difference(estimate, (low, high), found.above, found.below, how, number)


def of_estimates(
    first: float,
    first_ci: Interval,
    second: float,
    second_ci: Interval,
    level: float = 0.95,
    degrees_of_freedom: float = math.inf,
) -> Difference:
    """Difference of two independent estimates from their intervals (Zou and Donner 2008).

    δ̂ = θ̂₂ − θ̂₁, low = δ̂ − √((θ̂₂ − l₂)² + (u₁ − θ̂₁)²), high = δ̂ + √((u₂ − θ̂₂)² + (θ̂₁ − l₁)²):
    the method of variance estimates recovery; of two Wilson intervals it is Newcombe's (1998).
    Runs on the same prompts and seeds are positively correlated, so for them it errs on the wide
    side. P-values take the side's half-width as a quantile of Student's t times a standard error.

    >>> found = of_estimates(56 / 70, wilson(56, 70), 48 / 80, wilson(48, 80))
    >>> round(found.estimate, 2), [round(bound, 3) for bound in found.ci]
    (-0.2, [-0.334, -0.052])
    """
    estimate = second - first
    down = math.hypot(max(second - second_ci[0], 0.0), max(first_ci[1] - first, 0.0))
    up = math.hypot(max(second_ci[1] - second, 0.0), max(first - first_ci[0], 0.0))
    law = norm if math.isinf(degrees_of_freedom) else t(degrees_of_freedom)
    quantile = float(law.ppf(0.5 + level / 2))

    def tail(bound: float) -> float:
        """P-value of δ on the other side of `bound` than the estimate, or beyond it."""
        distance = abs(estimate - bound)
        width = down if estimate > bound else up
        return (
            0.0
            if width == 0 and distance > 0
            else float(law.sf(distance * quantile / width) if width > 0 else 0.5)
        )

    return Difference(
        estimate,
        (estimate - down, estimate + up),
        lambda bound: tail(bound) if estimate > bound else 1 - tail(bound),
        lambda bound: tail(bound) if estimate < bound else 1 - tail(bound),
        "runs as independent; from the two intervals (Zou and Donner 2008)",
    )


def student(
    estimate: float, standard_error: float, degrees_of_freedom: float, level: float = 0.95
) -> Difference:
    """Student's interval and tails.

    >>> found = student(0.2, 0.05, 11)
    >>> [round(bound, 3) for bound in found.ci], round(found.p_beyond(), 4)
    ([0.09, 0.31], 0.0021)
    """
    half = float(t.ppf(0.5 + level / 2, degrees_of_freedom)) * standard_error

    def above(bound: float) -> float:
        if standard_error == 0:
            return 0.0 if estimate > bound else 1.0
        return float(t.sf((estimate - bound) / standard_error, degrees_of_freedom))

    def below(bound: float) -> float:
        if standard_error == 0:
            return 0.0 if estimate < bound else 1.0
        return float(t.cdf((estimate - bound) / standard_error, degrees_of_freedom))

    return Difference(estimate, (estimate - half, estimate + half), above, below, "")


def _clustered(
    influence: Floats, groups: NDArray[np.generic], arm: NDArray[np.int64]
) -> tuple[float, int]:
    """The clustered variance and G, the number of clusters of the run that has fewer."""
    _, index = np.unique(groups, return_inverse=True)
    size = min(len(np.unique(index[arm == side])) for side in (0, 1))
    if size < 2:
        return 0.0, size
    sums = np.bincount(index, influence)
    return float(size / (size - 1) * (sums**2).sum()), size


def _mostly_common(first: NDArray[np.int64], second: NDArray[np.int64]) -> bool:
    """At least half of all seeds are in both runs: a few may be lost, not most be new."""
    return 2 * len(np.intersect1d(first, second)) >= len(np.union1d(first, second))


def _satterthwaite(influence: Floats, groups: NDArray[np.generic], arm: NDArray[np.int64]) -> float:
    """Degrees of freedom of a sum of two independent variances, one of each run's clusters."""
    variances, below = [], 0.0
    least = math.inf
    for side in (0, 1):
        _, index = np.unique(groups[arm == side], return_inverse=True)
        freedom = int(index.max())
        if freedom < 1:
            return 0.0
        variance = float((np.bincount(index, influence[arm == side]) ** 2).sum())
        variances.append(variance)
        below += variance**2 / freedom
        least = min(least, freedom)
    return sum(variances) ** 2 / below if below > 0 else least


def _pairs(
    first: Reading, second: Reading, cells: tuple[list[tuple[str, int]], list[tuple[str, int]]]
) -> Floats | None:
    """Both values of the images with one prompt and seed, shape (P, 2).

    ``None`` where they are fewer than half of the smaller run, or a cell holds several images.
    """
    if any(len(set(held)) < len(held) for held in cells):
        return None
    other = dict(zip(cells[1], second.values, strict=True))
    pairs = [
        (value, other[cell])
        for cell, value in zip(cells[0], first.values, strict=True)
        if cell in other
    ]
    return np.array(pairs) if pairs and 2 * len(pairs) >= min(map(len, cells)) else None


def _floor(
    first: Reading, second: Reading, pairs: Floats | None, one: bool, level: float
) -> tuple[Difference | None, str]:
    if not (first.binary and second.binary):
        return None, ""
    if pairs is not None:
        return tango_difference(pairs[:, 0], pairs[:, 1], level), "Tango's score interval"
    events = [float(side.values.sum()) for side in (first, second)]
    sizes = [len(side.values) for side in (first, second)]
    if not one and min(sum(events), sum(sizes) - sum(events)) >= FEW:
        return None, ""
    bounds = [wilson(k, n, level) for k, n in zip(events, sizes, strict=True)]
    rates = [k / n for k, n in zip(events, sizes, strict=True)]
    return of_estimates(rates[0], bounds[0], rates[1], bounds[1], level), "Newcombe's interval"


def tango_difference(first: Floats, second: Floats, level: float = 0.95) -> Difference:
    """Score interval and tails of ``second − first``, outcomes of 0 and 1 in pairs (Tango 1998)."""
    up = int(((second == 1) & (first == 0)).sum())
    down = int(((second == 0) & (first == 1)).sum())
    score = tango_score(up, down, len(first))

    def above(bound: float) -> float:
        return float(bound >= 1) if abs(bound) >= 1 else float(norm.sf(score(bound)))

    def below(bound: float) -> float:
        return float(bound <= -1) if abs(bound) >= 1 else float(norm.cdf(score(bound)))

    return Difference(
        (up - down) / len(first), tango(up, down, len(first), level), above, below, "Tango"
    )


def _wider(found: Difference, other: Difference) -> Difference:
    """The hull of two intervals; a p-value is the larger of the two."""
    return Difference(
        found.estimate,
        (min(found.ci[0], other.ci[0]), max(found.ci[1], other.ci[1])),
        lambda bound: max(found.above(bound), other.above(bound)),
        lambda bound: max(found.below(bound), other.below(bound)),
        "",
    )
