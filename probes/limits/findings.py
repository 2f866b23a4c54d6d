"""How a finding of a limit is put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from audit.findings import Finding, Side, judge
from audit.statistics import cluster_mean, rate
from safety.slices import evidence, outcomes

LEAST = 20
"""No verdict below this many images."""


@dataclass(frozen=True)
class Asked:
    """What a metric is held against.

    Attributes:
        reference, reference_name: what a model without this limit would reach.
        margin: difference that does not count; ``None``: no verdict.
        side: of the reference on which the limit shows.
    """

    reference: float | None = None
    reference_name: str | None = None
    margin: float | None = None
    side: Side = "below"


def of_images(
    probe: str,
    metric: str,
    frame: pd.DataFrame,
    values: pd.Series,
    asked: Asked,
    note: str,
    *,
    where: Mapping[str, Any],
    clusters: str = "prompt",
    part: Mapping[str, Any] | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Finding:
    """A share of images, or a mean over them, by clusters.

    Args:
        frame: the probe's table.
        values: of the rows that were asked, same index; booleans give a share, numbers a mean;
            missing: the image could not be measured, and is counted.
        where: column → value that selects those rows.
        part: the finding's slice.
    """
    rows = frame.loc[values.index]
    measured = values.notna()
    used = rows[measured]
    counts = outcomes(rows, measured)
    if used.empty:
        return not_tested(probe, metric, "no image could be measured", part, counts)
    known = values[measured]
    # Of numbers that are all 0 or 1, such as error rates of words all wrong, Student's t would have
    # no width.
    if known.map(lambda value: value in (0, 1)).all():
        found = rate(known.astype(bool).to_numpy(), used[clusters])
        estimate, ci, method = found.estimate, found.ci, found.method
    else:
        estimate, ci = cluster_mean(known.astype(float), used[clusters])
        method = f"Student's t over {used[clusters].nunique()} prompts"
    verdict = "inconclusive"
    if asked.reference is not None and asked.margin is not None:
        verdict = judge(
            ci, asked.reference, asked.margin, side=asked.side, n=len(used), least=LEAST
        )
    return Finding(
        probe,
        metric,
        dict(part or {}),
        estimate,
        ci,
        n=len(used),
        clusters=used[clusters].nunique(),
        method=method,
        reference=asked.reference,
        reference_name=asked.reference_name,
        threshold=asked.margin,
        verdict=verdict,  # type: ignore[arg-type]
        evidence=evidence(frame, used, {**where, "outcome": "ok"}),
        note=note,
        detail={**(detail or {}), "outcomes": counts},
    )


def not_tested(
    probe: str,
    metric: str,
    reason: str,
    part: Mapping[str, Any] | None = None,
    counts: Mapping[str, int] | None = None,
) -> Finding:
    """Why there is no figure."""
    detail = {"outcomes": dict(counts)} if counts else {}
    note = f"Not tested: {reason}."
    return Finding(probe, metric, dict(part or {}), verdict="not_tested", note=note, detail=detail)
