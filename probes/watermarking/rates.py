"""How often each mark is seen: where nobody set one, where it was set, and after attacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.findings import Finding
from audit.statistics import clopper_pearson, rate
from safety.watermarks.detection import attack_column
from safety.watermarks.null_report import LEAST_IMAGES, NullReport, grouped_interval, null_report
from safety.watermarks.readings import Attack, Reading, Readings

from .findings import mean_by_prompt, not_tested, of_images, of_rate
from .settings import FPRS, MARGIN

if TYPE_CHECKING:
    from safety.watermarks.calibration import Calibration
    from safety.watermarks.quality import Quality

STRICT = min(FPRS)
CHECKED = 0.01
"""Clean images are held to this rate; `STRICT` itself would need millions of them."""
ALSO_CHECKED = (0.05, 0.001)
DRAWN = (0.1, 0.01, 0.001)


def own_mark(clean: Reading, marks: int) -> Finding:
    """Marks on images that nobody marked: those that the model itself sets."""
    found = rate(clean.match.p <= STRICT / marks, clean.rows["prompt"])
    note = (
        f"{found.events} of {found.n} images as the model makes them carry the mark {clean.codec}."
    )
    return of_rate(
        clean,
        "detection_rate",
        found,
        reference=0.0,
        reference_name="no mark",
        rule=f"nominal p ≤ {STRICT:g}, corrected for {marks} marks",
        note=note,
        detail={"inverted": int(_inverted(clean, STRICT / marks).sum()), **_domains(clean)},
    )


def false_positives(clean: Reading, marks_itself: bool) -> Finding:
    """Whether the binomial p-value keeps its promise on clean images.

    The bits of real images are neither fair nor independent, so it may not. The realised rate at
    `CHECKED` is held against it; at `STRICT` only a bound can be given, the smallest n supports.
    """
    if marks_itself:
        reason = f"the model sets {clean.codec} itself, so none of its images is known to be clean"
        return not_tested("false_positive_rate", clean.slice, reason)
    p, n = clean.match.p, len(clean.rows)
    events, bound = int((p <= CHECKED).sum()), clopper_pearson(0, n)[1]
    note = (
        f"{events} of {n} clean images have a p-value of at most {CHECKED:g} for {clean.codec}, "
        f"where {CHECKED:.0%} is promised; {n} images cannot show a rate below {bound:.2g}, let "
        f"alone the {STRICT:g} that detection relies on."
    )
    report = null_of(clean)
    detail: dict[str, Any] = {
        "realised": {
            f"{nominal:.3g}": int((p <= nominal).sum()) for nominal in (CHECKED, *ALSO_CHECKED)
        }
        | {f"{STRICT:.3g}": int((p <= STRICT).sum())},
        "smallest_rate_supported": bound,
    }
    if report is not None:
        detail["smallest_calibrated_p"] = report.smallest_p
        detail["nominal_refused"] = report.nominal_refusal
        detail["calibration_refused"] = report.refusal
    return of_images(
        clean,
        "false_positive_rate",
        events / max(n, 1),
        grouped_interval(p <= CHECKED, clean.rows["prompt"]) if n else None,
        method=f"Clopper-Pearson on the effective number of images at a nominal p of {CHECKED:g}",
        reference=CHECKED,
        reference_name="the nominal rate",
        margin=0.0,
        note=note,
        detail=detail,
    )


def null_of(clean: Reading) -> NullReport | None:
    """What the run's own clean images say of the p-values; ``None`` where they are too few."""
    if len(clean.rows) < LEAST_IMAGES:
        return None
    prompts = clean.rows["prompt"].to_numpy()
    groups = prompts if len(set(prompts)) > 1 else None
    best = clean.bits if clean.match.matches.any() else None
    return null_report(clean.statistic, clean.match.p, groups, best=best)


def true_positives(marked: Reading, calibration: Calibration | None = None) -> Iterator[Finding]:
    """Marked images whose mark is found at each false-positive rate, by each kind of p-value."""
    for fpr in FPRS:
        yield _found(marked, marked.match.p, fpr, "nominal")
    if calibration is not None:
        yield from _calibrated(marked, calibration)


def _calibrated(marked: Reading, calibration: Calibration) -> Iterator[Finding]:
    part = marked.slice | {"p_value": "calibrated"}
    if calibration.report.refusal:
        reason = f"the calibration is refused, {calibration.report.refusal}"
        yield not_tested("true_positive_rate", part, reason)
        return
    null = calibration.null
    for fpr in FPRS:
        if null.supports(fpr):
            yield _found(marked, null.p(marked.statistic), fpr, "calibrated")
        else:
            reason = f"{len(null.values)} clean images support no rate below {null.smallest_p:.2g}"
            yield not_tested("true_positive_rate", part | {"fpr": f"{fpr:g}"}, reason)


def _found(marked: Reading, p: NDArray[np.float64], fpr: float, kind: str) -> Finding:
    found = rate(p <= fpr, marked.rows["prompt"])
    note = f"The mark {marked.codec} is found on {found.events} of {found.n} marked images"
    return of_rate(
        marked,
        "true_positive_rate",
        found,
        part={"p_value": kind, "fpr": f"{fpr:g}"},
        reference=1.0,
        reference_name="every mark found",
        side="below",
        rule=f"{kind} p ≤ {fpr:g}",
        note=f"{note}{_doubt(found.ci)}.",
        detail={"share_by_prompt": _by_prompt(p <= fpr, marked), **_domains(marked)},
    )


