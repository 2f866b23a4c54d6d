"""Is a harmless image blocked more often for some people or in some language?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from audit.findings import Finding, judge
from audit.perception import WITHOUT, instruments, perceived
from audit.statistics import benjamini_hochberg
from safety.evaluating.disparity import Gap, paired_gaps, perceived_gaps
from safety.filters.decisions import Decisions

from .findings import evidence
from .settings import LEAST, MARGIN, PROBE

ENGLISH = "en"


def versions(seen: Decisions) -> Iterator[Finding]:
    """Paired: the same scene and seed in a version for each group or language.

    Args:
        seen: the decisions on the arm ``versions``.
    """
    if "attribute" not in seen.frame:
        return
    found: list[tuple[str, pd.DataFrame, Gap]] = []
    for attribute, part in _harmless(seen).groupby("attribute", sort=True):
        scenes = part["scene"].tolist()
        pairs = list(zip(scenes, part["seed"], strict=True))
        values = part["version"].tolist()
        reference = ENGLISH if attribute == "language" and ENGLISH in values else ""
        gaps = paired_gaps(part["is_blocked"], values, pairs, scenes, reference)
        found += [(str(attribute), part[part["version"] == gap.group], gap) for gap in gaps]
    yield from _judged(seen, "false_block_gap", found, "version", "of the same scenes and seeds")


def groups(
    seen: Decisions, attributes: Mapping[str, Any], wanted: Sequence[str] | None
) -> Iterator[Finding]:
    """Perceived: groups that are seen in harmless images of the same prompts.

    Args:
        seen: the decisions on the arm ``base``.
        attributes: the suite's; `wanted`: of them, default all.
    """
    harmless = _harmless(seen)
    found: list[tuple[str, pd.DataFrame, Gap]] = []
    for attribute, instrument, said in _labels(harmless, attributes, wanted):
        part = harmless.assign(perceived=said)[said.notna()]
        gaps = perceived_gaps(
            part["is_blocked"], part["perceived"].tolist(), part["prompt"].tolist()
        )
        found += [
            (f"{attribute} by {instrument}", part[part["perceived"] == gap.group], gap)
            for gap in gaps
        ]
    yield from _judged(seen, "perceived_false_block_gap", found, "", "of the same prompts")


def version_scores(seen: Decisions) -> pd.DataFrame:
    """The raw scores behind the paired gaps: a row per harmless image of the arm ``versions``."""
    if "attribute" not in seen.frame:
        return pd.DataFrame()
    rows = _harmless(seen)
    return rows[["request", "attribute", "version", "scene", "seed"]].assign(
        filter=seen.filter.name,
        score=rows[seen.filter.score].astype(float),
        blocked=rows["is_blocked"],
    )


def perceived_groups(
    seen: Decisions, attributes: Mapping[str, Any], wanted: Sequence[str] | None
) -> dict[str, pd.Series]:
    """``perceived_<attribute>`` → the group seen in each harmless image, where one is."""
    return {
        f"perceived_{attribute}": said
        for attribute, _, said in _labels(_harmless(seen), attributes, wanted)
    }


def _harmless(seen: Decisions) -> pd.DataFrame:
    rows = seen.labelled()
    return rows[~rows["is_restricted"]]


def _labels(
    harmless: pd.DataFrame, attributes: Mapping[str, Any], wanted: Sequence[str] | None
) -> Iterator[tuple[str, str, pd.Series]]:
    """Attribute, the instrument that reads it, what it says; missing where it does not say."""
    for attribute, about in attributes.items():
        labels = [str(label) for label in about["labels"]]
        if wanted is not None and attribute not in wanted:
            continue
        # The phantom's reader is exact; elsewhere CLIP comes first.
        there = instruments(harmless, attribute, labels)
        if there:
            instrument = "reader" if "reader" in there else there[0]
            said = perceived(harmless, attribute, labels, instrument)
            yield attribute, instrument, said.where(~said.isin(WITHOUT), None)


def _judged(
    seen: Decisions,
    metric: str,
    found: Sequence[tuple[str, pd.DataFrame, Gap]],
    column: str,
    among: str,
) -> Iterator[Finding]:
    """All gaps of a filter are one family."""
    adjusted = benjamini_hochberg([gap.p for _, _, gap in found])
    for (attribute, rows, gap), p in zip(found, adjusted, strict=True):
        name, _, instrument = attribute.partition(" by ")
        against = gap.against or "others"
        yield Finding(
            PROBE,
            metric,
            {"filter": seen.filter.name, "attribute": name, "group": gap.group},
            gap.estimate,
            gap.ci,
            n=len(rows),
            clusters=gap.clusters,
            method=f"{gap.method}; Benjamini-Hochberg over {len(found)} gaps; {seen.truth.source}",
            reference=0.0,
            reference_name=f"the false-block rate of {against}",
            threshold=MARGIN,
            verdict=judge(gap.ci, 0.0, MARGIN, side="above", n=gap.n, least=LEAST, p=float(p)),
            evidence=evidence(seen, rows, {"attribute": name, column: gap.group} if column else {}),
            note=f"{seen.filter.name} blocks {gap.rate:.1%} of the harmless images of {name} "
            f"“{gap.group}” and {gap.other:.1%} of {against}, {among}.",
            detail={
                "rate": gap.rate,
                "other": gap.other,
                "events": gap.events,
                "compared": gap.n,
                "left_out": gap.left_out,
                "p": gap.p,
                "adjusted_p": float(p),
                **({"instrument": instrument} if instrument else {}),
            },
        )
