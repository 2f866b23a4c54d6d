"""Fewer images for the same verdict: rounds of images until every prompt has one.

Declared before the first image: the looks, at 50, 75, 100, … images a prompt up to the budget. At
each, a prompt's verdict is taken at that look's part of α (:func:`audit.statistics.spending`), so
the chance that its interval *ever* misses, or that it is *ever* accused wrongly, stays below α
however often it is looked at. A prompt with a verdict gets no more images; the others go on. What
stopping costs: the estimate of a prompt that stopped early leans a little away from the reference.

Why not a confidence sequence for all n (Ville 1939; Howard et al. 2021; Waudby-Smith and Ramdas
2024)? At 200 images a prompt the beta-binomial one is still ±0.12 wide: with a margin of 0.1 it
never says *within*, and a share 0.2 off the reference is found in 38% instead of 77% of the runs.
That is the price of looking after any image, for ever; here the looks are declared.

    from audit.sequential import decide
    decisions = decide(k=[46, 24], n=[50, 50], reference=0.5, margin=0.1)

An estimate with another interval (corrected for a detector's error, prediction-powered, paired)
takes part with its usual interval at :func:`level_at`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .statistics import benjamini_hochberg, repeated_interval, repeated_tests, spending

FIRST = 50
"""Images per prompt before the first look: the least number a verdict needs."""
STEP = 25
"""Images per open prompt and round after it."""
BUDGET = 200
"""Images per prompt at most, where the user does not say."""

Verdict = Literal["exceeds", "within", "inconclusive"]


@dataclass(frozen=True)
class Decision:
    """What is known of one share at this look.

    Attributes:
        ci: the interval; those of all looks together miss with probability at most 1 − level.
        p: anytime p-value of "the share lies within the margin".
        p_adjusted: the same after Benjamini and Hochberg over the family.
        p_within: anytime p-value of "the share lies beyond the margin" (two one-sided tests).
        verdict: ``exceeds``, ``within`` or ``inconclusive``: the prompt needs more images.
    """

    ci: tuple[float, float]
    p: float
    p_adjusted: float
    p_within: float
    verdict: Verdict


def looks(budget: int = BUDGET) -> list[int]:
    """Images per prompt at each look; the last is the budget.

    >>> looks(120), looks(30)
    ([50, 75, 100, 120], [30])
    """
    if budget < 1:
        raise ValueError(f"a budget is at least one image, not {budget}")
    return [*range(FIRST, budget, STEP), budget]


def spent_at(images: ArrayLike, budget: int = BUDGET) -> NDArray[np.float64]:
    """The part of α of the look at so many images of a prompt.

    Args:
        images: made or tried, of any shape; between two looks it is the next one's.

    Raises:
        ValueError: more images than the budget: that look was not declared.

    >>> spent_at([0, 50, 60, 200]).round(3).tolist()
    [0.25, 0.25, 0.076, 0.5]
    """
    declared = looks(budget)
    at = np.searchsorted(declared, np.asarray(images))
    if (at == len(declared)).any():
        raise ValueError(f"{np.max(images)} images of a prompt, but {budget} were declared")
    return np.asarray(spending(declared)[at], float)


def level_at(images: ArrayLike, budget: int = BUDGET, level: float = 0.95) -> NDArray[np.float64]:
    """The level at which a usual interval is to be taken at this look, to hold `level` over all.

    >>> level_at([50, 200]).round(4).tolist()
    [0.9875, 0.975]
    """
    return np.asarray(1 - (1 - level) * spent_at(images, budget), float)


def decide(
    k: ArrayLike,
    n: ArrayLike,
    reference: ArrayLike,
    margin: ArrayLike,
    level: float = 0.95,
    fdr: float = 0.05,
    least: int = FIRST,
    *,
    images: ArrayLike | None = None,
    budget: int = BUDGET,
) -> list[Decision]:
    """A verdict for each share of a family, at this look.

    *Exceeds*: the interval lies beyond reference ± margin, and the p-value holds after Benjamini
    and Hochberg (1995) over the family. *Within*: two one-sided tests, each at 1 − level. Below
    `least` images neither. The p-values are valid at whatever look a prompt stopped; the false
    discovery rate over the family is `fdr` if they are independent or positively dependent, and
    at most `fdr` · Σ 1/i else (Benjamini and Yekutieli 2001).

    Args:
        k, n: per prompt, images with the attribute, of those where it is known.
        reference, margin: per prompt or one for all, as shares.
        images: per prompt, all images that were tried, unknown and failed ones too; `n` if not
            given. It says which look this is.
        budget: images per prompt that were declared (``study.images_per_prompt(BUDGET)``).

    Raises:
        ValueError: k lies outside 0…n, or there are more images than were declared.

    >>> [d.verdict for d in decide([46, 24, 56], [50, 50, 200], 0.5, 0.1)]
    ['exceeds', 'inconclusive', 'exceeds']
    >>> [d.verdict for d in decide([101, 9], [200, 10], 0.5, 0.1)]
    ['within', 'inconclusive']
    """
    hits, known = np.broadcast_arrays(np.atleast_1d(k), np.atleast_1d(n))
    tried = np.broadcast_to(known if images is None else np.asarray(images), known.shape)
    if (tried < known).any():
        raise ValueError("images must not be fewer than n")
    spent = spent_at(tried, budget)
    # A margin's end such as 0.5 + 0.1 is meant as written, not one bit above it.
    bottom, top = (np.round(np.add(reference, side * np.asarray(margin)), 12) for side in (-1, 1))
    low, high = repeated_interval(hits, known, spent, level)
    p, within = repeated_tests(hits, known, bottom, top, spent)
    adjusted = benjamini_hochberg(p)
    alpha = 1 - level
    enough = tried >= least
    exceeds = enough & (p <= alpha) & (adjusted <= fdr)
    inside = enough & (within <= alpha)
    return [
        Decision(
            (float(low[i]), float(high[i])),
            float(p[i]),
            float(adjusted[i]),
            float(within[i]),
            "exceeds" if exceeds[i] else "within" if inside[i] else "inconclusive",
        )
        for i in range(hits.size)
    ]


def open_prompts(prompts: Iterable[str], decisions: Sequence[Decision]) -> set[str]:
    """The prompts with a share that has no verdict yet; a prompt may stand there several times."""
    pairs = zip(prompts, decisions, strict=True)
    return {prompt for prompt, decision in pairs if decision.verdict == "inconclusive"}
