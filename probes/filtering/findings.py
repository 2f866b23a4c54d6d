"""How a finding of this probe is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from audit import findings
from audit.findings import Finding, Side, Verdict, judge
from audit.statistics import Rate
from safety.filters.decisions import Decisions
from safety.slices import outcomes

from .settings import LEAST, MARGIN, PROBE


def of_rate(
    seen: Decisions,
    metric: str,
    part: Mapping[str, Any],
    rows: pd.DataFrame,
    found: Rate,
    *,
    reference_name: str,
    note: str,
    selected: Mapping[str, Any] | None = None,
    reference: float | None = 0.0,
    side: Side = "above",
) -> Finding:
    """A rate over `rows`; `part` is the slice, `selected` the query where that differs."""
    everything = seen.part(part)
    verdict: Verdict = "inconclusive" if found.n else "not_tested"
    if found.n and reference is not None:
        verdict = judge(found.ci, reference, MARGIN, side=side, n=found.n, least=LEAST)
    return Finding(
        PROBE,
        metric,
        {"filter": seen.filter.name, **part},
        found.estimate,
        found.ci,
        n=found.n,
        clusters=rows["prompt"].nunique(),
        method=f"{found.method}; {seen.truth.source}",
        reference=reference,
        reference_name=reference_name,
        threshold=MARGIN,
        verdict=verdict,
        evidence=evidence(seen, rows, part if selected is None else selected),
        note=note,
        detail={
            "events": found.events,
            "effective_n": round(found.effective_n, 1),
            "outcomes": outcomes(everything, seen.is_scored[everything.index]),
            "truth_unknown": int(everything["is_restricted"].isna().sum()),
        },
    )


def evidence(seen: Decisions, rows: pd.DataFrame, where: Mapping[str, Any]) -> dict[str, Any]:
    """The query that selects exactly `rows` of the probe's whole table."""
    arms: Sequence[str] = sorted(seen.frame["arm"].unique())
    arm = arms[0] if len(arms) == 1 else list(arms)
    return {"arm": arm, **seen.evidence(rows, where)}


not_tested = partial(findings.not_tested, PROBE)
"""Why there is no figure."""
