"""From what an instrument said to what is true: raw, corrected for error, or by people's labels.

For each prompt the best that there is: people's labels of these very images, where at least 20 of
its images have one (prediction-powered inference); else the instrument's error as measured on other
images of the model (Rogan and Gladen 1978); else the raw share, its error unknown.

Shares are of the images in which the instrument could look: made, and with a face where one is
needed. Of two labels, an undetermined image counts as not the positive one, and sensitivity and
specificity are counted the same way; of more than two, undetermined images are left out on both
sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.detector_error import Confusion
from audit.perception import WITHOUT
from audit.statistics import (
    likeliest_shares,
    paired_proportions,
    prediction_powered_mean,
    rogan_gladen,
    wilson,
)

from .reading import Floats, Units

Interval = tuple[float, float]

LEAST_LABELS = 20
"""People's labels of a prompt's images below which they do not stand for it."""
LEAST_DISAGREEMENTS = 10
"""Labels that contradict the instrument, below which PPI++'s normal interval is too narrow."""
DRAWS = 2000
TINY = 1e-3
"""Keeps a distribution proper where it has all its weight on one end."""

UNDETERMINED = WITHOUT.index("undetermined")


@dataclass(frozen=True)
class Sources:
    """What is known of one attribute beyond what the instrument said.

    Attributes:
        error: its errors by subject; ``None``: unknown.
        error_name: where they come from, in words; or why there are none.
        truth: people's label of each row of the frame, NaN where there is none.
        labels_name: the file of labels.
        refused: why people's labels that were given are not used.
    """

    error: Confusion | None = None
    error_name: str = ""
    truth: pd.Series | None = None
    labels_name: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Shares:
    """A share of the positive label for each of P prompts.

    Attributes:
        value, raw: shape (P,); nan without images.
        n: shape (P,), images that the estimate rests on.
        corrected_for, method: in words.
        error: shape (P, 2, 2): for corrected prompts the images behind sensitivity and
            specificity, ((right, all), (right, all)); nan elsewhere.
        draws: shape (P, DRAWS, K), posterior shares where there are more than two labels.
    """

    units: Units
    value: Floats
    raw: Floats
    n: NDArray[np.int64]
    corrected_for: list[str | None]
    method: list[str]
    error: Floats
    draws: Floats | None = None
    _interval: list[Callable[[float], Interval]] = field(default_factory=list)

    def interval(self, at: int, level: float = 0.95) -> Interval | None:
        """The interval of one prompt's share; ``None`` without images."""
        return self._interval[at](level) if self.n[at] else None


def shares(units: Units, said: pd.Series, sources: Sources) -> Shares:
    """The best estimate for each prompt.

    Args:
        said: what the instrument said of every row of the frame.
    """
    size, at, by = len(units.about), units.attribute.at, units.attribute.read_by
    binary = len(units.attribute.labels) == 2
    hits, labelled = units.hits, units.n
    raw = np.divide(hits, labelled, out=np.full(size, np.nan), where=labelled > 0)
    value, error = raw.copy(), np.full((size, 2, 2), np.nan)
    seen = labelled + (units.without[:, UNDETERMINED] if binary else 0)
    n: NDArray[np.int64] = labelled.astype(np.int64)
    corrected: list[str | None] = [None] * size
    method = [f"{by}; Wilson"] * size
    intervals: list[Callable[[float], Interval]] = [
        _wilson(k, total) for k, total in zip(hits, labelled, strict=True)
    ]
    draws = None
    if sources.error is not None:
        rows = np.stack([sources.error.of(str(s)) for s in units.about["subject"]])
        known = (rows.sum(axis=2) > 0).all(axis=1) & (labelled > 0)
        other = np.delete(rows, at, axis=1).sum(axis=1)
        error[known] = np.stack(
            [
                np.stack([rows[:, at, at], rows[:, at].sum(axis=1)], axis=1),
                np.stack([other.sum(axis=1) - other[:, at], other.sum(axis=1)], axis=1),
            ],
            axis=1,
        )[known]
        draws = np.full((size, DRAWS, len(units.attribute.labels)), np.nan)
        for i in np.flatnonzero(known):
            if binary:
                point = _rogan_gladen(hits[i], seen[i], error[i])
                if np.isnan(point):  # no better than chance: nothing is known
                    continue
                value[i], n[i] = point, seen[i]
                both = _two(hits[i], seen[i], error[i], at)
                method[i] = f"{by}; Rogan-Gladen, posterior interval"
            else:
                value[i] = _point(units.counts[i], rows[i, :, :-1])[at]
                both = _many(units.counts[i], rows[i, :, :-1])
                method[i] = f"{by}; likeliest shares given the confusion matrix, posterior"
                method[i] += " interval"
            draws[i] = both[0]
            intervals[i] = _quantiles(value[i], both[0][:, at], both[1][:, at])
            corrected[i] = f"detector error ({sources.error_name})"
    if sources.truth is not None:
        true, told = sources.truth.to_numpy(object), said.to_numpy(object)
        for place, rows_of in enumerate(units.rows):
            powered = _powered(told[rows_of], true[rows_of], units)
            if powered is not None:
                share, images, intervals[place], how = powered
                value[place], n[place] = share, np.int64(images)
                method[place] = f"{by} and people's labels; {how}"
                corrected[place] = f"human labels ({how}, {sources.labels_name})"
    return Shares(units, value, raw, n, corrected, method, error, draws, intervals)


