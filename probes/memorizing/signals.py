"""How well each signal tells memorized captions from others, and their combination."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.copies import WEBSTER, ms_ssim_pairs
from audit.findings import Finding, judge
from audit.signals import SIGNALS as MODEL_SIGNALS
from audit.statistics import auc, tpr_at_fpr

from .settings import PROBE, Settings
from .verdicts import labels

AUC_MARGIN = 0.1
"""Distance from chance that does not count."""
LEAST_CAPTIONS = 24
DETECTOR = "memorization_signals"


@dataclass(frozen=True)
class Signal:
    """One number a caption.

    Attributes:
        column: of the table of images.
        sign: +1 where memorized captions lie high, −1 where they lie low.
        over_seeds: how the images of a caption become one number: the papers' ``mean``, or the
            closest image of a copy measure, ``min`` or ``max``.
        cost: in words.
    """

    name: str
    column: str
    sign: int
    paper: str
    over_seeds: str = "mean"
    cost: str = ""


FREE = "no further evaluation: read while the image is made, under guidance"
COMPARED = "one comparison with the training images"
KNOWN: tuple[Signal, ...] = (
    Signal("text noise, first step", "text_noise_first", 1, "Wen et al. 2024, 1 step", cost=FREE),
    Signal("text noise, all steps", "text_noise_magnitude", 1, "Wen et al. 2024, eq. 4", cost=FREE),
    *(
        Signal(
            signal.name,
            f"{DETECTOR}_{signal.column}",
            1 if signal.memorized == "high" else -1,
            signal.reference,
            cost=f"{signal.evaluations:g} evaluations of the UNet an image",
        )
        for signal in MODEL_SIGNALS
    ),
    Signal("MS-SSIM of ε − x between seeds", "nemo", 1, "Hintersdorf et al. 2024"),
    Signal("tiled ℓ2 between seeds", "tiled_l2", -1, "Carlini et al. 2023", cost="pixels alone"),
    Signal("clique of seeds", "clique", 1, "Carlini et al. 2023", cost="pixels alone"),
    Signal("MS-SSIM between seeds", "ms_ssim", 1, "Wang et al. 2003", cost="pixels alone"),
    Signal("CLIP similarity", "similarity", 1, "Somepalli et al. 2023", "max", COMPARED),
    Signal("caption of the neighbour", "caption_similarity", 1, "CLIP text", "max", COMPARED),
    Signal("ℓ2 to the match", "distance", -1, "Carlini et al. 2023", "min", COMPARED),
    Signal("template error", "template_error", -1, "Webster 2023", "min", COMPARED),
    Signal("PDQ-style hash", "pdq_distance", -1, "Facebook 2019", "min", COMPARED),
    Signal("copy model", "copy_similarity", 1, "Pizzi et al. 2022", "max", COMPARED),
)
COPY, OWN = "distance", "text_noise_first"
"""The two of the combined verdict: the copy measure and the model's own signal."""
COMBINED = Signal("combined", "combined", 1, "ℓ2 to the match with the first step's text noise")
NEEDS: Mapping[str, str] = {
    "text_noise_first": "guidance",
    "text_noise_magnitude": "guidance",
    **{
        f"{DETECTOR}_{signal.column}": "the detector memorization-signals"
        for signal in MODEL_SIGNALS
    },
    f"{DETECTOR}_webster": "memorization-signals, and a schedule that begins with some signal",
    "nemo": "memorization-signals with its signal nemo, and two seeds",
    "tiled_l2": "two seeds",
    "clique": "two seeds",
    "ms_ssim": "two seeds",
    "similarity": "an index with exact scores",
    "caption_similarity": "an index with captions",
    "copy_similarity": "the detector copy-embedding with a model of yours",
}
"""What a signal has no value without; the others need the training images."""
WITHOUT = "without values"
"""Slice of the finding that names the signals of which no image has a value."""


