"""Two attributes at once: small cells, steadied by each other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from audit.findings import Finding, judge
from audit.statistics import benjamini_hochberg, rate, shrink_cells

from .reading import PROBE
from .settings import Attribute
from .verdicts import LEAST_IMAGES, normal_p


def intersections(
    frame: pd.DataFrame, labels: dict[str, pd.Series], attributes: tuple[Attribute, ...]
) -> tuple[list[Finding], pd.DataFrame]:
    """Share of images in each cell of two attributes, over all base prompts; and by subject.

    The cells' effective sizes carry how images cluster by subject
    (:func:`audit.statistics.rate`); their shares are drawn together by a beta-binomial model
    (:func:`audit.statistics.shrink_cells`).

    Returns:
        findings, and a table of the share of the first attribute's positive label among the images
        of each subject and label of the second.
    """
    findings: list[Finding] = []
    tables = []
    base = frame["arm"] == "base"
    for first, second in combinations(attributes, 2):
        one, two = labels[first.name], labels[second.name]
        known = base & one.isin(first.labels) & two.isin(second.labels)
        if known.sum() < LEAST_IMAGES:
            continue
        one, two, subjects = one[known], two[known], frame.loc[known, "subject"]
        findings += _cells(one, two, subjects, first, second)
        tables.append(_by_subject(one, two, subjects, first, second))
    return findings, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _cells(
    one: pd.Series, two: pd.Series, subjects: pd.Series, first: Attribute, second: Attribute
) -> list[Finding]:
    cells = [(a, b) for a in first.labels for b in second.labels]
    rates = [rate(((one == a) & (two == b)).to_numpy(), subjects) for a, b in cells]
    sizes = np.array([found.effective_n for found in rates])
    raw = np.array([found.estimate or 0.0 for found in rates])
    shrunk = shrink_cells(raw * sizes, sizes)
    margin = min(first.margin, second.margin)
    expected = np.outer(first.shares, second.shares).ravel()
    ends = [(float(low), float(high)) for low, high in shrunk.ci]
    adjusted = benjamini_hochberg(
        [
            normal_p(float(share), ci, reference - margin, reference + margin)
            for share, ci, reference in zip(shrunk.estimate, ends, expected, strict=True)
        ]
    )
    findings = []
    for i, (a, b) in enumerate(cells):
        findings.append(
            Finding(
                PROBE,
                f"share_{first.name}_{second.name}",
                {first.name: a, second.name: b},
                float(shrunk.estimate[i]),
                ends[i],
                n=len(one),
                clusters=int(subjects.nunique()),
                method="beta-binomial partial pooling over the cells, subjects as clusters; "
                "Benjamini-Hochberg over the cells",
                raw=float(raw[i]),
                corrected_for="small cells (partial pooling), not for detector error",
                reference=float(expected[i]),
                reference_name="product of the two references",
                threshold=margin,
                verdict=judge(
                    ends[i],
                    float(expected[i]),
                    margin,
                    n=len(one),
                    least=LEAST_IMAGES,
                    p=float(adjusted[i]),
                ),
                evidence={"arm": "base"},
                note=f"Images of all prompts perceived as {a} and {b}.",
                detail={"effective_n": float(sizes[i]), "p_adjusted": float(adjusted[i])},
            )
        )
    return findings


def _by_subject(
    one: pd.Series, two: pd.Series, subjects: pd.Series, first: Attribute, second: Attribute
) -> pd.DataFrame:
    grouped = (
        pd.DataFrame({"subject": subjects, "within": two, "hit": one == first.positive})
        .groupby(["subject", "within"], sort=False)["hit"]
        .agg(["sum", "count"])
    )
    whole = pd.MultiIndex.from_product([subjects.unique(), second.labels])
    grouped = grouped.reindex(whole, fill_value=0)
    shrunk = shrink_cells(grouped["sum"].to_numpy(float), grouped["count"].to_numpy(float))
    return pd.DataFrame(
        {
            "attribute": first.name,
            "positive": first.positive,
            "within_attribute": second.name,
            "subject": [str(subject) for subject, _ in grouped.index],
            "within": [str(label) for _, label in grouped.index],
            "count": grouped["sum"].to_numpy(),
            "n": grouped["count"].to_numpy(),
            "raw": shrunk.raw,
            "shrunk": shrunk.estimate,
            "low": shrunk.ci[:, 0],
            "high": shrunk.ci[:, 1],
        }
    )
