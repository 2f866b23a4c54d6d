"""Verdicts at declared looks: their errors over a family, and what they save."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from audit import sequential
from audit.sequential import BUDGET, decide, level_at, looks, open_prompts, spent_at
from audit.statistics import benjamini_hochberg, equivalence_of_proportion


def runs(shares: np.ndarray, number: int, seed: int = 0, common: float = 0.0) -> np.ndarray:
    """Successes of `number` sequential audits, shape (number, looks, prompts).

    Args:
        common: correlation of the prompts' images of one seed.
    """
    rng = np.random.default_rng(seed)
    shape = (number, BUDGET, len(shares))
    if common:
        from scipy.special import ndtr

        noise = common**0.5 * rng.standard_normal((*shape[:2], 1))
        uniform = ndtr(noise + (1 - common) ** 0.5 * rng.standard_normal(shape))
    else:
        uniform = rng.random(shape)
    return (uniform < shares).cumsum(axis=1)[:, np.array(looks()) - 1]


def audit(counts: np.ndarray, reference: float = 0.5) -> tuple[list[str], np.ndarray]:
    """One audit in rounds: the verdicts at its end, and the images of each prompt."""
    at = np.zeros(counts.shape[1], int)
    images = np.array(looks())
    while True:
        k = counts[at, np.arange(len(at))]
        decisions = decide(k, images[at], reference, 0.1)
        still = np.array([d.verdict == "inconclusive" for d in decisions])
        still &= at < len(images) - 1
        if not still.any():
            return [d.verdict for d in decisions], images[at]
        at[still] += 1


def test_a_prompt_that_is_plainly_skewed_has_its_verdict_after_the_first_look():
    verdicts, images = audit(runs(np.array([0.95, 0.5, 0.03]), 1)[0])
    assert verdicts[::2] == ["exceeds", "exceeds"]
    assert images[::2].tolist() == [50, 50] and images[1] > 50


@pytest.mark.parametrize("common", [0.0, 0.5])
def test_accused_wrongly_at_any_look_is_as_rare_as_declared(common: float):
    # Six prompts at the ends of the margin or at the reference, six with a true skew: of a family
    # the share of false accusations is held; stopping at a verdict does not add to it.
    null = np.array([0.6, 0.4, 0.6, 0.5, 0.5, 0.6])
    shares = np.r_[null, 0.9, 0.85, 0.15, 0.8, 0.95, 0.1]
    counts = runs(shares, 300, seed=1, common=common)
    wrong = []
    for one in counts:
        accused = np.array(audit(one)[0]) == "exceeds"
        wrong.append(accused[:6].sum() / max(1, accused.sum()))
        assert accused[6:].sum() >= 4
    assert np.mean(wrong) <= 0.05


def test_within_is_said_of_a_share_at_the_margin_s_end_at_most_at_the_rate_of_alpha():
    verdicts = [v for one in runs(np.array([0.6] * 12), 170, seed=2) for v in audit(one)[0]]
    assert verdicts.count("within") / len(verdicts) <= 0.05
    assert verdicts.count("exceeds") / len(verdicts) <= 0.05


def test_under_skew_it_needs_fewer_images_than_the_fixed_design_for_the_same_verdicts():
    shares = np.array([0.05, 0.97, 0.98, 0.0, 0.2, 0.45, 0.0, 0.55, 0.05, 0.6, 0.1, 0.03])
    used, same = [], []
    for one in runs(shares, 60, seed=3):
        verdicts, images = audit(one)
        fixed = [equivalence_of_proportion(int(k), BUDGET, 0.1) for k in one[-1]]
        accused = benjamini_hochberg([f.p_beyond for f in fixed]) <= 0.05
        used.append(images.mean() / BUDGET)
        same.append((accused == (np.array(verdicts) == "exceeds")).mean())
    assert np.mean(used) < 0.5
    assert np.mean(same) > 0.97


def test_below_the_least_number_of_images_there_is_no_verdict():
    assert [d.verdict for d in decide([49, 0, 50], [49, 0, 50], 0.5, 0.1)] == [
        "inconclusive", "inconclusive", "exceeds",
    ]  # fmt: skip
    unknown = decide([30], [30], 0.5, 0.1, images=[60])[0]
    assert unknown.verdict == "exceeds"
    assert decide([0], [0], 0.5, 0.1)[0].ci == (0, 1)


def test_a_family_of_many_asks_more_of_each():
    alone = decide([40], [50], 0.5, 0.1)[0]
    crowd = decide([40] + [25] * 99, [50] * 100, 0.5, 0.1)[0]
    assert alone.verdict == "exceeds" and crowd.verdict == "inconclusive"
    assert crowd.p == alone.p and crowd.p_adjusted == pytest.approx(min(1, 100 * alone.p))


def test_the_look_is_that_of_the_images_and_no_look_is_added_after_the_budget():
    assert spent_at([1, 50, 51, 75, 200]).tolist() == spent_at([50, 50, 75, 75, 200]).tolist()
    assert (level_at(np.array([50, 200, 100])) > 0.95).all()
    assert spent_at([30], 30) == 1.0
    with pytest.raises(ValueError, match="201 images of a prompt, but 200"):
        decide([100], [201], 0.5, 0.1)
    with pytest.raises(ValueError, match="fewer than n"):
        decide([10], [60], 0.5, 0.1, images=[50])
    more = decide([100], [201], 0.5, 0.1, budget=400)[0]
    assert more.verdict == "inconclusive"


def test_a_prompt_is_open_while_any_of_its_shares_is():
    decisions = decide([48, 25, 2], [50, 50, 50], 0.5, 0.1)
    assert open_prompts(["a", "a", "b"], decisions) == {"a"}
    with pytest.raises(ValueError, match="longer"):
        open_prompts(["a"], decisions)


def test_the_examples_are_true():
    failed, tried = doctest.testmod(sequential)
    assert tried >= 5 and not failed
