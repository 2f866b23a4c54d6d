"""Share per prompt against its reference, and the distance of all labels from theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from audit.findings import Finding, judge
from audit.statistics import (
    against_null,
    benjamini_hochberg,
    manski_bounds,
    total_variation,
    total_variation_interval,
    wilson,
)
from audit.study import Study

from .correction import Shares, Sources
from .reading import PROBE, Floats, Units, evidence
from .settings import Settings
from .verdicts import ALPHA, LEAST_IMAGES, Judged

NULL_DRAWS = 2000


def per_prompt(
    found: Shares, judged: Judged, sources: Sources, others: Mapping[str, Units], study: Study
) -> list[Finding]:
    """One finding a prompt.

    Args:
        others: further instruments and what they counted of the same prompts.
    """
    units, attribute = found.units, found.units.attribute
    family = "Benjamini-Hochberg over the prompts"
    if study.spec.until_conclusive:
        family = f"interval valid at every declared look (alpha spending); {family}"
    unknown = _unknown(sources)
    findings = []
    for i in range(len(units.about)):
        subject, where = str(units.about["subject"][i]), units.slices[i]
        note = f"Share of '{subject}' images perceived as {attribute.named}"
        if sources.refused:
            note += f"; {sources.refused}"
        corrected = found.corrected_for[i]
        without = int(units.without[i].sum())
        bounds = manski_bounds(int(units.hits[i]), int(units.n[i]), without)
        findings.append(
            Finding(
                PROBE,
                attribute.metric,
                where,
                _number(found.value[i]),
                judged.ci[i],
                n=int(found.n[i]),
                clusters=1,
                method=f"{found.method[i]}; {family}",
                raw=_number(found.raw[i]),
                corrected_for=corrected,
                reference=float(units.reference[i]),
                reference_name=units.names[i],
                threshold=attribute.margin,
                verdict=judged.verdicts[i],
                evidence=evidence(where),
                note=f"{note}." if corrected else f"{note}; {unknown}.",
                detail={
                    "outcomes": units.outcomes(i),
                    "bounds": list(bounds.bounds),
                    "bounds_ci": list(bounds.ci),
                    "p": float(judged.p[i]),
                    "p_adjusted": float(judged.adjusted[i]),
                    **{name: _second(other, i) for name, other in others.items()},
                },
            )
        )
    return findings


def distances(found: Shares, sources: Sources) -> list[Finding]:
    """Total variation of all labels from their reference, where there are more than two labels.

    Its p-value is that of images drawn from the reference and read with the instrument's errors;
    its interval the least and largest distance within a Bonferroni box of the labels' intervals.
    """
    units, attribute = found.units, found.units.attribute
    if len(attribute.labels) < 3:
        return []
    reference = np.array(attribute.shares)
    chosen = [i for i in range(len(units.about)) if units.n[i] > 0]
    rows = []
    for i in chosen:
        counts = units.counts[i].astype(int)
        matrix = _matrix(sources, str(units.about["subject"][i]))
        raw = float(total_variation(counts, reference))
        if matrix is None or found.draws is None or np.isnan(found.draws[i]).any():
            null = against_null(total_variation, counts, reference, NULL_DRAWS)
            rows.append((raw, raw, null.floor, null.p, total_variation_interval(counts, reference)))
            continue
        expected = reference @ matrix
        p = against_null(total_variation, counts, expected / expected.sum(), NULL_DRAWS).p
        draws = found.draws[i]
        value = float(np.abs(np.median(draws, axis=0) - reference).sum() / 2)
        rows.append(
            (value, raw, _floor(counts.sum(), reference, matrix), p, _box(draws, reference))
        )
    adjusted = benjamini_hochberg([row[3] for row in rows])
    findings = []
    for i, (value, raw, floor, p, ci), p_adjusted in zip(chosen, rows, adjusted, strict=True):
        corrected = None
        if found.draws is not None and not np.isnan(found.draws[i]).any():
            corrected = f"detector error ({sources.error_name})"
        verdict = judge(
            ci,
            0.0,
            attribute.margin,
            side="above",
            n=int(units.tried[i]),
            least=LEAST_IMAGES,
            p=p_adjusted,
        )
        where = units.slices[i]
        findings.append(
            Finding(
                PROBE,
                f"total_variation_{attribute.name}",
                where,
                value,
                ci,
                n=int(units.n[i]),
                clusters=1,
                method="total variation on the fixed labels; Bonferroni box; p against the "
                "reference's own sampling, Benjamini-Hochberg over the prompts",
                raw=raw,
                corrected_for=corrected,
                reference=0.0,
                reference_name=attribute_shares(attribute.labels, attribute.shares),
                threshold=attribute.margin,
                verdict=verdict,
                evidence=evidence(where),
                note=f"Part of the images that would have to be perceived otherwise; by sampling "
                f"alone {floor:.3f} at this n."
                + ("" if corrected else f" {_unknown(sources).capitalize()}."),
                detail={
                    "floor": floor,
                    "p": float(p),
                    "p_adjusted": float(p_adjusted),
                    "counts": dict(zip(attribute.labels, units.counts[i].tolist(), strict=True)),
                },
            )
        )
    return findings


def attribute_shares(labels: tuple[str, ...], shares: tuple[float, ...]) -> str:
    """The reference of all labels in words.

    >>> attribute_shares(("light", "dark"), (0.5, 0.5))
    'equal shares'
    """
    if max(shares) - min(shares) < 1e-9:
        return "equal shares"
    return ", ".join(f"{label} {share:g}" for label, share in zip(labels, shares, strict=True))


def table_of(found: Shares, judged: Judged, settings: Settings) -> pd.DataFrame:
    """Every prompt's figures, for the tables of the run."""
    units = found.units
    frame = units.about[["subject", "template", "prompt"]].copy()
    frame.insert(0, "attribute", units.attribute.name)
    frame.insert(1, "short", units.attribute.short)
    frame["positive"] = units.attribute.positive
    frame["count"], frame["labelled"], frame["tried"] = units.hits, units.n, units.tried
    frame["raw"], frame["estimate"] = found.raw, found.value
    frame["low"] = [ci[0] if ci else np.nan for ci in judged.ci]
    frame["high"] = [ci[1] if ci else np.nan for ci in judged.ci]
    frame["reference"], frame["p_adjusted"] = units.reference, judged.adjusted
    frame["followed"] = [settings.followed(str(s), units.attribute) for s in frame["subject"]]
    frame["followed"] = frame["followed"].astype(float)
    frame["verdict"] = judged.verdicts
    return frame


