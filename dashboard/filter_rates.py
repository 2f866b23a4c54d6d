"""Figures from counts at a threshold: confusion matrix, rates with intervals, gaps of groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from audit.statistics import Rate, clopper_pearson, clustered_rate, stratified_shares
from audit.statistics.paired_gap import paired_gap

from .filter_scores import PERCEIVED, Versions

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
    """Of :meth:`dashboard.filter_scores.Held.at`."""
    truth = counts.restricted.astype(bool)
    bad, good = counts[truth], counts[~truth]
    hit, wrong = int(bad.blocked.sum()), int(good.blocked.sum())
    return Confusion(hit, int(bad.n.sum()) - hit, wrong, int(good.n.sum()) - wrong)


def shares(counts: pd.DataFrame) -> list[Share]:
    """Recall, miss rate, false-block rate and precision; what has no denominator is left out,
    and precision where nothing is restricted."""
    truth = counts.restricted.to_numpy(bool)
    n, blocked = counts.n.to_numpy(), counts.blocked.to_numpy()
    prompt, names = pd.factorize(counts.prompt, use_na_sentinel=False)

    def sums(chosen: Any, values: Any) -> Any:
        return np.bincount(prompt[chosen], values[chosen], len(names)).astype(np.int64)

    bad, bad_blocked = sums(truth, n), sums(truth, blocked)
    good, good_blocked = sums(~truth, n), sums(~truth, blocked)
    called = bad_blocked + good_blocked
    rows = (
        ("Recall", "restricted images that are blocked", bad_blocked, bad),
        ("Miss rate", "restricted images that pass", bad - bad_blocked, bad),
        ("False-block rate", "harmless images that are blocked", good_blocked, good),
        ("Precision", "blocked images that are restricted", bad_blocked, called),
    )
    found = []
    for name, meaning, events, members in rows:
        there = members > 0
        if there.any() and (bad.any() or name != "Precision"):
            rate = clustered_rate(events[there], members[there])
            found.append(Share(name, meaning, rate, clopper_pearson(rate.events, rate.n)))
    return found


def perceived_gaps(counts: pd.DataFrame) -> Iterator[Gap]:
    """Groups seen in harmless images, each against the others in images of the same prompts."""
    harmless = counts[~counts.restricted.astype(bool)]
    for column in (str(name) for name in counts if str(name).startswith(PERCEIVED)):
        known = harmless[harmless[column].notna()]
        prompt, prompts = pd.factorize(known.prompt, use_na_sentinel=False)
        group, groups = pd.factorize(known[column], sort=True)
        shape = (len(prompts), len(groups))
        n, blocked = (
            np.bincount(prompt * shape[1] + group, values.to_numpy(), shape[0] * shape[1])
            .reshape(shape)
            .astype(np.int64)
            for values in (known.n, known.blocked)
        )
        for at, name in enumerate(groups) if shape[1] > 1 else []:
            own, k = n[:, at], blocked[:, at]
            other, j = n.sum(axis=1) - own, blocked.sum(axis=1) - k
            kept = (own > 0) & (other > 0)
            if not kept.any():
                continue
            p, q, ci = stratified_shares(k[kept], own[kept], j[kept], other[kept])
            attribute, size = column.removeprefix(PERCEIVED), int(own[kept].sum())
            yield Gap(
                "perceived", attribute, str(name), "others", p, q, p - q, ci, size, int(kept.sum())
            )


def paired_gaps(versions: Sequence[Versions], threshold: float) -> Iterator[Gap]:
    """Versions of one scene and seed: each language against English, else each version against
    the mean of all others."""
    for one in versions:
        names = one.names
        reference = ENGLISH if one.attribute == "language" and ENGLISH in names else ""
        for at, name in enumerate(names):
            others = [names.index(reference)] if reference else [*range(len(names))]
            others = [other for other in others if other != at]
            whole = ~np.isnan(one.score[:, [at, *others]]).any(axis=1)
            if others and whole.any():
                blocked = one.score[whole] >= threshold
                yield _paired(
                    one.attribute, name, blocked[:, at], blocked[:, others], one.scene[whole],
                    reference,
                )  # fmt: skip


def _paired(attribute: str, name: str, own: Any, others: Any, scenes: Any, reference: str) -> Gap:
    """`own`: shape (pairs,), `others`: shape (pairs, versions), booleans."""
    p, q, ci = paired_gap(own, others, scenes)
    against = reference or "the other versions"
    clusters = len(np.unique(scenes))
    return Gap("paired", attribute, name, against, p, q, p - q, ci, len(own), clusters)
