"""Is one group blocked more than others? Exact tests, intervals and Benjamini-Hochberg.

Two designs. *Paired*: the same prompt and seed in a version for each group, which differ in nothing
else. *Perceived*: the groups are what is seen in the images of the same prompts, so they are
compared within each prompt.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr
from scipy.stats import hypergeom

from audit.statistics import benjamini_hochberg, paired_gap, stratified_shares

from .separation import Interval, normal_quantile

Floats = NDArray[np.float64]
EXACT = 4000
"""Clusters that differ up to which the test is exact; beyond it is normal."""


@dataclass(frozen=True)
class Gap:
    """How much more often one group's images are blocked than the others'.

    Attributes:
        group: whose; `against`: the group it is compared with, empty: all others.
        rate, other: share blocked of the group and of those it is compared with.
        estimate: their difference, the group's minus the other, with `ci`.
        p: of no difference, two-sided; `adjusted`: over the family (Benjamini and Hochberg 1995).
        n: images of the group that are compared; `events`: of them blocked.
        clusters: prompts.
        left_out: images without a counterpart.
    """

    group: str
    against: str
    rate: float
    other: float
    estimate: float
    ci: Interval
    p: float
    adjusted: float
    n: int
    events: int
    clusters: int
    left_out: int
    method: str


def paired_gaps(
    blocked: ArrayLike,
    groups: Sequence[str],
    pairs: Sequence[Hashable],
    clusters: Sequence[str],
    reference: str = "",
    level: float = 0.95,
) -> list[Gap]:
    """Gaps between versions of the same prompt and seed.

    Under no disparity the K sums of a prompt's blocked images, one for each group, are
    exchangeable: the p-value is that of all Kᶜ assignments over C prompts, exact and whatever the
    dependence within a prompt. With two groups and one image a prompt it is McNemar's exact test.
    Interval: :func:`audit.statistics.paired_gap`'s, Tango's (1998) with prompts as
    clusters.

    Args:
        blocked: shape (N,), booleans.
        groups: shape (N,), the version; pairs: shape (N,), what the versions share (prompt, seed);
            clusters: shape (N,), the prompt.
        reference: compare each other group with this one; empty: with the mean of all others.

    >>> gaps = paired_gaps([1, 1, 1, 1, 1, 0] + [0] * 6, list("aaaaaabbbbbb"), [*range(6)] * 2,
    ...                    [*"uvwxyz"] * 2)
    >>> gaps[0].group, round(gaps[0].estimate, 3), gaps[0].p
    ('a', 0.833, 0.0625)
    """
    b = np.asarray(blocked).astype(bool)
    names = sorted(dict.fromkeys(groups))
    keys, pair = np.unique(np.array([str(x) for x in pairs]), return_inverse=True)
    place = np.array([names.index(g) for g in groups])
    prompt_of = np.empty(len(keys), dtype=object)
    prompt_of[pair] = np.asarray(clusters, dtype=object)
    table = np.full((len(keys), len(names)), np.nan)
    table[pair, place] = b
    found = []
    for at, name in enumerate(names):
        if name == reference:
            continue
        columns = [names.index(reference)] if reference else [*range(len(names))]
        columns = [at, *(c for c in columns if c != at)]
        if len(columns) < 2:
            continue
        whole = ~np.isnan(table[:, columns]).any(axis=1)
        if whole.any():
            left_out = int((~np.isnan(table[:, at])).sum() - whole.sum())
            found.append(
                _paired(
                    table[whole][:, columns], prompt_of[whole], name, reference, left_out, level
                )
            )
    return _adjusted(found)


def _paired(
    versions: Floats, prompts: NDArray[np.object_], name: str, against: str, left_out: int,
    level: float,
) -> Gap:  # fmt: skip
    """`versions`: shape (pairs, K), the group's own first."""
    _, index = np.unique(prompts.astype(str), return_inverse=True)
    size, k = int(index.max()) + 1, versions.shape[1]
    sums = np.stack([np.bincount(index, versions[:, j], size) for j in range(k)], axis=1)
    # k·s_j − Σs is an integer, and its mean over the group's place is 0
    offsets = np.rint(k * sums - sums.sum(axis=1, keepdims=True)).astype(int)
    p = _placed(offsets)
    own, other, ci = paired_gap(versions[:, 0], versions[:, 1:], index, level)
    return Gap(
        name,
        against,
        own,
        other,
        own - other,
        ci,
        p,
        p,
        len(versions),
        int(versions[:, 0].sum()),
        size,
        left_out,
        "paired difference, Tango's score interval with prompts as clusters; exact permutation of "
        "the versions of each prompt",
    )


