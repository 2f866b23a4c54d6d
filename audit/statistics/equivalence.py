"""Biased, equivalent or inconclusive: one margin, two tests.

A difference δ = θ − reference is *biased* if it is shown to lie beyond ±margin, *equivalent* if it
is shown to lie within (two one-sided tests, Schuirmann 1987), else *inconclusive*. Biased means
that the (1 − α) interval lies wholly outside the margin, equivalent that the (1 − 2α) interval lies
wholly inside. With margin 0 "biased" is the usual test, and nothing is ever equivalent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom, norm, t
from statsmodels.stats import proportion

from ._checks import Interval, finite
from .clusters import cluster_mean
from .intervals import clopper_pearson
from .paired import discordant, tango, tango_score

Verdict = Literal["biased", "equivalent", "inconclusive"]


def verdict_by_interval(
    ci: Interval, margin: float, reference: float = 0.0, inner: Interval | None = None
) -> Verdict:
    """The verdict of any interval: corrected, prediction-powered, clustered or sequential.

    Args:
        ci: the (1 − α) interval; biased if it lies wholly beyond reference ± margin.
        inner: the (1 − 2α) interval, equivalent if it lies wholly within; `ci` itself if not given,
            which is more careful, and what a confidence sequence asks for.

    >>> verdict_by_interval((0.62, 0.8), 0.1, 0.5), verdict_by_interval((0.45, 0.58), 0.1, 0.5)
    ('biased', 'equivalent')
    """
    if margin < 0:
        raise ValueError(f"a margin must not be negative, not {margin}")
    low, high = reference - margin, reference + margin
    if ci[0] > high or ci[1] < low:
        return "biased"
    least, most = ci if inner is None else inner
    return "equivalent" if low < least and most < high else "inconclusive"


@dataclass(frozen=True)
class Equivalence:
    """What was decided about an estimate, and on which figures.

    Attributes:
        ci: the interval at level 1 − α.
        p_beyond: p-value of "within the margin"; the one to adjust over a family of questions.
        p_within: p-value of "beyond the margin", the larger of the two one-sided ones.
    """

    estimate: float
    ci: Interval
    p_beyond: float
    p_within: float
    alpha: float

    @property
    def verdict(self) -> Verdict:
        """By the two p-values against α."""
        if self.p_beyond < self.alpha:
            return "biased"
        return "equivalent" if self.p_within < self.alpha else "inconclusive"


def equivalence(
    estimate: float,
    standard_error: float,
    margin: float,
    reference: float = 0.0,
    degrees_of_freedom: float = float("inf"),
    alpha: float = 0.05,
) -> Equivalence:
    """For an estimate that is normal, or Student's, around its truth.

    >>> equivalence(0.62, 0.02, margin=0.05, reference=0.5).verdict
    'biased'
    >>> equivalence(0.51, 0.02, margin=0.05, reference=0.5).verdict
    'equivalent'
    >>> equivalence(0.56, 0.02, margin=0.05, reference=0.5).verdict
    'inconclusive'
    """
    if not standard_error > 0:
        raise ValueError(f"a standard error must be positive, not {standard_error}")
    law = norm if np.isinf(degrees_of_freedom) else t(degrees_of_freedom)
    half = float(law.ppf(1 - alpha / 2)) * standard_error
    return _decide(
        estimate,
        (estimate - half, estimate + half),
        lambda bound: float(law.sf((estimate - bound) / standard_error)),
        lambda bound: float(law.cdf((estimate - bound) / standard_error)),
        reference,
        margin,
        alpha,
    )


def equivalence_of_mean(
    values: ArrayLike,
    margin: float,
    reference: float = 0.0,
    clusters: ArrayLike | None = None,
    alpha: float = 0.05,
) -> Equivalence:
    """For a mean, or for paired differences: give ``values − baseline``. Student's t.

    Args:
        values: shape (N,).
        clusters: shape (N,), the prompt of each value: the prompts' means are the sample.

    Raises:
        ValueError: fewer than two values or clusters, or no variation among them.

    >>> equivalence_of_mean([0.01, -0.02, 0.0, 0.02, -0.01], margin=0.1).verdict
    'equivalent'
    """
    v = finite(values)
    groups = np.arange(len(v)) if clusters is None else np.asarray(clusters)
    mean, (low, high) = cluster_mean(v, groups)
    size = len(np.unique(groups))
    if size < 2:
        raise ValueError("equivalence needs at least two values or clusters")
    error = (high - low) / 2 / float(t.ppf(0.975, size - 1))
    return equivalence(mean, error, margin, reference, size - 1, alpha)


def equivalence_of_proportion(
    successes: int, n: int, margin: float, reference: float = 0.5, alpha: float = 0.05
) -> Equivalence:
    """For one proportion of independent images, by exact binomial tests.

    Its errors are at most α whatever n and the reference; its interval is Clopper and Pearson's.

    >>> equivalence_of_proportion(90, 100, margin=0.1).verdict
    'biased'
    >>> equivalence_of_proportion(55, 100, margin=0.1).verdict
    'inconclusive'
    >>> equivalence_of_proportion(250, 500, margin=0.1).verdict
    'equivalent'
    """
    if n < 1:
        raise ValueError("a proportion needs at least one image")
    return _decide(
        successes / n,
        clopper_pearson(successes, n, 1 - alpha),
        lambda bound: float(binom.sf(successes - 1, n, min(bound, 1))) if bound >= 0 else 0.0,
        lambda bound: float(binom.cdf(successes, n, max(bound, 0))) if bound <= 1 else 0.0,
        reference,
        margin,
        alpha,
    )


def equivalence_of_proportions(
    successes: int, n: int, other_successes: int, other_n: int, margin: float, alpha: float = 0.05
) -> Equivalence:
    """For the difference of two independent proportions, by the score test.

    Farrington and Manning (1990), Miettinen and Nurminen (1985): the variance is the likeliest one
    under the difference that is tested.

    >>> equivalence_of_proportions(50, 100, 20, 100, margin=0.1).verdict
    'biased'
    """
    counts = (successes, n, other_successes, other_n)

    def tail(alternative: str) -> Callable[[float], float]:
        def p_value(bound: float) -> float:
            if abs(bound) >= 1:
                return float((bound > 0) == (alternative == "larger"))
            test = proportion.test_proportions_2indep(
                *counts, value=bound, method="score", compare="diff", alternative=alternative
            )
            return float(test.pvalue)

        return p_value

    low, high = proportion.confint_proportions_2indep(
        *counts, method="score", compare="diff", alpha=alpha
    )
    estimate = successes / n - other_successes / other_n
    ci = (float(low), float(high))
    return _decide(estimate, ci, tail("larger"), tail("smaller"), 0.0, margin, alpha)


def equivalence_of_pairs(
    first: ArrayLike, second: ArrayLike, margin: float, alpha: float = 0.05
) -> Equivalence:
    """For the difference of two proportions in pairs, by the score test (Nam 1997; Tango 1998).

    Args:
        first, second: shape (N,), 0 or 1, the two outcomes of each pair.

    >>> equivalence_of_pairs([1, 0] * 50, [1, 0] * 50, margin=0.1).verdict
    'equivalent'
    """
    b, c, n = discordant(first, second)
    score = tango_score(b, c, n)
    return _decide(
        (b - c) / n,
        tango(b, c, n, 1 - alpha),
        lambda bound: float(norm.sf(score(bound))),
        lambda bound: float(norm.cdf(score(bound))),
        0.0,
        margin,
        alpha,
    )


def _decide(
    estimate: float,
    ci: Interval,
    above: Callable[[float], float],
    below: Callable[[float], float],
    reference: float,
    margin: float,
    alpha: float,
) -> Equivalence:
    """`above(b)` is the p-value of θ ≤ b, `below(b)` that of θ ≥ b."""
    if margin < 0:
        raise ValueError(f"a margin must not be negative, not {margin}")
    low, high = reference - margin, reference + margin
    beyond = min(1.0, 2 * min(above(high), below(low)))
    return Equivalence(estimate, ci, beyond, max(above(low), below(high)), alpha)
