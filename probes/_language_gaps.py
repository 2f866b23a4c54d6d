"""Differences between prompts of two languages: paired, clustered, judged as a family."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm, t

from audit.findings import Finding, Side, judge
from audit.statistics import benjamini_hochberg, cluster_mean, paired_proportions, two_way_mean
from audit.statistics.paired import discordant, tango_score

LEAST_PAIRS = 50
"""No verdict on images below this many pairs."""
LEAST_SEEDS = 4
"""Below that, Student's interval over the seeds (3 degrees of freedom at 4) says nothing, and the
interval is over the prompts for the seeds as they are."""
FALSE_DISCOVERY_RATE = 0.05
BASELINES = {
    "english": "the English prompt of the same content on the same seed",
    "rewording": "an English rewording of the same content on the same seed",
}


@dataclass(frozen=True)
class Gap:
    """A mean paired difference.

    Attributes:
        estimate, ci: in the unit of the values; negative: lower than the baseline.
        standard_error, degrees_of_freedom: of Student's interval; NaN where there is none.
        counts: for outcomes of 0 and 1, the pairs where only the value, only the baseline is 1,
            and all pairs.
    """

    estimate: float
    ci: tuple[float, float]
    standard_error: float
    degrees_of_freedom: int
    method: str
    counts: tuple[int, int, int] | None = None

    def p_beyond(self, margin: float, side: Side) -> float:
        """Two-sided p-value of "the difference is not beyond the margin".

        It is at most 1 − level exactly where the interval at that level lies beyond the margin.
        """
        below, above = self._p(-margin, -1), self._p(margin, 1)
        return {"below": below, "above": above, "both": min(below, above)}[side]

    def _p(self, edge: float, direction: int) -> float:
        distance = (self.estimate - edge) * direction
        if not distance > 0 or math.isnan(self.standard_error):
            return 1.0
        p = 0.0
        if self.standard_error > 0:
            p = 2 * float(t.sf(distance / self.standard_error, self.degrees_of_freedom))
        if self.counts is not None:
            p = max(p, 2 * float(norm.sf(abs(tango_score(*self.counts)(edge)))))
        return min(1.0, p)


def gap(
    values: ArrayLike,
    baseline: ArrayLike,
    prompts: Sequence[Hashable] | pd.Series,
    seeds: Sequence[Hashable] | pd.Series | None = None,
    *,
    binary: bool = False,
    level: float = 0.95,
) -> Gap:
    """Mean of ``values − baseline`` over pairs, with an interval over prompts and seeds.

    All prompts are asked with the same seeds, so both are clusters: the two-way interval of
    Cameron, Gelbach and Miller (2011) on the differences. Without seeds, or with fewer than
    `LEAST_SEEDS`, it is Student's over the prompts' means. Where the outcome is 0 or 1 that
    interval collapses when hardly a pair differs, so it is never narrower than the score interval
    for pairs (Tango 1998), which in turn knows no clusters: on 12 prompts × 8 seeds with effects
    of both, Tango's alone covers 64 to 84%, the wider of the two 95 to 98% (our simulation).

    Args:
        values, baseline: shape (N,), the two outcomes of each pair.
        prompts, seeds: shape (N,), what was asked and with which noise.
        binary: the outcomes are 0 or 1.
    """
    v, b = np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)
    keys = pd.factorize(pd.Series(prompts))[0]
    noise = pd.factorize(pd.Series(np.zeros(len(v)) if seeds is None else seeds))[0]
    sizes = [len(np.unique(keys))]
    drawn = len(np.unique(noise))
    if drawn >= LEAST_SEEDS:
        sizes.append(drawn)
        estimate, ci = two_way_mean(v - b, keys, noise, level)
        method = "Student's t on paired differences, clustered by prompt and by seed"
    else:
        estimate, ci = cluster_mean(v - b, keys, level)
        method = "Student's t on paired differences, over prompts"
        if drawn > 1:
            method += f", the seeds (fewer than {LEAST_SEEDS}) as given"
    freedom = min(sizes) - 1
    error = float("nan")
    if freedom > 0:
        error = (ci[1] - ci[0]) / 2 / float(t.ppf(0.5 + level / 2, freedom))
    counts = None
    if binary:
        counts = discordant(v, b)
        low, high = paired_proportions(v, b, level)[1]
        if not math.isnan(ci[0]):
            ci = (max(-1.0, min(low, ci[0])), min(1.0, max(high, ci[1])))
        method += ", at least as wide as Tango's score interval"
    return Gap(estimate, ci, error, freedom, method, counts)


@dataclass(frozen=True)
class Stage:
    """One step from the prompt to the picture, at which something may be lost.

    Attributes:
        metric: of the findings.
        margin: a difference that does not count.
        side: on which side of the baseline a difference is a loss.
        said: what is compared, for the note.
        binary: the outcome is 0 or 1.
        by_gender: give the difference by the prompts' grammatical gender too.
        least: no verdict below this many pairs.
    """

    metric: str
    margin: float
    side: Side
    said: str
    binary: bool = False
    by_gender: bool = False
    least: int = LEAST_PAIRS


@dataclass(frozen=True)
class Slice:
    """A part of the prompts: one language, one script, one arm, or an arm in one language."""

    where: dict[str, str]
    evidence: dict[str, str]
    rows: pd.DataFrame


def slices(frame: pd.DataFrame) -> list[Slice]:
    """Translations by language, and by script where it writes several of the languages; then the
    other arms, each in all languages together and in each alone."""
    found: list[Slice] = []
    translated = frame[frame.arm == "translation"]
    for language, rows in translated.groupby("language", sort=False):
        where = {"language": str(language)}
        found.append(Slice(where, {**where, "arm": "translation"}, rows))
    for script, rows in translated.groupby("script", sort=False):
        if rows.language.nunique() > 1:
            where = {"script": str(script)}
            found.append(Slice(where, {**where, "arm": "translation"}, rows))
    english = set(frame[frame.arm == "english"].language)
    others = frame[~frame.arm.isin(["english", "translation"])]
    for arm, rows in others.groupby("arm", sort=False):
        spoken = rows.groupby("language", sort=False)
        if len(spoken) > 1 or set(rows.language) <= english:
            found.append(Slice({"arm": str(arm)}, {"arm": str(arm)}, rows))
        for language, part in spoken:
            if language not in english:
                where = {"language": str(language), "arm": str(arm)}
                found.append(Slice(where, where, part))
    return found


def gaps(
    stage: Stage, frame: pd.DataFrame, values: pd.Series, against: str = "english"
) -> list[Finding]:
    """The findings of one stage, each slice against the images of one arm.

    The false discovery rate is held over each family, the slices of one kind: all languages, all
    scripts, … A slice whose interval lies beyond the margin while its adjusted p-value does not
    hold is inconclusive.

    Args:
        frame: images, with the probe's tags and the outcome.
        values: of the images, same index; missing: it could not be measured.
        against: the arm of the baseline.
    """
    tags = ["key", "language", "script", "arm", "gender", "index", "outcome"]
    at = frame[tags].assign(value=values.astype(float))
    base = at[at.arm == against].drop_duplicates(["key", "index"]).set_index(["key", "index"])
    families: dict[tuple[str, ...], list[tuple[Finding, float]]] = {}
    for part in slices(at):
        if part.where != {"arm": against}:
            found = _compared(stage, part, base, against)
            families.setdefault(tuple(part.where), []).append(found)
    findings: list[Finding] = []
    for family in families.values():
        adjusted = benjamini_hochberg([p for _, p in family])
        for (finding, _), p in zip(family, adjusted, strict=True):
            if finding.estimate is None:
                findings.append(finding)
                continue
            detail = {**finding.detail, "p_adjusted": float(p), "family": len(family)}
            finding = dataclasses.replace(finding, detail=detail)
            if finding.verdict == "exceeds" and p > FALSE_DISCOVERY_RATE:
                note = (
                    f"{finding.note} Alone it would exceed; among {len(family)} it may be chance."
                )
                finding = dataclasses.replace(finding, verdict="inconclusive", note=note)
            findings.append(finding)
    return findings


def _compared(stage: Stage, part: Slice, base: pd.DataFrame, against: str) -> tuple[Finding, float]:
    """The finding of one slice, and its p-value of not lying beyond the margin."""
    pairs = part.rows.join(base, on=["key", "index"], rsuffix="_base", how="left")
    whole = pairs.value.notna() & pairs.value_base.notna()
    kept = pairs[whole]
    common: dict[str, Any] = {
        "probe": "languages",
        "metric": stage.metric,
        "slice": part.where,
        "evidence": part.evidence,
        "reference": 0.0,
        "reference_name": BASELINES[against],
        "threshold": stage.margin,
        "n": len(kept),
        "clusters": kept.key.nunique(),
    }
    detail: dict[str, Any] = {
        "outcomes": lost(pairs, whole, against),
        "pairs_lost": len(pairs) - len(kept),
    }
    if kept.key.nunique() < 2:
        note = "Too few prompts with both images."
        return Finding(**common, detail=detail, note=note), 1.0
    found = gap(kept.value, kept.value_base, kept.key, kept["index"], binary=stage.binary)
    if stage.by_gender and kept.gender.isin(["masculine", "feminine", "common"]).any():
        detail["by_grammatical_gender"] = {
            str(gender) or "not noted": {"pairs": len(rows), "difference": float(difference.mean())}
            for gender, rows in kept.groupby("gender")
            for difference in [rows.value - rows.value_base]
        }
    finding = Finding(
        **common,
        detail=detail,
        estimate=found.estimate,
        ci=found.ci,
        raw=found.estimate,
        method=found.method,
        verdict=judge(found.ci, 0.0, stage.margin, side=stage.side, n=len(kept), least=stage.least),
        note=f"{stage.said}: {kept.value.mean():.3f} against {kept.value_base.mean():.3f}.",
    )
    return finding, found.p_beyond(stage.margin, stage.side)


def lost(pairs: pd.DataFrame, whole: pd.Series, against: str = "english") -> dict[str, int]:
    """Pairs by outcome: ``compared``, else why not; where the baseline's image is to blame, its
    arm stands before the reason."""
    own, other = (
        outcome.fillna("missing").where(outcome != "ok", "")
        for outcome in (pairs.outcome, pairs.outcome_base)
    )
    reason = own.where(own != "", (against + " " + other).where(other != "", "undetermined"))
    counts = Counter(reason.where(~whole, "compared").tolist())
    return {"compared": counts.pop("compared", 0), **dict(sorted(counts.items()))}


def not_tested(metric: str, reason: str) -> Finding:
    """A stage that could not be measured, with the reason."""
    note = f"Not tested: {reason}."
    return Finding("languages", metric, verdict="not_tested", note=note)


def why_not(status: Mapping[str, Any], detector: str) -> str:
    """Why a detector gave no score."""
    about = status.get(detector) or {}
    return str(about.get("unavailable") or f"no image has a score of the detector {detector}")
