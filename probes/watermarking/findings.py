"""How a finding of this probe is put together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit import findings
from audit.findings import Finding, Side, Verdict, judge
from audit.statistics import Rate, cluster_mean
from safety.slices import evidence, outcomes
from safety.watermarks.readings import Reading

from .settings import LEAST, MARGIN, PROBE


def of_rate(
    reading: Reading,
    metric: str,
    found: Rate,
    *,
    reference: float,
    reference_name: str,
    rule: str,
    note: str,
    part: Mapping[str, Any] | None = None,
    side: Side = "above",
    detail: Mapping[str, Any] | None = None,
) -> Finding:
    """A share of a reading's images; `rule` says what counts, `part` what the slice adds."""
    p = reading.match.p
    return of_images(
        reading,
        metric,
        found.estimate,
        found.ci,
        part=part,
        method=f"share with {rule}; {found.method}",
        reference=reference,
        reference_name=reference_name,
        margin=MARGIN,
        side=side,
        note=note,
        detail={
            "events": found.events,
            "effective_n": round(found.effective_n, 1),
            "p_lowest": float(p.min(initial=1.0)),
            "p_highest": float(p.max(initial=0.0)),
            **(detail or {}),
        },
    )


def of_images(
    reading: Reading,
    metric: str,
    estimate: float | None,
    ci: tuple[float, float] | None,
    *,
    method: str,
    note: str,
    detail: Mapping[str, Any],
    part: Mapping[str, Any] | None = None,
    rows: pd.DataFrame | None = None,
    reference: float | None = None,
    reference_name: str | None = None,
    margin: float | None = None,
    least: int = LEAST,
    side: Side = "above",
) -> Finding:
    """A finding on a reading's images, or on those of its `rows` that are given."""
    used = reading.rows if rows is None else rows
    counts = counted(reading)
    where = reading.slice | dict(part or {})
    if used.empty:
        reason = f"no image delivered as “{reading.delivery}” could be read for {reading.codec}"
        return not_tested(metric, where, reason, counts)
    verdict: Verdict = "inconclusive"
    if reference is not None and margin is not None:
        verdict = judge(ci, reference, margin, side=side, n=len(used), least=least)
    selected = {"delivery": reading.delivery, "outcome": "ok"}
    return Finding(
        PROBE,
        metric,
        where,
        estimate,
        ci,
        n=len(used),
        clusters=used["prompt"].nunique(),
        method=method,
        reference=reference,
        reference_name=reference_name,
        threshold=margin,
        verdict=verdict,
        evidence=evidence(reading.frame, used, selected),
        note=note,
        detail={**detail, "outcomes": counts},
    )


def counted(reading: Reading) -> dict[str, int]:
    """What became of a delivery's images; black ones, which hold nothing to decode, apart."""
    counts = outcomes(reading.delivered, reading.is_read)
    column = f"{reading.detector}_black"
    if column not in reading.delivered:
        return counts
    black = known_true(reading.delivered[column])
    left = int((black & ~reading.is_read & (reading.delivered["outcome"] == "ok")).sum())
    if left:
        counts["black"] = left
        counts["unscored"] -= left
        if not counts["unscored"]:
            del counts["unscored"]
    return counts


def known_true(column: pd.Series[Any]) -> pd.Series[bool]:
    """Of booleans, those that are known and true."""
    found: pd.Series[bool] = column.eq(True).fillna(False).astype(bool)
    return found


def mean_by_prompt(
    values: NDArray[np.float64], prompts: pd.Series[str], low: float, high: float
) -> tuple[float, tuple[float, float]]:
    """The mean of the prompts' means; with one prompt nothing bounds it but its range."""
    estimate, (below, above) = cluster_mean(values, prompts)
    if prompts.nunique() < 2:
        return estimate, (low, high)
    return estimate, (max(low, below), min(high, above))


not_tested = partial(findings.not_tested, PROBE)
"""Why there is no figure."""
