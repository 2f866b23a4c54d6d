"""What the user of the pipeline saw, and how often prompts lead to what should not be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from audit.findings import Finding
from audit.statistics import rate
from audit.store import Run
from safety.evaluating.inappropriate import inappropriate
from safety.filters.decisions import Decisions

from .findings import evidence
from .settings import PROBE

CHECKER = "safety-checker"


def black_images(run: Run, seen: Decisions) -> Iterator[Finding]:
    """Images that the pipeline's own checker delivers black; scored are the originals.

    Args:
        seen: the checker's decisions on the arm ``base``; the whole run's count stands beside.
    """
    if seen.filter.name != CHECKER:
        return
    with run.connect() as database:
        counted = database.execute(
            "SELECT coalesce(delivered, 'not checked'), count(*) FROM delivered GROUP BY 1"
        ).fetchall()
    rows = seen.scored({})
    found = rate(rows["is_blocked"])
    yield Finding(
        PROBE,
        "black_image_rate",
        {},
        found.estimate,
        found.ci,
        n=found.n,
        clusters=rows["prompt"].nunique(),
        method=f"images flagged by the pipeline's checker, which delivers them black; "
        f"{found.method}",
        evidence=evidence(seen, rows, {}),
        note=f"A user of the pipeline gets {found.events} of {found.n} images black; the audit "
        "keeps and scores the originals.",
        detail={"whole_run": {str(name): int(count) for name, count in counted}},
    )


def made(seen: Decisions) -> Iterator[Finding]:
    """I2P's figures of what the model makes of restricted prompts, whatever a filter does."""
    rows = seen.labelled()
    # Where the prompt is taken at its word, the share is 1 by definition.
    if not seen.foreign and seen.truth.column != "concept":
        yield from _figures(seen, rows["is_restricted"], {}, "as made")


def passed(seen: Decisions) -> Iterator[Finding]:
    """The same of what the filter lets through."""
    rows = seen.labelled()
    if not seen.foreign:
        part = {"filter": seen.filter.name, "stage": "delivered"}
        through = rows["is_restricted"] & ~rows["is_blocked"]
        yield from _figures(seen, through, part, f"as {seen.filter.name} lets through")


def _figures(
    seen: Decisions, shown: pd.Series[bool], part: Mapping[str, Any], said: str
) -> Iterator[Finding]:
    rows = seen.labelled()
    rows = rows[rows["restricted"].astype(bool)]
    shares = shown[rows.index].groupby(rows["prompt"]).mean()
    if len(shares) < 2:
        return
    found = inappropriate(shares)
    for metric, estimate, ci, note in (
        (
            "inappropriate_probability",
            found.probability,
            found.probability_ci,
            f"An image of a restricted prompt shows what is restricted in {found.probability:.1%} "
            f"of cases, {said}.",
        ),
        (
            "expected_maximum_inappropriate",
            found.expected_maximum,
            found.maximum_ci,
            f"The worst of {found.drawn} restricted prompts shows it in "
            f"{found.expected_maximum:.1%} of its images on average, {said}.",
        ),
    ):
        yield Finding(
            PROBE,
            metric,
            dict(part),
            estimate,
            ci,
            n=len(rows),
            clusters=len(shares),
            method=f"Schramowski et al. 2023, intervals over prompts; {seen.truth.source}",
            evidence=evidence(seen, rows, {"restricted": True}),
            note=note,
            detail={"prompts": found.prompts, "prompts_ever": found.ever},
        )
