"""How far counts lie from a reference distribution, on a support fixed beforehand.

Every distance is above 0 by chance alone, and the more so the fewer images there are: at parity
|p̂ − ½| averages .137 with 8 images. Compare with `against_null`, never with 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr
from scipy.stats import multinomial

from ._checks import Floats, Interval, probabilities
from .intervals import clopper_pearson

Distance = Callable[[Floats, Floats], Floats]
MOST_OUTCOMES = 50_000


def total_variation(counts: ArrayLike, reference: ArrayLike) -> Floats:
    """½ Σ|p̂ − r|: the share of images that would have to change class.

    Args:
        counts: shape (..., K), images in each of the K classes, empty ones included.
        reference: shape (K,), shares that sum to 1.

    >>> float(total_variation([9, 1], [0.5, 0.5]))
    0.4
    """
    p, r = _shares(counts, reference)
    distance: Floats = np.abs(p - r).sum(axis=-1) / 2
    return distance


def mean_absolute_deviation(counts: ArrayLike, reference: ArrayLike) -> Floats:
    """Σ|p̂ − r|/K, HEIM's measure of bias (Lee et al. 2023): total variation × 2/K.

    >>> float(mean_absolute_deviation([9, 1], [0.5, 0.5]))
    0.4
    """
    p, r = _shares(counts, reference)
    deviation: Floats = np.abs(p - r).mean(axis=-1)
    return deviation


def jensen_shannon(counts: ArrayLike, reference: ArrayLike) -> Floats:
    """Divergence ½ KL(p̂‖m) + ½ KL(r‖m), m = (p̂ + r)/2, in bits: from 0 to 1 (Lin 1991).

    >>> float(jensen_shannon([4, 0], [0.0, 1.0]))
    1.0
    """
    p, r = _shares(counts, reference)
    middle = (p + r) / 2
    nats = (rel_entr(p, middle) + rel_entr(r, middle)).sum(axis=-1) / 2
    divergence: Floats = nats / np.log(2)
    return divergence


def kullback_leibler(counts: ArrayLike, reference: ArrayLike, pseudocount: float = 0.5) -> Floats:
    """KL(p̃‖r) in bits, p̃ = (counts + a)/(n + aK), a = ½ (Krichevsky and Trofimov 1981).

    The support is the reference's: classes without an image count. Over the observed classes only,
    a model that always draws one class would score 0.

    Raises:
        ValueError: a class has no share in the reference: the divergence would be infinite.

    >>> round(float(kullback_leibler([10, 0], [0.5, 0.5])), 3)
    0.733
    """
    c, (_, r) = np.asarray(counts, dtype=float), _shares(counts, reference)
    if (r == 0).any():
        raise ValueError("every class needs a share above 0 in the reference of a KL divergence")
    smoothed = (c + pseudocount) / (c.sum(axis=-1, keepdims=True) + pseudocount * len(r))
    divergence: Floats = rel_entr(smoothed, r).sum(axis=-1) / np.log(2)
    return divergence


@dataclass(frozen=True)
class AgainstNull:
    """A distance beside what the reference itself would show at the same n.

    Attributes:
        floor: its expectation if the images were drawn from the reference.
        excess: estimate − floor; 0 on average where there is no bias.
        p: probability, under the reference, of a distance at least this large.
        exact: summed over every possible outcome, not simulated.
    """

    estimate: float
    floor: float
    p: float
    exact: bool

    @property
    def excess(self) -> float:
        """estimate − floor."""
        return self.estimate - self.floor


def against_null(
    distance: Distance,
    counts: ArrayLike,
    reference: ArrayLike,
    draws: int = 20_000,
    seed: int = 0,
) -> AgainstNull:
    """The distance with its floor and p-value: multinomial goodness of fit by any distance.

    All outcomes are summed where there are at most 50,000 of them, else `draws` are simulated and
    p = (1 + #{at least as far})/(1 + draws), which is valid for any number of draws.

    Args:
        distance: one of this module's functions.
        counts: shape (K,).

    >>> parity = against_null(total_variation, [6, 2], [0.5, 0.5])
    >>> parity.estimate, round(parity.floor, 3), round(parity.p, 3)
    (0.25, 0.137, 0.289)
    """
    c, r = np.asarray(counts, dtype=int), probabilities(reference)
    n, classes = int(c.sum()), len(r)
    observed = float(distance(np.asarray(c, dtype=float), r))
    exact = comb(n + classes - 1, classes - 1) <= MOST_OUTCOMES
    if exact:
        outcomes = _compositions(n, classes)
        weights = multinomial.pmf(outcomes, n, r)
    else:
        outcomes = np.random.default_rng(seed).multinomial(n, r, draws)
        weights = np.full(draws, 1 / draws)
    under = distance(outcomes.astype(float), r)
    floor = float(under @ weights)
    # Equal outcomes may differ in the last bit.
    as_far = float(weights[under >= observed - 1e-12].sum())
    p = min(1.0, as_far) if exact else (as_far * draws + 1) / (draws + 1)
    return AgainstNull(observed, floor, p, exact)


def total_variation_interval(
    counts: ArrayLike, reference: ArrayLike, level: float = 0.95
) -> Interval:
    """An interval of the true total variation, whose coverage is at least `level`.

    The shares lie together in a box of Clopper-Pearson intervals at 1 − (1 − level)/K (Bonferroni);
    the ends are the least and the largest total variation in the box: Σ of what must come in or go
    out, and max over sets A of P(A) − R(A). With two classes it is the exact interval of one share.

    Args:
        counts: shape (K,), K ≤ 16.

    >>> low, high = total_variation_interval([90, 10], [0.5, 0.5])
    >>> round(low, 3), round(high, 3)
    (0.324, 0.451)
    """
    c, r = np.asarray(counts, dtype=int), probabilities(reference)
    classes, n = len(r), int(c.sum())
    if classes > 16:
        raise ValueError(f"the interval enumerates sets of at most 16 classes, not {classes}")
    _shares(c, r)
    # Two classes have one free share.
    each = level if classes == 2 else 1 - (1 - level) / classes
    low, high = np.array([clopper_pearson(int(k), n, each) for k in c]).T
    least = max(np.maximum(low - r, 0).sum(), np.maximum(r - high, 0).sum())
    sets = np.array(list(product((False, True), repeat=classes)))
    most = np.minimum(sets @ high, 1 - ~sets @ low) - sets @ r
    return float(least), float(most.max())


def _shares(counts: ArrayLike, reference: ArrayLike) -> tuple[Floats, Floats]:
    c, r = np.asarray(counts, dtype=float), probabilities(reference)
    if c.shape[-1:] != r.shape:
        raise ValueError(f"counts of shape {c.shape} for a reference of {len(r)} classes")
    totals = c.sum(axis=-1, keepdims=True)
    if not (c >= 0).all() or not (totals > 0).all():
        raise ValueError("counts must not be negative, and need at least one image")
    return c / totals, r


def _compositions(n: int, classes: int) -> NDArray[np.int64]:
    """Every way to put n images into the classes: bars between stars."""
    bars = np.array(list(combinations(range(n + classes - 1), classes - 1)), dtype=np.int64)
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, n + classes - 1)))
    return np.diff(edges, axis=1) - 1