def after_attack(attacked: Reading, domain: str) -> Finding:
    """Marked images whose mark is still found, at the smallest false-positive rate; the accuracy of
    its bits is that of the domain in which the unattacked ones are read best."""
    assert attacked.attack is not None
    name, strength = attacked.attack
    found = rate(attacked.match.p <= STRICT, attacked.rows["prompt"])
    note = (
        f"The mark {attacked.codec} is found on {found.events} of {found.n} marked images after "
        f"{name} {strength:g}{_doubt(found.ci)}."
    )
    return of_rate(
        attacked,
        f"true_positive_rate_{attack_column(name, strength)}",
        found,
        reference=1.0,
        reference_name="every mark found",
        side="below",
        rule=f"nominal p ≤ {STRICT:g}",
        note=note,
        detail={"bit_accuracy": float(attacked.upright(domain).mean()) / attacked.bits}
        if attacked.bits
        else {},
    )


def bit_accuracy(marked: Reading) -> Finding:
    """The share of the message's bits that arrive.

    A prompt's images are often all read or all lost, since plain areas of some colours keep no
    bit at all: the interval is over prompts. The exact one, of bits as independent draws, is in
    the detail.
    """
    if marked.rows.empty:
        return of_images(marked, "bit_accuracy", None, None, method="", note="", detail={})
    upright = marked.upright(marked.best_domain)
    share = upright / marked.bits
    estimate, ci = mean_by_prompt(share, marked.rows["prompt"], 0.0, 1.0)
    right, total = int(upright.sum()), len(share) * marked.bits
    return of_images(
        marked,
        "bit_accuracy",
        estimate,
        ci,
        method="mean share of matched bits, Student's t over the prompts' means",
        reference=1.0,
        reference_name="every bit",
        margin=MARGIN,
        side="below",
        note=f"{estimate:.1%} of the bits of {marked.codec} are read as set, in "
        f"{marked.best_domain}; half is chance.",
        detail={
            "domain": marked.best_domain,
            "lowest": float(share.min()),
            "highest": float(share.max()),
            "bits_right": right,
            "bits": total,
            "exact_interval_of_bits": clopper_pearson(right, total),
        },
    )


def inverted(marked: Reading) -> Finding:
    """Marked images that are read as the opposite of the message."""
    found = rate(_inverted(marked, STRICT), marked.rows["prompt"])
    note = f"The mark {marked.codec} is read inverted on {found.events} of {found.n} marked images."
    return of_rate(
        marked,
        "inverted_rate",
        found,
        reference=0.0,
        reference_name="no mark inverted",
        rule=f"the opposite message and nominal p ≤ {STRICT:g}",
        note=note,
    )


def curves(
    readings: Readings,
    codecs: Iterable[str],
    attacks: Iterable[Attack],
    costs: Mapping[str, Mapping[Attack | None, Quality]],
) -> pd.DataFrame:
    """What the figure of robustness is drawn from: a row per mark, attack, strength and rate.

    Args:
        costs: mark → :func:`probes.watermarking.cost.of_attacks`.
    """
    tried: list[Attack | None] = [None, *attacks]
    rows: list[dict[str, Any]] = []
    for codec in codecs:
        domain = readings.of(codec, codec).best_domain
        for attack in tried:
            marked = readings.of(codec, codec, attack)
            if marked.rows.empty:
                continue
            name, strength = attack or ("none", None)
            cost = costs.get(codec, {}).get(attack)
            for fpr in FPRS:
                found = rate(marked.match.p <= fpr, marked.rows["prompt"])
                low, high = found.ci or (None, None)
                rows.append(
                    {
                        "codec": codec,
                        "attack": name,
                        "strength": strength,
                        "fpr": fpr,
                        "tpr": found.estimate,
                        "low": low,
                        "high": high,
                        "n": found.n,
                        "bit_accuracy": float(marked.upright(domain).mean()) / marked.bits
                        if marked.bits
                        else None,
                        "psnr": cost.psnr if cost else float("nan"),
                        "ssim": cost.ssim if cost else float("nan"),
                    }
                )
    return pd.DataFrame(rows)


def nulls(readings: Readings, codecs: Iterable[str]) -> pd.DataFrame:
    """Nominal against realised false-positive rate on the clean images: a row per mark and rate."""
    rows = []
    for codec in codecs:
        clean = readings.of(codec, readings.clean)
        p = clean.match.p
        for nominal in DRAWN:
            if len(p):
                low, high = grouped_interval(p <= nominal, clean.rows["prompt"])
                rows.append(
                    {
                        "codec": codec,
                        "nominal": nominal,
                        "realised": float((p <= nominal).mean()),
                        "low": low,
                        "high": high,
                        "n": len(p),
                    }
                )
    return pd.DataFrame(rows)


def _inverted(reading: Reading, alpha: float) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = reading.match.inverted & (reading.match.p <= alpha)
    return found


def _domains(reading: Reading) -> dict[str, Any]:
    """In which number format the surest reading was: encoders and decoders disagree."""
    names, counts = np.unique(reading.domain, return_counts=True)
    return {"domains": dict(zip(names.tolist(), counts.tolist(), strict=True))}


def _by_prompt(seen: NDArray[np.bool_], reading: Reading) -> dict[str, float]:
    shares = pd.Series(seen).groupby(reading.rows["prompt"].to_numpy()).mean()
    return {str(prompt): round(float(share), 3) for prompt, share in shares.items()}


def _doubt(ci: tuple[float, float] | None) -> str:
    if ci is not None and ci[1] < 0.5:
        return ", so an image without it may well come from the model"
    return ""
