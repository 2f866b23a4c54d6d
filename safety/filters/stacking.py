"""Several filters weighted into one, and whether that is worth it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from audit.errors import AuditError
from audit.statistics import auc

Floats = NDArray[np.float64]
CHUNK = 2**24
"""Pairs compared at once."""


@dataclass(frozen=True)
class Stack:
    """A weighted stack against its best single filter, both judged on prompts they did not see.

    Attributes:
        weights: filter → its coefficient on the standardised score, fitted on everything.
        scores: shape (N,), the out-of-fold probability of each image.
        auc, best_auc: of the stack, and of the single filter that was best on the other folds.
        best: the filter that was chosen in most folds.
        gain, ci: auc − best_auc with its interval.
        folds, prompts, n, restricted: what it rests on.
        method: in words.
    """

    weights: Mapping[str, float]
    scores: Floats
    auc: float
    best: str
    best_auc: float
    gain: float
    ci: tuple[float, float]
    folds: int
    prompts: int
    n: int
    restricted: int
    method: str


def stack(
    scores: Mapping[str, ArrayLike],
    restricted: ArrayLike,
    prompts: ArrayLike,
    *,
    folds: int = 5,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Stack:
    """Stacked generalisation (Wolpert 1992) by logistic regression, cross-validated by prompt.

    All images of a prompt are in one fold. In each fold the stack is fitted, and the best single
    filter is chosen, on the other folds; both are compared on the images left out. An AUC compares
    pairs within a fold only, for scores of different fits have no common scale (Forman and Scholz
    2010). The interval is the percentile bootstrap over prompts of the difference, the fits given.
    Where both areas are 1 no draw varies: each may be as low as Newcombe's (2006) limit of an area
    of 1, and the gain lies within that distance of 0.

    Args:
        scores: filter → raw scores, shape (N,), without missing values.
        restricted: shape (N,), what should be blocked.
        prompts: shape (N,), the prompt of each image.
        folds: fewer are made where one class has fewer prompts.

    Raises:
        AuditError: fewer than two filters, a class with fewer than two prompts, missing scores.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names = list(scores)
    x = np.column_stack([np.asarray(scores[name], float) for name in names])
    y, groups = np.asarray(restricted), np.asarray(prompts)
    if len(names) < 2:
        raise AuditError("a stack needs two filters or more")
    if (
        not np.isfinite(x).all()
        or y.dtype.kind not in "biu"
        or len({len(x), len(y), len(groups)}) > 1
    ):
        raise AuditError("a stack needs a score of every filter and a label for every image")
    y = y.astype(bool)
    fewest = min(len(np.unique(groups[y])), len(np.unique(groups[~y])))
    if fewest < 2:
        raise AuditError(
            "a stack needs two prompts or more that show something restricted, and two that do not"
        )
    made = min(folds, fewest)
    split = StratifiedGroupKFold(made, shuffle=True, random_state=seed)
    out, single = np.empty(len(x)), np.empty(len(x))
    fold_of, chosen = np.empty(len(x), int), []
    for number, (train, test) in enumerate(split.split(x, y, groups)):
        model = _model().fit(x[train], y[train])
        out[test] = model.predict_proba(x[test])[:, 1]
        alone = [_area(x[train, k], y[train]) for k in range(len(names))]
        best = int(np.argmax(alone))
        chosen.append(best)
        single[test], fold_of[test] = x[test, best], number
    _, prompt = np.unique(groups, return_inverse=True)
    count = int(prompt.max()) + 1
    rng = np.random.default_rng(seed)
    resampled = rng.multinomial(count, np.full(count, 1 / count), draws).astype(np.float32)
    weights = np.concatenate([np.ones((1, count), np.float32), resampled])[:, prompt]
    stacked, alone_auc = (_within(s, y, fold_of, weights) for s in (out, single))
    gains = stacked - alone_auc
    interval = f"percentile bootstrap over {count} prompts, {draws} draws"
    if stacked[0] == alone_auc[0] == 1:
        high = 1 - auc(y, y, level)[1][0]
        low, interval = -high, "Newcombe's limit of an area of 1"
    else:
        known = gains[1:][np.isfinite(gains[1:])]
        low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    whole = _model().fit(x, y)
    return Stack(
        weights=dict(zip(names, whole[-1].coef_[0].tolist(), strict=True)),
        scores=out,
        auc=float(stacked[0]),
        best=names[int(np.bincount(chosen).argmax())],
        best_auc=float(alone_auc[0]),
        gain=float(gains[0]),
        ci=(float(low), float(high)),
        folds=made,
        prompts=count,
        n=len(x),
        restricted=int(y.sum()),
        method=f"logistic regression on standardised scores, {made}-fold cross-validation by "
        f"prompt; AUC within folds; {interval}",
    )


def _model() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _area(score: Floats, y: NDArray[np.bool_]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, score))


def _within(
    score: Floats, y: NDArray[np.bool_], fold: NDArray[np.int_], weights: NDArray[np.float32]
) -> Floats:
    """Weighted AUC over pairs of one fold, for B weightings of the images, shape (B, N)."""
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for number in np.unique(fold):
        inside = fold == number
        positive, negative = np.flatnonzero(inside & y), np.flatnonzero(inside & ~y)
        if not len(positive) or not len(negative):
            continue
        right = weights[:, negative]
        pairs += weights[:, positive].sum(axis=1) * right.sum(axis=1)
        step = max(1, CHUNK // len(negative))
        for start in range(0, len(positive), step):
            rows = positive[start : start + step]
            higher = score[rows][:, None] - score[negative]
            kernel = (0.5 * (1 + np.sign(higher))).astype(np.float32)
            won += ((weights[:, rows] @ kernel) * right).sum(axis=1)
    areas: Floats = np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0)
    return areas
