"""Figures from counts at a threshold: confusion matrix, rates with intervals, gaps of groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from audit.statistics import Rate, clopper_pearson, clustered_rate, newcombe, stratified_shares

from .filter_scores import PERCEIVED, Pattern

Interval = tuple[float, float]
ENGLISH = "en"


@dataclass(frozen=True)
class Confusion:
    """Counts of images: blocked and passed, restricted and harmless."""

    blocked_restricted: int
    missed: int
    blocked_harmless: int
    passed_harmless: int


@dataclass(frozen=True)
class Share:
    """A rate at the threshold.

    Attributes:
        found: with Wilson's interval, prompts as clusters.
        exact: Clopper and Pearson's, images as independent.
    """

    name: str
    meaning: str
    found: Rate
    exact: Interval


@dataclass(frozen=True)
class Gap:
    """How much more often one group's harmless images are blocked.

    Attributes:
        design: ``paired`` versions of one scene and seed, or ``perceived`` in images of one prompt.
        against: whom it is compared with.
        n: images of the group that are compared; `clusters`: scenes or prompts.
    """

    design: str
    attribute: str
    group: str
    against: str
    rate: float
    other: float
    gap: float
    ci: Interval
    n: int
    clusters: int


def confusion(counts: pd.DataFrame) -> Confusion:
    """Of :func:`dashboard.filter_scores.counts`."""
    truth = counts.restricted.astype(bool)
    bad, good = counts[truth], counts[~truth]
    hit, wrong = int(bad.blocked.sum()), int(good.blocked.sum())
    return Confusion(hit, int(bad.n.sum()) - hit, wrong, int(good.n.sum()) - wrong)


def shares(counts: pd.DataFrame) -> list[Share]:
    """Recall, miss rate, false-block rate and precision; what has no denominator is left out,
    and precision where nothing is restricted."""
    truth = counts.restricted.astype(bool)
    bad, good = (
        part.groupby("prompt", sort=False, dropna=False)[["n", "blocked"]].sum()
        for part in (counts[truth], counts[~truth])
    )
    blocked = counts.assign(hit=counts.blocked.where(truth, 0))
    called = blocked.groupby("prompt", sort=False, dropna=False)[["blocked", "hit"]].sum()
    called = called[called.blocked > 0]
    rows = (
        ("Recall", "restricted images that are blocked", bad.blocked, bad.n),
        ("Miss rate", "restricted images that pass", bad.n - bad.blocked, bad.n),
        ("False-block rate", "harmless images that are blocked", good.blocked, good.n),
        ("Precision", "blocked images that are restricted", called.hit, called.blocked),
    )
    found = []
    for name, meaning, events, members in rows:
        if members.sum() and (len(bad) or name != "Precision"):
            rate = clustered_rate(events.to_numpy(), members.to_numpy())
            found.append(Share(name, meaning, rate, clopper_pearson(rate.events, rate.n)))
    return found


def perceived_gaps(counts: pd.DataFrame) -> Iterator[Gap]:
    """Groups seen in harmless images, each against the others in images of the same prompts."""
    harmless = counts[~counts.restricted.astype(bool)]
    for column in (str(name) for name in counts if str(name).startswith(PERCEIVED)):
        known = harmless[harmless[column].notna()]
        if known.empty:
            continue
        n, blocked = (
            known.pivot_table(
                values, "prompt", column, aggfunc="sum", fill_value=0, observed=True
            ).astype(int)
            for values in ("n", "blocked")
        )
        whole, hits = n.to_numpy().sum(axis=1), blocked.to_numpy().sum(axis=1)
        for group in n.columns if n.shape[1] > 1 else []:
            own, k = n[group].to_numpy(), blocked[group].to_numpy()
            other, j = whole - own, hits - k
            kept = (own > 0) & (other > 0)
            if not kept.any():
                continue
            p, q, ci = stratified_shares(k[kept], own[kept], j[kept], other[kept])
            name = column.removeprefix(PERCEIVED)
            size, strata = int(own[kept].sum()), int(kept.sum())
            yield Gap("perceived", name, str(group), "others", p, q, p - q, ci, size, strata)


def paired_gaps(patterns: Sequence[Pattern]) -> Iterator[Gap]:
    """Versions of one scene and seed: each language against English, else each version against
    the mean of all others.

    Args:
        patterns: of :func:`dashboard.filter_scores.versions`.
    """
    for attribute in dict.fromkeys(row.attribute for row in patterns):
        rows = [row for row in patterns if row.attribute == attribute]
        names = sorted({name for row in rows for name in row.blocked})
        reference = ENGLISH if attribute == "language" and ENGLISH in names else ""
        for name in names:
            others = [reference] if reference else [one for one in names if one != name]
            whole = [row for row in rows if {name, *others} <= row.blocked.keys()]
            if name != reference and others and whole:
                yield _paired(attribute, name, others, whole, reference)


def _paired(
    attribute: str, name: str, others: list[str], rows: list[Pattern], reference: str
) -> Gap:
    scenes, place = np.unique([row.scene for row in rows], return_inverse=True)
    n, size = np.array([row.n for row in rows]), len(others)
    own = np.array([float(row.blocked[name]) for row in rows])
    rest = np.array([np.mean([float(row.blocked[one]) for one in others]) for row in rows])
    members = np.bincount(place, n).astype(int)
    events, elsewhere = (
        np.bincount(place, n * share).round().astype(int) for share in (own, rest * size)
    )
    first, second = clustered_rate(events, members), clustered_rate(elsewhere, members * size)
    p, q = float(np.average(own, weights=n)), float(np.average(rest, weights=n))
    spread = np.sqrt(np.average((own - p) ** 2, weights=n) * np.average((rest - q) ** 2, weights=n))
    phi = float(np.average((own - p) * (rest - q), weights=n) / spread) if spread else 0.0
    ci = newcombe(p, first.ci or (0, 1), q, second.ci or (0, 1), phi)
    against = reference or "the other versions"
    count = int(n.sum())
    return Gap("paired", attribute, name, against, p, q, p - q, ci, count, len(scenes))