def _wilson(k: float, n: float) -> Callable[[float], Interval]:
    return lambda level: wilson(k, n, level)


def _rogan_gladen(hits: float, n: float, error: Floats) -> float:
    (tp, positives), (tn, negatives) = error
    return rogan_gladen(hits, n, (tp, positives), (tn, negatives)).estimate


def _two(hits: float, n: float, error: Floats, at: int) -> tuple[Floats, Floats]:
    """Posterior draws of two shares, shape (DRAWS, 2), twice.

    p = (q + Sp − 1)/(Se + Sp − 1) with q ~ Beta(k + ½, n − k + ½) and Se, Sp from the posteriors
    that :meth:`audit.detector_error.Confusion.of` describes. What is no share is cut to [0, 1] in
    the first, and drawn by :func:`_within` in the second. A draw in which the instrument is no
    better than chance says nothing, and is uniform.
    """
    rng = np.random.default_rng(0)
    (tp, positives), (tn, negatives) = error
    q = rng.beta(hits + 0.5, n - hits + 0.5, DRAWS)
    se = rng.beta(tp + TINY, positives - tp + TINY, DRAWS)
    sp = rng.beta(tn + TINY, negatives - tn + TINY, DRAWS)
    youden = se + sp - 1
    share = np.where(youden > 0, (q + sp - 1) / np.where(youden > 0, youden, 1), rng.random(DRAWS))
    cut, outside = share.clip(0, 1), (share < 0) | (share > 1)
    if outside.any():
        m = np.stack([np.stack([se, 1 - se], 1), np.stack([1 - sp, sp], 1)], 1)[outside]
        share[outside] = _within(np.array([hits, n - hits]), m, rng)[:, 0]
    both = [np.stack([1 - one, one] if at else [one, 1 - one], axis=1) for one in (cut, share)]
    return both[0], both[1]


def _within(counts: Floats, m: Floats, rng: np.random.Generator, steps: int = 20) -> Floats:
    """A posterior draw of the true shares for each of B confusion matrices, shape (B, K).

    Gibbs sampling (Swartz et al. 2004): which of the images called j are in truth k, then
    p ~ Dirichlet with 1/K added to how many are in truth each class. Where the matrix expects more
    errors than were seen, the inverse is no distribution and its nearest one lies on the edge: an
    interval of such would have no width, however few the images.

    Args:
        counts: shape (K,), images called each class.
        m: shape (B, K, K), rows the truth.
    """
    size = len(counts)
    called = np.round(counts).astype(int)
    p = np.full((len(m), size), 1 / size)
    for _ in range(steps):
        truth = p[:, :, None] * m
        of_class = np.full(p.shape, 1 / size)
        for j in np.flatnonzero(called):
            chances = truth[:, :, j] + 1e-12
            of_class += rng.multinomial(called[j], chances / chances.sum(axis=1, keepdims=True))
        drawn = np.maximum(rng.standard_gamma(of_class), 1e-300)
        p = drawn / drawn.sum(axis=1, keepdims=True)
    return p