def captions(pairs: pd.DataFrame, asked: Settings) -> pd.DataFrame:
    """A row per caption that was asked as it stands: each signal, `label`, `duplicates`, `n`.

    `combined` is the mean of two standard scores, of −log ℓ2 to the match and of the log of the
    text noise at the first step, with mean and standard deviation of the captions labelled not
    memorized (Stouffer's sum of two). Nothing is fitted to the memorized ones.
    """
    base = pairs[pairs.arm == "base"].copy()
    base["label"] = labels(base, asked)
    groups = base.groupby(["source", "text"], sort=False)
    table = groups.agg(label=("label", "first"), band=("band", "first"), n=("text", "size"))
    for signal in KNOWN:
        if signal.column == "nemo":
            if f"{DETECTOR}_nemo" in base:
                table["nemo"] = groups[[f"{DETECTOR}_nemo", f"{DETECTOR}_nemo_shape"]].apply(_nemo)
        elif signal.column in base:
            values = pd.to_numeric(base[signal.column], errors="coerce")
            keys = [base.source, base.text]
            table[signal.column] = values.groupby(keys, sort=False).agg(signal.over_seeds)
    if {"template_error", "mask"} <= set(base):
        # Seeds that agree nowhere have no template: they rank last.
        agreeing = base["mask"].groupby([base.source, base.text], sort=False).first()
        nowhere = table.template_error.isna() & agreeing.notna() & table.distance.notna()
        table.loc[nowhere, "template_error"] = max(table.template_error.max(), 2 * WEBSTER)
    table["combined"] = _combined(table)
    return table.reset_index()


def _nemo(rows: pd.DataFrame) -> float:
    """Mean MS-SSIM of the seeds' ε − x after two steps."""
    known = rows.dropna()
    if len(known) < 2:
        return float("nan")
    shape: list[int] = list(known[f"{DETECTOR}_nemo_shape"].iloc[0])
    kept = [np.frombuffer(one, "<f2").reshape(shape) for one in known[f"{DETECTOR}_nemo"]]
    try:
        alike = ms_ssim_pairs(np.moveaxis(np.stack(kept), 1, -1))
    except ValueError:
        return float("nan")  # latents smaller than the window
    return float(alike[np.triu_indices(len(kept), k=1)].mean())


def _combined(table: pd.DataFrame) -> pd.Series:
    nothing = pd.Series(np.nan, index=table.index)
    if not {COPY, OWN} <= set(table):
        return nothing
    scores = [
        -np.log(table[COPY].clip(lower=1e-12)),
        np.log(table[OWN].clip(lower=1e-12)),
    ]
    no = (table.label == 0).to_numpy()
    if no.sum() < 2:
        return nothing
    standard = [(score - score[no].mean()) / score[no].std(ddof=1) for score in scores]
    return pd.Series((standard[0] + standard[1]) / math.sqrt(2), index=table.index)


def detection(
    table: pd.DataFrame, pairs: pd.DataFrame, asked: Settings, exact: bool
) -> tuple[list[Finding], pd.DataFrame]:
    """AUC and true-positive rate of every signal; a weak one has its row too.

    Args:
        table: :func:`captions`.
        exact: similarities were computed from the full vectors; else theirs are left out.

    Returns:
        findings, and the table `signals`, a row per signal.
    """
    findings: list[Finding] = []
    rows, without = [], []
    for signal in (*KNOWN, COMBINED):
        given = signal.column in table and (exact or signal.column != "similarity")
        if not given or (table[signal.column].isna().all() and signal not in (KNOWN[0], COMBINED)):
            without.append(signal)
            continue
        known = table[table.label.notna() & table[signal.column].notna()]
        yes = (known.label == 1).to_numpy()
        if yes.all() or not yes.any():
            findings.append(_untested(signal, _why_not(signal, table, yes)))
            continue
        scores = signal.sign * known[signal.column].to_numpy(float)
        made = _findings(signal, scores, yes, known, pairs, asked)
        findings += made
        area, point = made
        rows.append(
            {
                "signal": signal.name,
                "column": signal.column,
                "paper": signal.paper,
                "memorized": int(yes.sum()),
                "negatives": int((~yes).sum()),
                "auc": area.estimate,
                "auc_low": area.ci[0] if area.ci else None,
                "auc_high": area.ci[1] if area.ci else None,
                "tpr": point.estimate,
                "tpr_low": point.ci[0] if point.ci else None,
                "tpr_high": point.ci[1] if point.ci else None,
                "fpr": asked.fpr,
                "threshold": point.detail["threshold"],
                "seconds_per_prompt": point.detail["seconds_per_prompt"],
                "cost": signal.cost,
                "compared_with": _negatives(known, asked),
            }
        )
    if without:
        findings.append(_missing(without))
    return findings, pd.DataFrame(rows)


