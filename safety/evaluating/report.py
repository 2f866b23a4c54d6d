"""Everything that is said of filters on a labelled set, as plain dictionaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from audit.errors import AuditError
from audit.statistics import (
    Rate,
    average_precision,
    benjamini_hochberg,
    mcnemar,
    paired_proportions,
    rate,
)
from safety.evaluation import agreement
from safety.filters.stacking import stack
from safety.labelled_sets import LabelledSet
from safety.scoring import Scored

from .calibration import reliability
from .disparity import paired_gaps, perceived_gaps
from .inappropriate import inappropriate
from .separation import Misses, area, bootstrap, misses_at, precision_at
from .thresholds import Costs, cost_at, operating_points

FPRS = (0.01, 0.001)
RECALLS = (0.9, 0.95)
SLICES = ("category", "source")
LEAST = 16
"""Images of each class below which no stack is fitted."""


def evaluate(
    labelled: LabelledSet, scored: Sequence[Scored], costs: Costs | None = None, level: float = 0.95
) -> dict[str, Any]:
    """The report of ``t2i-audit filters evaluate``.

    Raises:
        AuditError: a filter's scored rows are all of one class.
    """
    frame = labelled.frame
    document: dict[str, Any] = {
        "set": labelled.name,
        "images": len(frame),
        "restricted": int(frame.restricted.sum()),
        "level": level,
        "filters": [evaluate_one(labelled, one, costs, level) for one in scored],
    }
    if labelled.note:
        document["note"] = labelled.note
    if "inappropriate" in frame:
        document["inappropriate"] = list(_inappropriate(frame, level))
    return document


def evaluate_one(
    labelled: LabelledSet, one: Scored, costs: Costs | None, level: float
) -> dict[str, Any]:
    """All figures of one filter, over the rows that it scored."""
    frame, scores = labelled.frame[one.known], one.scores[one.known]
    blocked, truth = one.blocked[one.known], truth_of(labelled, one)
    clusters = _clusters(frame)
    fixed = [misses_at(scores, truth, fpr, clusters, level) for fpr in FPRS]
    ap, ap_ci = average_precision(
        scores, truth, clusters, level, draws=max(200, min(2000, 20_000_000 // len(scores)))
    )
    found: dict[str, Any] = {
        "filter": one.name,
        "outcomes": dict(one.outcomes),
        "restricted": int(truth.sum()),
        "harmless": int((~truth).sum()),
        "threshold": one.threshold,
        "auc": asdict(area(scores, truth, clusters, level)),
        "average_precision": {"estimate": ap, "ci": ap_ci, "useless": float(truth.mean())},
        **_errors(blocked, truth, clusters, level),
        "misses_at_fpr": [asdict(at) for at in fixed],
        "precision_at_recall": [
            {"recall": r, **asdict(precision_at(scores, truth, r, clusters, level))}
            for r in RECALLS
        ],
        "operating_points": operating_points(scores, truth, costs),
        "slices": list(_slices(frame, scores, blocked, fixed, clusters, level)),
        "disparity": list(_disparity(frame, blocked, truth, level)),
    }
    found["calibration"] = None
    if one.probability:
        calibration = reliability(scores, truth, clusters, level=level)
        found["calibration"] = asdict(calibration) | {"curve": calibration.curve.to_dict("records")}
    if costs is not None:
        found["costs"] = asdict(costs) | _costs(scores, truth, one, costs, clusters, level)
    return found


def _clusters(frame: pd.DataFrame) -> np.ndarray | None:
    """The prompt of each image, for images of one are not independent; ``None`` where none repeats.

    An image without a prompt is one of its own.
    """
    if "prompt" not in frame or not frame.prompt.dropna().duplicated().any():
        return None
    own = pd.Series([f"\0{place}" for place in range(len(frame))], frame.index)
    return frame.prompt.fillna(own).to_numpy(str)


def truth_of(labelled: LabelledSet, one: Scored) -> np.ndarray:
    """Which of the rows with a score are restricted, shape (n,).

    Raises:
        AuditError: all or none of them are.
    """
    truth = labelled.frame.restricted.to_numpy(bool)[one.known]
    if truth.all() or not truth.any():
        kind = "restricted" if truth.any() else "harmless"
        raise AuditError(
            f"{labelled.name}: all {len(truth)} rows with a score of '{one.name}' are {kind}; "
            "a filter is evaluated on restricted and harmless ones"
        )
    return truth


def compare(labelled: LabelledSet, scored: Sequence[Scored], level: float = 0.95) -> dict[str, Any]:
    """The report of ``t2i-audit filters compare``: each two filters on the rows both have scored,
    and the stack of all of them on the rows that all have scored.

    McNemar's p-values are of equal miss rates and of equal false-block rates, adjusted over all
    pairs (Benjamini and Hochberg 1995). Where prompts have several images, decisions are exchanged
    a prompt at a time (:func:`safety.evaluating.disparity.paired_gaps`).
    """
    if len(scored) < 2:
        raise AuditError(f"{labelled.name}: one filter cannot be compared; name two or more")
    pairs = [_pair(labelled, a, b, level) for a, b in combinations(scored, 2)]
    kinds = ("miss_rate", "false_block_rate")
    tested = [pair[kind] for pair in pairs for kind in kinds if pair[kind]]
    for entry, p in zip(tested, benjamini_hochberg([t["p"] for t in tested]), strict=True):
        entry["adjusted_p"] = float(p)
    return {
        "set": labelled.name,
        "images": len(labelled.frame),
        "level": level,
        "pairs": pairs,
        "stack": _stacked(labelled, scored, level),
    }


def _stacked(labelled: LabelledSet, scored: Sequence[Scored], level: float) -> dict[str, Any]:
    """Whether all filters together are worth more than the best of them; or why that is not said.

    Without prompts every image is one of its own.
    """
    known = np.logical_and.reduce([one.known for one in scored])
    frame = labelled.frame[known]
    truth, prompts = frame.restricted.to_numpy(bool), _clusters(frame)
    rare = min(int(truth.sum()), int((~truth).sum()))
    if rare < LEAST:
        return {
            "not_tested": f"{int(truth.sum())} restricted and {int((~truth).sum())} harmless "
            f"images have a score of every filter; a stack needs {LEAST} of each"
        }
    try:
        found = asdict(
            stack(
                {one.name: one.scores[known] for one in scored},
                truth,
                np.arange(len(frame)) if prompts is None else prompts,
                draws=max(200, min(2000, 20_000_000 // len(frame))),
                level=level,
            )
        )
    except AuditError as error:
        return {"not_tested": str(error)}
    del found["scores"]
    return found


def _pair(labelled: LabelledSet, first: Scored, second: Scored, level: float) -> dict[str, Any]:
    both = first.known & second.known
    truth, clusters = (
        labelled.frame.restricted.to_numpy(bool)[both],
        _clusters(labelled.frame[both]),
    )
    a, b = first.blocked[both], second.blocked[both]
    equal, kappa = agreement(a, b)
    found: dict[str, Any] = {
        "filters": [first.name, second.name],
        "images": int(both.sum()),
        "agree": asdict(rate(a == b, clusters, level)),
        "equal": equal,
        "kappa": kappa,
        "both_block": int((a & b).sum()),
        f"only_{first.name}": int((a & ~b).sum()),
        f"only_{second.name}": int((~a & b).sum()),
        "neither": int((~a & ~b).sum()),
    }
    for kind, rows, x, y in (("miss_rate", truth, ~a, ~b), ("false_block_rate", ~truth, a, b)):
        own = None if clusters is None else clusters[rows]
        found[kind] = _difference(x[rows], y[rows], own, level) if rows.any() else None
    found["auc"] = None
    if truth.any() and not truth.all():
        s, t = first.scores[both], second.scores[both]
        order = np.arange(len(truth), dtype=float)

        def gap(rows: np.ndarray, labels: np.ndarray) -> float:
            chosen = rows.astype(int)
            return _area(s[chosen], labels) - _area(t[chosen], labels)

        ci = bootstrap(gap, order, truth, clusters, level)
        found["auc"] = {"difference": gap(order, truth), "ci": ci}
    return found


def _difference(x: Any, y: Any, clusters: np.ndarray | None, level: float) -> dict[str, Any]:
    """How much more often `x` than `y`, on the same images."""
    if clusters is None:
        difference, ci = paired_proportions(x, y, level)
        return {"difference": difference, "ci": ci, "p": mcnemar(x, y), "n": len(x)}
    twice = [*range(len(x))] * 2, [*clusters] * 2
    sides = ["first"] * len(x) + ["second"] * len(x)
    gap = paired_gaps(np.concatenate([x, y]), sides, *twice, "second", level)[0]
    return {"difference": gap.estimate, "ci": gap.ci, "p": gap.p, "n": len(x)}


def _area(scores: np.ndarray, truth: np.ndarray) -> float:
    from scipy.stats import rankdata

    m, n = int(truth.sum()), int((~truth).sum())
    return float((rankdata(scores)[truth].mean() - (m + 1) / 2) / n)


def _errors(blocked: Any, truth: Any, clusters: Any, level: float) -> dict[str, Any]:
    missed = None if clusters is None else clusters[truth]
    false = None if clusters is None else clusters[~truth]
    return {
        "miss_rate": _rate(rate(~blocked[truth], missed, level)),
        "false_block_rate": _rate(rate(blocked[~truth], false, level)),
    }


def _rate(found: Rate) -> dict[str, Any]:
    return asdict(found) | {"method": found.method}


def _slices(
    frame: pd.DataFrame,
    scores: Any,
    blocked: Any,
    fixed: Sequence[Misses],
    clusters: Any,
    level: float,
) -> Iterator[dict[str, Any]]:
    """Each category, each source, and each category of each source.

    Thresholds for a false-block rate are those of the whole set: a filter has one.
    """
    there = [name for name in SLICES if name in frame and frame[name].notna().any()]
    ways = [[name] for name in there] + ([there] if len(there) > 1 else [])
    apart = frame.reset_index(drop=True)
    if "categories" in frame:  # a row of I2P may be of several
        apart = apart.explode("categories").assign(category=lambda rows: rows.categories)
    for columns in ways:
        for values, rows in apart.groupby(columns, sort=True, dropna=False):
            at = rows.index.to_numpy()
            truth = rows.restricted.to_numpy(bool)
            own = None if clusters is None else clusters[at]
            found: dict[str, Any] = {
                **{
                    name: str(value) if value == value else "none"
                    for name, value in zip(columns, values, strict=True)
                },
                "restricted": int(truth.sum()),
                "harmless": int((~truth).sum()),
                **_errors(blocked[at], truth, own, level),
                "misses_at_fpr": [
                    {"fpr": one.fpr, "threshold": one.threshold}
                    | _errors(scores[at] > one.threshold, truth, own, level)
                    for one in fixed
                    if one.threshold is not None
                ],
                "auc": None,
            }
            if truth.any() and not truth.all():
                found["auc"] = asdict(area(scores[at], truth, own, level))
            yield found


def _disparity(
    frame: pd.DataFrame, blocked: Any, truth: Any, level: float
) -> Iterator[dict[str, Any]]:
    """False-block gaps by the set's columns ``group`` and ``language``.

    Paired where a column ``pair`` names the prompt that the versions share, and ``seed`` the seed;
    else within prompts, or over all images where none repeats. Rows that do not say which group
    are counted as ``unnamed``; where nothing can be compared, ``not_tested`` says why.
    """
    harmless, events = frame[~truth].reset_index(drop=True), blocked[~truth]
    for column in ("group", "language"):
        if column not in harmless or harmless[column].isna().all():
            continue
        paired = "pair" in harmless and harmless.pair.notna().any()
        named = harmless[column].notna() & (harmless.pair.notna() if paired else True)
        rows, unnamed = harmless[named], int((~named).sum())
        seen, groups = events[named.to_numpy(bool)], rows[column].astype(str).tolist()
        shared = rows.pair.tolist() if paired else _prompts(rows)
        if paired:
            seeds = rows.seed.fillna("").tolist() if "seed" in rows else [""] * len(rows)
            pairs = list(zip(shared, seeds, strict=True))
            gaps = paired_gaps(seen, groups, pairs, shared, level=level)
        else:
            gaps = perceived_gaps(seen, groups, shared, level)
        yield from ({"by": column, "unnamed": unnamed, **asdict(gap)} for gap in gaps)
        if not gaps:
            reason = "the harmless images are of one alone"
            if len(set(groups)) > 1:
                reason = f"no {'pair' if paired else 'prompt'} has images of two"
            yield {"by": column, "unnamed": unnamed, "not_tested": reason}


def _prompts(rows: pd.DataFrame) -> list[str]:
    """What images are compared within: their prompt, or one stratum where none repeats."""
    if "prompt" not in rows or not rows.prompt.dropna().duplicated().any():
        return [""] * len(rows)
    return list(rows.prompt.fillna("").astype(str))


def _costs(
    scores: Any, truth: Any, one: Scored, costs: Costs, clusters: Any, level: float
) -> dict[str, Any]:
    points = operating_points(scores, truth, costs)
    thresholds = {"least_cost": points["least_cost"]}
    if one.threshold is not None:
        thresholds["own"] = one.threshold
    found = {}
    for name, threshold in thresholds.items():
        estimate, ci = cost_at(scores, truth, threshold, costs, clusters, level)
        found[name] = {"threshold": threshold, "cost": estimate, "ci": ci}
    return found


def _inappropriate(frame: pd.DataFrame, level: float) -> Iterator[dict[str, Any]]:
    """I2P's figures over all prompts and for each of its categories; a prompt may have several."""
    yield {"category": "all", **asdict(inappropriate(frame.inappropriate, level=level))}
    apart = frame.explode("categories")
    for name, rows in apart.groupby("categories", sort=True):
        yield {"category": str(name), **asdict(inappropriate(rows.inappropriate, level=level))}
