from __future__ import annotations

import numpy as np
import pytest

from audit.statistics import paired_gap


def test_pairs_of_one_prompt_are_a_published_table():
    # Fagerland, Lydersen and Laake 2014: airway hyper-responsiveness of 21 children.
    own = [1] + [1] + [0] * 7 + [0] * 12
    others = [1] + [0] + [1] * 7 + [0] * 12
    p, q, ci = paired_gap(own, np.array(others)[:, None], ["x"] * 21)
    assert p - q == pytest.approx(-6 / 21)
    assert ci == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("versions", [1, 4])
def test_pairs_that_all_agree_leave_an_interval_of_the_rule_of_three(versions: int):
    own = np.arange(100) < 30
    low, high = paired_gap(own, np.tile(own[:, None], versions), np.arange(100) // 10)[2]
    assert low == pytest.approx(-high)
    # P(no difference in 100) is 2.5% at 1 − 0.025^(1/100) = 3.62%.
    assert high == pytest.approx(0.0362, abs=0.002)


def test_prompts_that_differ_as_a_whole_tell_less_than_as_many_images():
    whole, spread = np.zeros(80, bool), np.zeros(80, bool)
    whole[:20], spread[::4] = True, True
    none, prompts = np.zeros((80, 1), bool), np.arange(80) // 10
    (low, high), (nearer, farther) = (paired_gap(own, none, prompts)[2] for own in (whole, spread))
    assert high - low > 2 * (farther - nearer)


def test_swapped_versions_give_the_mirrored_interval():
    rng = np.random.default_rng(2)
    a, b, prompts = rng.random(60) < 0.4, rng.random(60) < 0.2, np.arange(60) // 5
    low, high = paired_gap(a, b[:, None], prompts)[2]
    assert paired_gap(b, a[:, None], prompts)[2] == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    ("prompts", "seeds", "differ", "alike"),
    [(100, 1, 0.02, 0), (20, 1, 0.1, 0), (12, 8, 0.06, 0.2)],
)
def test_where_nearly_all_pairs_agree_the_gap_is_still_covered(
    prompts: int, seeds: int, differ: float, alike: float
):
    """`alike`: correlation within prompts of the outcomes and of what differs."""
    rng, covered, draws = np.random.default_rng(5), 0, 400
    cluster = np.repeat(np.arange(prompts), seeds)

    def chances(mean: float) -> np.ndarray:
        k = (1 - alike) / alike if alike else np.inf
        drawn = rng.beta(mean * k, (1 - mean) * k, prompts) if alike else np.full(prompts, mean)
        return drawn[cluster]

    for _ in range(draws):
        other = rng.random(len(cluster)) < chances(0.5)
        changed = rng.random(len(cluster)) < chances(differ)
        own = other | changed
        low, high = paired_gap(own, other[:, None], cluster)[2]
        covered += low <= differ / 2 <= high
    assert covered >= 0.93 * draws


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="as many rows"):
        paired_gap([1, 0], [[1]], ["a", "b"])
    with pytest.raises(ValueError, match="0 or 1"):
        paired_gap([1, 0.5], [[1], [0]], ["a", "b"])
    with pytest.raises(ValueError, match="clusters"):
        paired_gap([1, 0], [[1], [0]], ["a"])
