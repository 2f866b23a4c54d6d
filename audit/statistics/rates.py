"""A proportion among images that come in clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import group_index, normal_quantile, student_quantile
from .intervals import wilson


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
    k: NDArray[np.generic] = np.asarray(events)
    # NaN is true as a boolean: an image without a score must be left out before it is counted.
    if k.size and k.dtype.kind not in "biu":
        raise ValueError("events must be booleans, without missing values")
    if k.ndim != 1:
        raise ValueError("events must have one dimension")
    k = k.astype(bool)
    n, count = len(k), int(k.sum())
    if n == 0:
        return Rate(None, None, 0, 0, None if clusters is None else 0, 0.0)
    if clusters is None:
        return Rate(count / n, wilson(count, n, level), count, n, None, float(n))
    index = group_index(np.asarray(clusters).astype(str), n, "clusters")
    return clustered_rate(np.bincount(index, weights=k), np.bincount(index), level)


def clustered_rate(events: ArrayLike, members: ArrayLike, level: float = 0.95) -> Rate:
    """:func:`rate` from the counts of each cluster, however many images stand behind them.

    Args:
        events, members: shape (C,), each cluster's events and images; no cluster is empty.

    >>> clustered_rate([2, 0], [4, 4]) == rate([1, 1, 0, 0, 0, 0, 0, 0], [*"aaaabbbb"])
    True
    """
    k, m = (np.asarray(counts, dtype=np.int64) for counts in (events, members))
    if k.shape != m.shape or (m < 1).any() or (k < 0).any() or (k > m).any():
        raise ValueError("each cluster has events among its images, and one image or more")
    n, count, size = int(m.sum()), int(k.sum()), len(m)
    if n == 0:
        return Rate(None, None, 0, 0, 0, 0.0)
    p, effective = count / n, float(n)
    simple = p * (1 - p) / n
    if size > 1 and simple > 0:
        residuals = k - p * m
        effect = size / (size - 1) * float((residuals**2).sum()) / n**2 / simple
        if effect > 1:
            shrink = normal_quantile(level) / student_quantile(level, size - 1)
            effective = n / effect * shrink**2
    low, high = wilson(p * effective, effective, level)
    ci = (0.0 if count == 0 else low, 1.0 if count == n else high)
    return Rate(p, ci, count, n, size, effective)