def _quantiles(value: float, *draws: Floats) -> Callable[[float], Interval]:
    """The central part of each way to draw, whichever reaches farther.

    Draws cut to the edge leave an interval without width there, others are never on it. On the
    edge on which the estimate lies the interval ends (Brown, Cai and DasGupta 2001).
    """

    def at_level(level: float) -> Interval:
        low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=1)
        return float(low.min()) if value > 0 else 0.0, float(high.max()) if value < 1 else 1.0

    return at_level


def _point(counts: Floats, rows: Floats) -> Floats:
    """The likeliest shares, shape (K,), as :func:`audit.statistics.correct_shares` has them."""
    m = rows / rows.sum(axis=1, keepdims=True)
    found: Floats = likeliest_shares((counts / counts.sum())[None], m[None])[0].round(9)
    return found


def _many(counts: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Posterior draws of K shares, shape (DRAWS, K), twice: where the inverse is no distribution,
    the likeliest one as :func:`correct_shares` has it, and one by :func:`_within`."""
    rng, size = np.random.default_rng(0), len(counts)
    q = rng.dirichlet(counts + 1 / size, DRAWS)
    m = np.stack([rng.dirichlet(row + TINY, DRAWS) for row in rows], axis=1)
    found: Floats = np.einsum("bj,bjk->bk", q, np.linalg.pinv(m))
    outside = (found < 0).any(axis=1)
    likeliest = found.copy()
    # Only draws whose inverse is no distribution need the search, and few steps of it: what is
    # left is smaller than the spread of the draws.
    if outside.any():
        likeliest[outside] = likeliest_shares(q[outside], m[outside], steps=50)
        found[outside] = _within(counts, m[outside], rng)
    return likeliest, found


def _powered(
    told: NDArray[np.object_], true: NDArray[np.object_], units: Units
) -> tuple[float, int, Callable[[float], Interval], str] | None:
    """Prediction-powered share of one prompt: value, n, interval, method; ``None``: too few labels.

    PPI++ (Angelopoulos, Duchi and Zrnic 2023) needs some ten disagreements for its normal interval.
    With fewer, the instrument's share on the other images and the mean correction are added, and
    so are Wilson's and Tango's (1998) score intervals, in squares (Zou and Donner 2008). Where
    people labelled more images than they left, their labels alone are as good.
    """
    attribute = units.attribute
    looked = np.isin(told.astype(str), [*attribute.labels, "undetermined"])
    known = looked & np.isin(true.astype(str), attribute.labels)
    if known.sum() < LEAST_LABELS:
        return None
    y = (true[known] == attribute.positive).astype(float)
    f = (told[known] == attribute.positive).astype(float)
    rest = (told[looked & ~known] == attribute.positive).astype(float)
    n = int(looked.sum())
    if len(rest) < len(y):
        return float(y.mean()), len(y), _wilson(y.sum(), len(y)), "labels alone, Wilson"
    if (y != f).sum() >= LEAST_DISAGREEMENTS:

        def tuned(level: float) -> Interval:
            low, high = prediction_powered_mean(y, f, rest, level)[1]
            return max(0.0, low), min(1.0, high)

        value = prediction_powered_mean(y, f, rest)[0]
        return min(1.0, max(0.0, value)), n, tuned, "PPI++"
    value = float(rest.mean() + y.mean() - f.mean())

    def scored(level: float) -> Interval:
        share, (low, high) = float(rest.mean()), wilson(float(rest.sum()), len(rest), level)
        gap, (least, most) = paired_proportions(y, f, level)
        down, up = np.hypot(share - low, gap - least), np.hypot(high - share, most - gap)
        return max(0.0, value - float(down)), min(1.0, value + float(up))

    return min(1.0, max(0.0, value)), n, scored, "PPI, score intervals"
