"""What happens to a prompt before there is a picture, and all stages side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, spearmanr

from audit.findings import Finding
from audit.statistics import cluster_mean

from ._language_gaps import Stage, gaps, not_tested, slices, why_not

TRUNCATION_MARGIN = 0.05
"""Share of prompts cut beyond English's that does not count."""
LEAST_LANGUAGES = 8
"""No rank correlation over fewer: at 7, ρ = .75 is still what chance gives one time in twenty."""


def fertility(frame: pd.DataFrame, status: Mapping[str, Any]) -> Iterator[Finding]:
    """Tokens of the asked prompts / tokens of their English texts (Petrov et al. 2023).

    The ratio of the sums R, with the interval of its linearisation: Student's over the prompts'
    means of tᵢ − R eᵢ, divided by the mean of e (Cochran 1977, section 6.4).
    """
    name = "text_encoder_tokens"
    if name not in frame or frame[name].isna().all():
        yield not_tested("token_fertility", why_not(status, "text-encoder"))
        return
    for part in slices(_prompts(frame).dropna(subset=[name])):
        tokens = part.rows[name].astype(float)
        english = part.rows.text_encoder_english_tokens.astype(float)
        ratio = float(tokens.sum() / english.sum())
        _, (low, high) = cluster_mean(tokens - ratio * english, part.rows.key)
        yield Finding(
            "languages",
            "token_fertility",
            part.where,
            estimate=ratio,
            ci=_real((ratio + low / english.mean(), ratio + high / english.mean())),
            n=len(tokens),
            clusters=part.rows.key.nunique(),
            method="ratio of sums over prompts, which n counts; Student's t, linearised",
            reference=1.0,
            reference_name="the English texts of the same contents",
            evidence=part.evidence,
            note=f"{tokens.mean():.1f} tokens a prompt against {english.mean():.1f}; it explains "
            "and is not judged.",
            detail=_others(part.rows, "tokens"),
        )


def truncation(frame: pd.DataFrame) -> list[Finding]:
    """Prompts that do not fit the text encoder, against their English texts."""
    prompts = _prompts(frame)
    known = [name for name in ("text_encoder_cut", "tokens_cut") if name in prompts]
    name = next((name for name in known if prompts[name].notna().any()), None)
    if name is None:
        return [not_tested("truncation_gap", "the model's tokenizer is not at hand")]
    cut = (prompts[name].astype(float) > 0).astype(float).where(prompts[name].notna())
    # The prompts themselves are counted, not their images: a few suffice where all are cut.
    stage = Stage("truncation_gap", TRUNCATION_MARGIN, "above", "Prompts cut", True, least=2)
    return gaps(stage, prompts.assign(index=0, outcome="ok"), cut)


def drift(frame: pd.DataFrame, status: Mapping[str, Any]) -> Iterator[Finding]:
    """1 − cosine of the model's own text embeddings of the prompt and of its English text.

    The drift of the English rewording of the same contents is the yardstick.
    """
    name = "text_encoder_drift"
    if name not in frame or frame[name].isna().all():
        yield not_tested("encoder_drift", why_not(status, "text-encoder"))
        return
    prompts = _prompts(frame).dropna(subset=[name])
    reworded = prompts[prompts.arm == "rewording"].drop_duplicates("key").set_index("key")[name]
    for part in slices(prompts):
        values = part.rows[name].astype(float)
        mean, (low, high) = cluster_mean(values, part.rows.key)
        detail = _others(part.rows, "drift")
        yardstick = part.rows.key.map(reworded) if len(reworded) else pd.Series(dtype=float)
        both = yardstick.notna()
        reference = None
        if both.any() and part.where != {"arm": "rewording"}:
            reference = float(yardstick[both].mean())
            beyond, ci = cluster_mean((values - yardstick)[both], part.rows.key[both])
            detail["beyond_rewording"] = {"difference": beyond, "ci": _real(ci)}
        yield Finding(
            "languages",
            "encoder_drift",
            part.where,
            estimate=mean,
            ci=_real((max(0.0, low), high)),
            n=len(values),
            clusters=part.rows.key.nunique(),
            method="Student's t over prompts, which n counts",
            reference=reference,
            reference_name=None if reference is None else "the English rewording's drift",
            evidence=part.evidence,
            note="It explains and is not judged.",
            detail=detail,
        )