def _placed(offsets: NDArray[np.int64]) -> float:
    """P(|Σ_c o_c,π(c)| ≥ |Σ_c o_c,0|), each π(c) uniform; `offsets` has shape (C, K)."""
    observed = abs(int(offsets[:, 0].sum()))
    offsets = offsets[(offsets != 0).any(axis=1)]
    if not len(offsets) or not observed:
        return 1.0
    if len(offsets) > EXACT:
        return float(2 * ndtr(-observed / np.sqrt((offsets**2).mean(axis=1).sum())))
    reach = int(np.abs(offsets).max(axis=1).sum())
    mass = np.zeros(2 * reach + 1)
    mass[reach] = 1.0
    for row in offsets:
        # np.roll is a shift: `reach` bounds the sum, so nothing comes round the end
        mass = np.mean([np.roll(mass, int(o)) for o in row], axis=0)
    return float(min(1.0, mass[: reach - observed + 1].sum() + mass[reach + observed :].sum()))


def perceived_gaps(
    blocked: ArrayLike, groups: Sequence[str], prompts: Sequence[str], level: float = 0.95
) -> list[Gap]:
    """Gaps between what is perceived in images of the same prompts, each group against the rest.

    Prompts that show one group only cannot be compared and are left out. Within a prompt, seeds are
    independent, so the group's blocked images are hypergeometric given the prompt's totals; the
    p-value is exact for their sum over prompts (Mehta, Patel and Gray 1985). The difference is
    Mantel and Haenszel's, Σ w_k(p_k − q_k)/Σ w_k with w_k = n_k m_k/(n_k + m_k); interval:
    Newcombe's with stratified Wilson limits (after Yan and Su 2010).

    Args:
        blocked: shape (N,), booleans; groups: shape (N,); prompts: shape (N,).

    >>> gaps = perceived_gaps([1, 1, 1, 0, 0, 0], list("aaabbb"), ["x"] * 6)
    >>> gaps[0].estimate, round(gaps[0].p, 3)
    (1.0, 0.1)
    """
    b, g = np.asarray(blocked).astype(bool), np.asarray(groups, dtype=object)
    _, index = np.unique(np.asarray(prompts).astype(str), return_inverse=True)
    size = int(index.max()) + 1 if len(index) else 0
    found = []
    names = sorted(dict.fromkeys(groups))
    for name in names if len(names) > 1 else []:
        own = g == name
        n, m = np.bincount(index[own], minlength=size), np.bincount(index[~own], minlength=size)
        a = np.bincount(index[own & b], minlength=size)
        c = np.bincount(index[~own & b], minlength=size)
        kept = (n > 0) & (m > 0)
        if kept.any():
            found.append(_stratified(a[kept], n[kept], c[kept], m[kept], name, n.sum(), level))
    return _adjusted(found)


def _stratified(
    a: NDArray[np.int64], n: NDArray[np.int64], c: NDArray[np.int64], m: NDArray[np.int64],
    name: str, total: int, level: float,
) -> Gap:  # fmt: skip
    own, other, ci = stratified_shares(a, n, c, m, level)
    pmf, least = np.ones(1), 0
    for events, here, there in zip(a + c, n, m, strict=True):
        low, high = max(0, events - there), min(events, here)
        support = np.arange(low, high + 1)
        pmf = np.convolve(pmf, hypergeom.pmf(support, here + there, events, here))
        least += low
    at = pmf[int(a.sum()) - least]
    p = float(min(1.0, pmf[pmf <= at * (1 + 1e-9)].sum()))
    return Gap(
        name,
        "",
        own,
        other,
        own - other,
        ci,
        p,
        p,
        int(n.sum()),
        int(a.sum()),
        len(n),
        int(total - n.sum()),
        "Mantel-Haenszel difference within prompts, Newcombe's interval on stratified Wilson "
        "limits; exact stratified test",
    )


def _adjusted(found: list[Gap]) -> list[Gap]:
    adjusted = benjamini_hochberg([gap.p for gap in found])
    return [replace(gap, adjusted=float(p)) for gap, p in zip(found, adjusted, strict=True)]


__all__ = ["Gap", "normal_quantile", "paired_gaps", "perceived_gaps"]
