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
from .separation import area, bootstrap, misses_at, precision_at
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
    # Several images of a prompt are not independent; where none repeats there are no clusters.
    clusters = None
    if "prompt" in frame and frame.prompt.duplicated().any():
        clusters = frame.prompt.fillna("").to_numpy()
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
        "misses_at_fpr": [asdict(misses_at(scores, truth, f, clusters, level)) for f in FPRS],
        "precision_at_recall": [
            {"recall": r, **asdict(precision_at(scores, truth, r, clusters, level))}
            for r in RECALLS
        ],
        "operating_points": operating_points(scores, truth, costs),
        "slices": list(_slices(frame, scores, blocked, clusters, level)),
        "disparity": list(_disparity(frame, blocked, truth, level)),
    }
    found["calibration"] = None
    if one.probability:
        calibration = reliability(scores, truth, clusters, level=level)
        found["calibration"] = asdict(calibration) | {"curve": calibration.curve.to_dict("records")}
    if costs is not None:
        found["costs"] = asdict(costs) | _costs(scores, truth, one, costs, clusters, level)
    return found


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
    pairs (Benjamini and Hochberg 1995).
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
    truth = frame.restricted.to_numpy(bool)
    rare = min(int(truth.sum()), int((~truth).sum()))
    if rare < LEAST:
        return {
            "not_tested": f"{int(truth.sum())} restricted and {int((~truth).sum())} harmless "
            f"images have a score of every filter; a stack needs {LEAST} of each"
        }
    prompts = np.arange(len(frame)).astype(str)
    if "prompt" in frame:
        prompts = frame.prompt.fillna(pd.Series(prompts, frame.index)).to_numpy(str)
    try:
        found = asdict(
            stack(
                {one.name: one.scores[known] for one in scored},
                truth,
                prompts,
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
    truth = labelled.frame.restricted.to_numpy(bool)[both]
    a, b = first.blocked[both], second.blocked[both]
    equal, kappa = agreement(a, b)
    found: dict[str, Any] = {
        "filters": [first.name, second.name],
        "images": int(both.sum()),
        "agree": asdict(rate(a == b, level=level)),
        "equal": equal,
        "kappa": kappa,
        "both_block": int((a & b).sum()),
        f"only_{first.name}": int((a & ~b).sum()),
        f"only_{second.name}": int((~a & b).sum()),
        "neither": int((~a & ~b).sum()),
    }
    for kind, x, y in (
        ("miss_rate", ~a[truth], ~b[truth]),
        ("false_block_rate", a[~truth], b[~truth]),
    ):
        found[kind] = None
        if len(x):
            difference, ci = paired_proportions(x, y, level)
            found[kind] = {"difference": difference, "ci": ci, "p": mcnemar(x, y), "n": len(x)}
    found["auc"] = None
    if truth.any() and not truth.all():
        s, t = first.scores[both], second.scores[both]
        order = np.arange(len(truth), dtype=float)

        def gap(rows: np.ndarray, labels: np.ndarray) -> float:
            chosen = rows.astype(int)
            return _area(s[chosen], labels) - _area(t[chosen], labels)

        ci = bootstrap(gap, order, truth, None, level)
        found["auc"] = {"difference": gap(order, truth), "ci": ci}
    return found


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
    frame: pd.DataFrame, scores: Any, blocked: Any, clusters: Any, level: float
) -> Iterator[dict[str, Any]]:
    """Each category, each source, and each category of each source."""
    there = [name for name in SLICES if name in frame and frame[name].notna().any()]
    ways = [[name] for name in there] + ([there] if len(there) > 1 else [])
    for columns in ways:
        for values, rows in frame.reset_index(drop=True).groupby(columns, sort=True, dropna=False):
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
                "auc": None,
            }
            if truth.any() and not truth.all():
                found["auc"] = asdict(area(scores[at], truth, own, level))
            yield found


def _disparity(
    frame: pd.DataFrame, blocked: Any, truth: Any, level: float
) -> Iterator[dict[str, Any]]:
    """False-block gaps by the set's columns ``group`` and ``language``.

    Paired where a column ``pair`` names the prompt that the versions share, and ``seed`` the seed.
    """
    harmless, events = frame[~truth], blocked[~truth]
    for column in ("group", "language"):
        if column not in harmless or harmless[column].isna().any():
            continue
        groups = harmless[column].astype(str).tolist()
        if "pair" in harmless and harmless.pair.notna().all():
            prompts = harmless.pair.tolist()
            seeds = harmless.seed if "seed" in harmless else [""] * len(prompts)
            pairs = list(zip(prompts, seeds, strict=True))
            gaps = paired_gaps(events, groups, pairs, prompts, level=level)
        else:
            prompts = harmless.prompt.fillna("").tolist() if "prompt" in harmless else []
            repeated = len(set(prompts)) < len(prompts)
            gaps = perceived_gaps(
                events, groups, prompts if repeated else [""] * len(groups), level
            )
        yield from ({"by": column, **asdict(gap)} for gap in gaps)


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
