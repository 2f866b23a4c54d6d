"""How much the share depends on how the same thing is asked."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from audit.findings import Finding, judge
from audit.statistics import benjamini_hochberg, paired_proportions

from .reading import PROBE, Floats
from .settings import Attribute
from .verdicts import ALPHA, LEAST_IMAGES

PERMUTATIONS = 999
LEAST_SEEDS = 10
"""Seeds with a label in every wording, below which nothing is said of a subject."""


def wording(frame: pd.DataFrame, labels: pd.Series, attribute: Attribute) -> list[Finding]:
    """For each subject the largest difference of its share between two wordings, on the same seeds.

    A difference of wordings is above 0 by chance alone. Without an effect the wordings of one seed
    are exchangeable: permuting them gives the floor and the p-value (the test of Cochran 1950 with
    the range as its statistic, without its normal law). The interval holds all pairwise score
    intervals together (Tango 1998, Bonferroni): the largest difference is at least the largest of
    their lower ends.
    """
    asked = frame["arm"].isin(["base", "wording"]) & labels.isin(attribute.labels)
    rows = frame.loc[asked, ["subject", "template", "index"]].assign(
        hit=(labels[asked] == attribute.positive).astype(float)
    )
    several = frame.loc[frame["arm"].isin(["base", "wording"])].groupby("subject", sort=False)
    found = []
    for subject, templates in several["template"].unique().items():
        if len(templates) < 2:
            continue
        own = rows[rows.subject == subject]
        grid = own.pivot_table(index="index", columns="template", values="hit").dropna()
        if grid.shape[1] < 2 or len(grid) < LEAST_SEEDS:
            continue
        values = grid.to_numpy()
        floor, p = _null(values)
        found.append((str(subject), grid, np.ptp(values.mean(axis=0)), floor, p, _interval(values)))
    adjusted = benjamini_hochberg([p for *_, p, _ in found])
    findings = []
    for (subject, grid, spread, floor, p, ci), p_adjusted in zip(found, adjusted, strict=True):
        verdict = judge(
            ci,
            0.0,
            attribute.margin,
            side="above",
            n=len(grid),
            least=LEAST_IMAGES,
            p=p_adjusted,
        )
        findings.append(
            Finding(
                PROBE,
                f"wording_spread_{attribute.short}",
                {"subject": subject},
                float(spread),
                ci,
                n=int(grid.size),
                clusters=len(grid),
                method="largest difference between wordings on the same seeds; Tango, Bonferroni; "
                "permutation p, Benjamini-Hochberg over the subjects",
                raw=float(spread),
                reference=0.0,
                reference_name="no effect of the wording",
                threshold=attribute.margin,
                verdict=verdict,
                evidence={"subject": subject, "arm": ["base", "wording"]},
                note=f"Share perceived as {attribute.named} in {grid.shape[1]} wordings; by chance "
                f"alone they would differ by {floor:.3f} at this n.",
                detail={
                    "floor": floor,
                    "p": p,
                    "p_adjusted": float(p_adjusted),
                    "wordings": {str(name): float(share) for name, share in grid.mean().items()},
                },
            )
        )
    return findings


def _null(values: Floats) -> tuple[float, float]:
    """Mean range of the wordings' shares, and p, when wordings are permuted within each seed."""
    seeds, wordings = values.shape
    observed = np.ptp(values.sum(axis=0))
    sums = values.sum(axis=1)
    # A seed that shows the same in all wordings is the same permuted.
    mixed = values[(sums > 0) & (sums < wordings)]
    if not len(mixed):
        return 0.0, 1.0
    keys = np.random.default_rng(0).random((PERMUTATIONS, *mixed.shape))
    permuted = np.take_along_axis(
        np.broadcast_to(mixed, keys.shape), keys.argsort(axis=2), axis=2
    ).sum(axis=1)
    ranges = np.ptp(permuted, axis=1)
    p = (1 + int((ranges >= observed - 1e-9).sum())) / (1 + PERMUTATIONS)
    return float(ranges.mean() / seeds), p


def _interval(values: Floats) -> tuple[float, float]:
    pairs = list(combinations(range(values.shape[1]), 2))
    level = 1 - ALPHA / len(pairs)
    ends = [paired_proportions(values[:, a], values[:, b], level)[1] for a, b in pairs]
    least = max(max(low, -high, 0.0) for low, high in ends)
    most = max(max(abs(low), abs(high)) for low, high in ends)
    return least, most
