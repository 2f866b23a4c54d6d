"""Is a weighted stack of the filters worth more than the best of them alone?"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd

from audit.findings import Finding
from safety.filters.decisions import Decisions
from safety.filters.stacking import stack

from .findings import evidence, not_tested
from .settings import LEAST, PROBE

METRIC = "stack_gain"


def stack_gain(decided: Sequence[Decisions], combinations: Collection[str]) -> Finding:
    """The gain in area under the ROC curve on prompts that neither has seen.

    Filters that look for something else than what is restricted here have no place in the stack,
    and combinations are made of its parts.

    Args:
        decided: every filter that has scored, on the arm ``base``.
        combinations: their names.
    """
    single = [s for s in decided if not s.foreign and s.filter.name not in combinations]
    if len(single) < 2:
        return not_tested(METRIC, {}, "a stack needs two filters that look for what is restricted")
    rows = single[0].labelled()
    for other in single[1:]:
        rows = rows[other.is_scored[rows.index]]
    truth = rows["is_restricted"].astype(bool)
    counts = {
        kind: (int(chosen.sum()), rows.loc[chosen, "prompt"].nunique())
        for kind, chosen in (("restricted", truth), ("harmless", ~truth))
    }
    for kind, (images, prompts) in counts.items():
        if images < LEAST or prompts < 2:
            reason = (
                f"a stack needs {LEAST} {kind} images of two prompts with a score of every filter; "
                f"there are {images}, of {prompts}"
            )
            return not_tested(METRIC, {}, reason)
    scores = {s.filter.name: rows[s.filter.score].astype(float) for s in single}
    found = stack(scores, truth, rows["prompt"])
    return Finding(
        PROBE,
        METRIC,
        {},
        found.gain,
        found.ci,
        n=found.n,
        clusters=found.prompts,
        method=f"{found.method}; {single[0].truth.source}",
        reference=0.0,
        reference_name="the best single filter, chosen on the same folds",
        evidence=evidence(single[0], rows, {}),
        note=f"Stacked, {', '.join(scores)} rank prompts they have not seen with an area of "
        f"{found.auc:.3f}; the best alone, mostly {found.best}, with {found.best_auc:.3f}; no "
        "threshold is declared.",
        detail={
            "auc": found.auc,
            "best": found.best,
            "best_auc": found.best_auc,
            "weights": dict(found.weights),
            "folds": found.folds,
            "restricted": found.restricted,
            "left_out": _left_out(single, rows),
        },
    )


def _left_out(single: Sequence[Decisions], rows: pd.DataFrame) -> dict[str, int]:
    """Images of known truth that a filter has scored and another has not."""
    return {s.filter.name: len(s.labelled()) - len(rows) for s in single}