def decomposition(findings: Sequence[Finding]) -> pd.DataFrame:
    """A row per slice, a column per stage, in the order of the stages.

    `language`, `script` and `arm` are empty where the slice holds several.
    """
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    metrics = dict.fromkeys(finding.metric for finding in findings if finding.estimate is not None)
    for finding in findings:
        if finding.estimate is None:
            continue
        where = {name: str(finding.slice.get(name, "")) for name in ("language", "script", "arm")}
        where["arm"] = where["arm"] or "translation"
        row = rows.setdefault(tuple(where.values()), {**where, **dict.fromkeys(metrics, np.nan)})
        row[finding.metric] = finding.estimate
    return pd.DataFrame(rows.values(), columns=pd.Index(["language", "script", "arm", *metrics]))


def ladder(findings: Sequence[Finding]) -> pd.DataFrame:
    """The alignment gap of each language, and of the rewording as their control."""
    rows = []
    for finding in findings:
        if finding.metric != "alignment_gap" or finding.verdict == "not_tested":
            continue
        control = finding.slice == {"arm": "rewording"}
        if list(finding.slice) == ["language"] or control:
            low, high = finding.ci or (None, None)
            name = "English, reworded" if control else finding.slice["language"]
            rows.append((name, finding.estimate, low, high, finding.n, finding.verdict))
    return pd.DataFrame(rows, columns=pd.Index(["language", "gap", "low", "high", "n", "verdict"]))


def correlations(rows: pd.DataFrame) -> Iterator[Finding]:
    """Whether languages that lose more at an early stage lose more alignment: Spearman's ρ.

    Interval: tanh(artanh ρ ± z √((1 + ρ²/2)/(n − 3))) (Bonett and Wright 2000).
    """
    languages = rows[(rows.language != "") & (rows.arm == "translation")]
    for early in ("token_fertility", "encoder_drift"):
        if early not in rows or "alignment_gap" not in rows:
            continue
        both = languages.dropna(subset=[early, "alignment_gap"])
        n = len(both)
        if n < LEAST_LANGUAGES or min(both[[early, "alignment_gap"]].nunique()) < 2:
            continue
        rho = float(spearmanr(both[early], both.alignment_gap).statistic)
        ci = None
        if abs(rho) < 1:  # there the interval would have no width
            half = float(norm.ppf(0.975)) * np.sqrt((1 + rho**2 / 2) / (n - 3))
            ci = (float(np.tanh(np.arctanh(rho) - half)), float(np.tanh(np.arctanh(rho) + half)))
        yield Finding(
            "languages",
            f"rank_correlation_{early}_alignment_gap",
            estimate=rho,
            ci=ci,
            n=n,
            clusters=n,
            method="Spearman over languages; Bonett and Wright 2000",
            reference=0.0,
            reference_name="no association",
            evidence={"arm": "translation"},
            note=f"Over {n} languages; an association of two stages, not a cause.",
        )


def _prompts(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per prompt, with the first score that one of its images has."""
    by = [name for name in ("key", "language", "arm", "prompt") if name in frame]
    scores = [
        name for name in map(str, frame) if name == "tokens_cut" or name.startswith("text_encoder_")
    ]
    return frame[[*by, "script", "gender", *scores]].groupby(by, sort=False).first().reset_index()


def _others(rows: pd.DataFrame, what: str) -> dict[str, Any]:
    """Means over the prompts for a second and third text encoder."""
    names = [f"{what}_{number}" for number in (2, 3)]
    known = [name for name in names if f"text_encoder_{name}" in rows]
    return {name: float(rows[f"text_encoder_{name}"].mean()) for name in known}


def _real(ci: tuple[float, float]) -> tuple[float, float] | None:
    """No interval where there is none: with a single prompt."""
    return None if np.isnan(ci).any() else (float(ci[0]), float(ci[1]))
