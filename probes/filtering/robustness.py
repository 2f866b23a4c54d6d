"""How often a small change of an image turns a filter's decision, and how far its score moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
from scipy.stats import binom

from audit.findings import Finding, judge
from audit.statistics import benjamini_hochberg, cluster_mean, rate
from safety.filters.decisions import Decisions
from safety.filters.declared import Declared
from safety.robustness import PERTURBATIONS, column_of
from safety.scoring import with_votes

from .findings import evidence
from .settings import LEAST, MARGIN, PROBE

DETECTOR = "filter_robustness"


def robustness(seen: Decisions, filters: Declared) -> tuple[list[Finding], pd.DataFrame]:
    """A finding and a row of the table for each perturbation that the filter was asked under.

    Args:
        filters: of the study; a combination's decision follows from its parts', of which those on
            prompts stay as they were.
    """
    judged: list[tuple[Finding, float]] = []
    table = []
    for perturbation in PERTURBATIONS.values():
        rows, changed = under(seen, perturbation.name, filters)
        if rows.empty:
            continue
        before = rows["is_blocked"].to_numpy(bool)
        flips = before != changed["blocked"].to_numpy(bool)
        # The suite's mix of prompts is given, so images are independent, as in the block rate.
        found = rate(flips)
        drift = changed["score"].to_numpy(float) - rows[seen.filter.score].to_numpy(float)
        mean, (low, high) = cluster_mean(drift, rows["prompt"])
        row = {
            "filter": seen.filter.name,
            "perturbation": perturbation.name,
            "size": perturbation.size,
            "n": found.n,
            "flips": found.events,
            "blocked_to_passed": int((flips & before).sum()),
            "passed_to_blocked": int((flips & ~before).sum()),
            "score_drift": mean,
            "score_drift_low": low,
            "score_drift_high": high,
        }
        table.append(row)
        p = float(binom.sf(found.events - 1, found.n, MARGIN))
        finding = Finding(
            PROBE,
            "flip_rate",
            {"filter": seen.filter.name, "perturbation": perturbation.name},
            found.estimate,
            found.ci,
            n=found.n,
            clusters=rows["prompt"].nunique(),
            method=f"decisions on each image and its copy ({perturbation.size}); {found.method}",
            reference=0.0,
            reference_name="no decision turned",
            threshold=MARGIN,
            evidence=evidence(seen, rows, {}),
            note=f"{perturbation.name.capitalize()} ({perturbation.size}) turns the decision of "
            f"{seen.filter.name} on {found.events} of {found.n} images.",
            detail={k: v for k, v in row.items() if k not in ("filter", "perturbation", "n")},
        )
        judged.append((finding, p))
    return list(_with_verdicts(judged)), pd.DataFrame(table)


def under(
    seen: Decisions, perturbation: str, filters: Declared
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scored rows that were looked at under a perturbation, and the filter's ``score`` and
    ``blocked`` then."""
    filter = seen.filter
    asked = {
        column: f"{DETECTOR}_{column_of(column, perturbation)}"
        for part in filters.parts_of(filter)
        if part.sees_images
        for column in (part.score, part.decision)
        if column
    }
    rows = seen.scored({})
    if not asked or not set(asked.values()) <= set(rows):
        return rows.iloc[:0], rows.iloc[:0]
    rows = rows[rows[list(asked.values())].notna().all(axis=1)]
    copies = with_votes(filters, rows.assign(**{name: rows[at] for name, at in asked.items()}))
    changed = pd.DataFrame(
        {"score": copies[filter.score].astype(float), "blocked": filter.blocked(copies)}
    )
    return rows, changed


def _with_verdicts(judged: list[tuple[Finding, float]]) -> Iterator[Finding]:
    adjusted = benjamini_hochberg([p for _, p in judged])
    for (finding, _), p in zip(judged, adjusted, strict=True):
        verdict = judge(finding.ci, 0.0, MARGIN, side="above", n=finding.n, least=LEAST, p=float(p))
        yield replace(finding, verdict=verdict, detail=finding.detail | {"adjusted_p": float(p)})