def _findings(
    signal: Signal,
    scores: NDArray[np.float64],
    yes: NDArray[np.bool_],
    known: pd.DataFrame,
    pairs: pd.DataFrame,
    asked: Settings,
) -> tuple[Finding, Finding]:
    area, ci = auc(scores, yes)
    point = tpr_at_fpr(scores, yes, asked.fpr)
    against = (
        f"{int(yes.sum())} memorized captions ({_positives(known, asked)}) against "
        f"{int((~yes).sum())} negatives ({_negatives(known, asked)})"
    )
    images, least = int(known.n.sum()), LEAST_CAPTIONS
    seconds = _seconds(signal, pairs)
    cost = f" Cost: {signal.cost}." if signal.cost else ""
    common: dict[str, Any] = {
        "n": images,
        "clusters": len(known),
        "evidence": {"arm": "base"},
    }
    first = Finding(
        PROBE,
        "detection_auc",
        {"signal": signal.name},
        area,
        ci,
        raw=area,
        reference=0.5,
        reference_name="chance",
        threshold=AUC_MARGIN,
        method=f"{signal.paper}; {signal.over_seeds} over the seeds; DeLong",
        verdict=judge(ci, 0.5, AUC_MARGIN, side="above", n=len(known), least=least),
        note=f"{against}. Above chance, it shows which captions are memorized.{cost}",
        detail={"seconds_per_prompt": seconds},
        **common,
    )
    second = Finding(
        PROBE,
        "detection_tpr",
        {"signal": signal.name},
        point.tpr,
        point.ci,
        raw=point.tpr,
        reference=asked.fpr,
        reference_name="chance",
        threshold=AUC_MARGIN,
        method=f"at a false-positive rate of {asked.fpr:.3g}; Wilson and bootstrap, the wider",
        verdict=judge(point.ci, asked.fpr, AUC_MARGIN, side="above", n=len(known), least=least),
        note=f"{against}; {point.false} of them lie above the threshold, whose true rate may be up "
        f"to {point.fpr_ci[1]:.1%}.",
        detail={
            "threshold": signal.sign * point.threshold,
            "false_positives": point.false,
            "fpr_ci": list(point.fpr_ci),
            "seconds_per_prompt": seconds,
        },
        **common,
    )
    return first, second


def _positives(known: pd.DataFrame, asked: Settings) -> str:
    counted = known.band[known.label == 1]
    return (
        f"{asked.memorized_from} training copies or more" if counted.notna().all() else "as listed"
    )


def _negatives(known: pd.DataFrame, asked: Settings) -> str:
    chosen = known[known.label == 0]
    sources = ", ".join(sorted({str(name) for name in chosen.source}))
    most = (
        f"at most {asked.unmemorized_to} training copies"
        if asked.unmemorized_to
        else ("captions never trained on")
    )
    return f"{most}; source: {sources}"


def _seconds(signal: Signal, pairs: pd.DataFrame) -> float | None:
    """Recorded seconds for all seeds of a prompt."""
    names: Mapping[str, str] = {"ren_first": "ren", "ren_local": "ren", "one_step": "webster"}
    short = signal.column.removeprefix(f"{DETECTOR}_").removesuffix("_finest")
    column = f"{DETECTOR}_{names.get(short, short)}_seconds"
    if not signal.column.startswith(DETECTOR) or column not in pairs:
        return None
    base = pairs[(pairs.arm == "base") & pairs[column].notna()]
    if base.empty:
        return None
    return float(base.groupby(["source", "text"])[column].sum().mean())


def _why_not(signal: Signal, table: pd.DataFrame, yes: NDArray[np.bool_]) -> str:
    truth = set(table.label.dropna())
    if 1.0 not in truth:
        return "no caption is known to be memorized"
    if 0.0 not in truth:
        return "no caption is declared never trained on (option 'negatives', or duplicates 0)"
    if signal is COMBINED and not len(yes) and (COPY not in table or table[COPY].isna().all()):
        return "no image could be compared with the training images"
    if not len(yes):
        return "it has no values here; without guidance there is no text noise"
    return f"it has values for {'memorized captions' if yes.all() else 'negatives'} alone"


def _missing(signals: Sequence[Signal]) -> Finding:
    """One finding that names the signals without values, and what each needs."""
    needs: dict[str, list[str]] = {}
    for signal in signals:
        needs.setdefault(NEEDS.get(signal.column, "the training images"), []).append(signal.name)
    said = "; ".join(f"{', '.join(names)} (needs {what})" for what, names in needs.items())
    return Finding(
        PROBE,
        "detection_auc",
        {"signal": WITHOUT},
        verdict="not_tested",
        note=f"Not tested, for no image has a value: {said}.",
    )


def _untested(signal: Signal, why: str) -> Finding:
    return Finding(
        PROBE,
        "detection_auc",
        {"signal": signal.name},
        verdict="not_tested",
        note=f"Not tested: {why}.",
    )