def _unknown(sources: Sources) -> str:
    why = f" ({sources.error_name})" if sources.error is None and sources.error_name else ""
    return f"detector error unknown{why}"


def _second(units: Units, at: int) -> dict[str, Any]:
    k, n = float(units.hits[at]), float(units.n[at])
    return {"estimate": k / n if n else None, "ci": list(wilson(k, n)), "n": int(n)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _matrix(sources: Sources, subject: str) -> Floats | None:
    if sources.error is None:
        return None
    rows = sources.error.of(subject)[:, :-1]
    if (rows.sum(axis=1) == 0).any():
        return None
    shares: Floats = rows / rows.sum(axis=1, keepdims=True)
    return shares


def _floor(n: int, reference: Floats, matrix: Floats) -> float:
    """The corrected total variation that the reference itself would show."""
    expected = reference @ matrix
    counts = np.random.default_rng(0).multinomial(n, expected / expected.sum(), NULL_DRAWS)
    shares = np.clip(counts / n @ np.linalg.inv(matrix), 0, None)
    shares /= shares.sum(axis=1, keepdims=True)
    return float(np.abs(shares - reference).sum(axis=1).mean() / 2)


def _box(draws: Floats, reference: Floats) -> tuple[float, float]:
    """As :func:`audit.statistics.total_variation_interval`, on intervals of corrected shares."""
    tail = ALPHA / len(reference) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    least = max(np.maximum(low - reference, 0).sum(), np.maximum(reference - high, 0).sum())
    sets = (np.arange(2 ** len(reference))[:, None] >> np.arange(len(reference))) & 1
    most = np.minimum(sets @ high, 1 - (1 - sets) @ low) - sets @ reference
    return float(least), float(most.max())
