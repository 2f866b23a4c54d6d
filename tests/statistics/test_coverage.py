"""How often nominal 95% intervals hold the truth, over grids with small n and extreme p.

Where the outcomes can be listed the coverage is a sum over all of them, without chance; else it is
simulated with a fixed seed. `pytest -s` prints mean and worst cell of each interval.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, multinomial, norm

from audit.statistics import (
    amplification_slope,
    benjamini_hochberg,
    clopper_pearson,
    cluster_mean,
    cohens_h,
    confidence_sequence,
    correct_shares,
    crossed_bootstrap,
    equivalence_of_mean,
    equivalence_of_pairs,
    equivalence_of_proportion,
    manski_bounds,
    mcnemar,
    prediction_powered_difference,
    prediction_powered_mean,
    rate,
    rogan_gladen,
    total_variation,
    total_variation_interval,
    two_way_mean,
    wilson,
)
from audit.statistics.paired import tango

SIZES = (5, 8, 12, 20, 50, 100, 250)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


def report(name: str, cells: dict[str, float]) -> tuple[float, float]:
    """Mean and worst coverage over the cells of a grid."""
    worst = min(cells, key=cells.__getitem__)
    mean = float(np.mean(list(cells.values())))
    print(f"{name:34} mean {mean:.3f}  worst {cells[worst]:.3f} at {worst}")
    return mean, cells[worst]


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_one_proportion(interval):
    cells = {}
    for n in SIZES:
        low, high = np.array([interval(k, n) for k in range(n + 1)]).T
        for p in SHARES:
            inside = (low <= p) & (p <= high)
            cells[f"n={n} p={p}"] = binom.pmf(np.arange(n + 1), n, p)[inside].sum()
    mean, worst = report(interval.__name__, cells)
    if interval is wilson:
        assert 0.93 <= mean <= 0.97
        assert worst > 0.83  # as Brown, Cai and DasGupta (2001) show near 0 and 1
    else:
        assert worst >= 0.95


def test_cohens_h_of_two_samples():
    cells = {}
    for n, m in ((10, 10), (20, 40)):
        bounds = np.array([[cohens_h(j, n, (k, m))[1] for k in range(m + 1)] for j in range(n + 1)])
        for p, q in product((0.02, 0.1, 0.5, 0.8), repeat=2):
            h = 2 * np.arcsin(np.sqrt(p)) - 2 * np.arcsin(np.sqrt(q))
            weight = np.outer(binom.pmf(np.arange(n + 1), n, p), binom.pmf(np.arange(m + 1), m, q))
            inside = (bounds[..., 0] <= h) & (h <= bounds[..., 1])
            cells[f"n={n},{m} p={p},{q}"] = weight[inside].sum()
    mean, worst = report("cohens_h", cells)
    assert 0.93 <= mean <= 0.97
    assert worst > 0.87


def discordant_counts(n: int) -> np.ndarray:
    return np.array([(b, c, n - b - c) for b in range(n + 1) for c in range(n + 1 - b)])


def test_paired_proportions_and_mcnemar():
    cells, sizes = {}, {"exact": [], "mid-p": []}
    for n in (10, 30):
        outcomes = discordant_counts(n)
        low, high = np.array([tango(int(b), int(c), n) for b, c, _ in outcomes]).T
        for first, second in ((0.02, 0.02), (0.1, 0.1), (0.3, 0.1), (0.25, 0.25), (0.6, 0.05)):
            weight = multinomial.pmf(outcomes, n, [first, second, 1 - first - second])
            inside = (low <= first - second) & (first - second <= high)
            cells[f"n={n} {first}-{second}"] = weight[inside].sum()
            if first == second:
                for method, found in sizes.items():
                    p = [
                        mcnemar([1] * b + [0] * c, [0] * b + [1] * c, method)
                        for b, c, _ in outcomes
                    ]
                    found.append(weight[np.array(p) <= 0.05].sum())
    mean, worst = report("paired_proportions (Tango)", cells)
    assert 0.93 <= mean <= 0.97
    assert worst > 0.92
    assert max(sizes["exact"]) <= 0.05
    assert max(sizes["mid-p"]) <= 0.06
    assert np.mean(sizes["mid-p"]) > np.mean(sizes["exact"])


def test_total_variation_never_misses_too_often():
    cells = {}
    for reference in ([1 / 3] * 3, [0.8, 0.15, 0.05]):
        for n in (10, 40):
            outcomes = discordant_counts(n)
            low, high = np.array([total_variation_interval(o, reference) for o in outcomes]).T
            for p in ([1 / 3] * 3, [0.6, 0.3, 0.1], [0.98, 0.01, 0.01]):
                truth = float(total_variation(np.array(p), reference))
                inside = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
                cells[f"n={n} p={p}"] = multinomial.pmf(outcomes, n, p)[inside].sum()
    assert report("total_variation_interval", cells)[1] >= 0.95


def test_missing_outcomes():
    cells = {}
    for n, absent, p in product((30, 200), (0.0, 0.05, 0.3), (0.02, 0.5)):
        # The truth at its worst: every missing image is negative, or every one positive.
        for truth in (p * (1 - absent), p * (1 - absent) + absent):
            rng = np.random.default_rng(0)
            counts = rng.multinomial(n, [p * (1 - absent), (1 - p) * (1 - absent), absent], 1000)
            outcomes, times = np.unique(counts, axis=0, return_counts=True)
            found = [manski_bounds(k, k + no, gone).ci for k, no, gone in outcomes.tolist()]
            low, high = np.array(found).T
            inside = (low <= truth) & (truth <= high)
            cells[f"n={n} missing={absent} p={p} truth={truth:g}"] = times @ inside / 1000
    mean, worst = report("manski_bounds", cells)
    assert 0.93 <= mean <= 0.97
    assert worst > 0.87


def test_corrected_shares():
    cells = {}
    rng = np.random.default_rng(1)
    for n, labels, p, (se, sp) in product(
        (50, 250), (25, 100), (0.02, 0.3, 0.5, 0.95), ((0.95, 0.9), (0.8, 0.75))
    ):
        q = rng.binomial(n, p * se + (1 - p) * (1 - sp), 400)
        a, b = rng.binomial(labels, se, 400), rng.binomial(labels, sp, 400)
        found = [rogan_gladen(*x) for x in zip(q, [n] * 400, *labelled(a, b, labels), strict=True)]
        low, high = np.array([f.ci for f in found]).T
        cells[f"n={n} labels={labels} p={p} se={se}"] = np.mean((low <= p) & (p <= high))
    mean, worst = report("rogan_gladen", cells)
    assert 0.93 <= mean <= 0.97
    assert worst > 0.90


def labelled(a: np.ndarray, b: np.ndarray, n: int) -> tuple[list, list]:
    return [(k, n) for k in a], [(k, n) for k in b]


def test_corrected_shares_of_many_classes():
    rng = np.random.default_rng(2)
    matrix = np.array([[0.85, 0.1, 0.05], [0.1, 0.8, 0.1], [0.05, 0.15, 0.8]])
    cells = {}
    for p, n, labels in product(([0.6, 0.3, 0.1], [0.95, 0.04, 0.01]), (100, 400), (30, 100)):
        inside = []
        for seed in range(60):
            counts = rng.multinomial(n, np.array(p) @ matrix)
            confusion = np.stack([rng.multinomial(labels, row) for row in matrix])
            low, high = correct_shares(counts, confusion, draws=300, seed=seed)[1].T
            inside.append((low <= p) & (p <= high))
        for k, share in enumerate(p):
            cells[f"n={n} labels={labels} p={share}"] = np.mean(inside, axis=0)[k]
    mean, worst = report("correct_shares", cells)
    assert 0.93 <= mean <= 0.97
    assert worst > 0.85


def test_prediction_powered_inference():
    rng = np.random.default_rng(3)
    means, differences, few = {}, {}, {}
    for n, p, right in product((50, 200), (0.1, 0.5), (0.6, 0.9, 0.97)):
        inside, both = [], []
        for _ in range(250):
            arms = []
            for share in (p, 0.4):
                y = rng.random(n + 1000) < share
                f = y ^ (rng.random(n + 1000) > right)
                arms.append((y[:n], f[:n], f[n:]))
            low, high = prediction_powered_mean(*arms[0])[1]
            inside.append(low <= p <= high)
            low, high = prediction_powered_difference(*arms)[1]
            both.append(low <= p - 0.4 <= high)
        cell = f"labels={n} p={p} right={right}"
        (few if n == 50 else means)[cell] = np.mean(inside)
        if n == 200:
            differences[cell] = np.mean(both)
    for name, cells in (("mean", means), ("difference", differences)):
        mean, worst = report(f"prediction_powered_{name}", cells)
        assert 0.93 <= mean <= 0.97
        assert worst > 0.89
    # Where hardly a label disagrees with its prediction the docstring warns, and rightly.
    mean, worst = report("prediction_powered_mean, 50 labels", few)
    assert mean > 0.88
    assert 0.75 < worst < 0.9


def test_clustered_images():
    rng = np.random.default_rng(4)
    cells = {"cluster_mean": {}, "rate": {}, "wilson on images": {}}
    for prompts, correlation, p in product((12, 40), (0.1, 0.5), (0.1, 0.5)):
        a = 1 / correlation - 1
        where, inside = np.repeat(np.arange(prompts), 10), {name: [] for name in cells}
        for _ in range(200):
            shares = rng.beta(a * p, a * (1 - p), prompts)
            events = rng.random(len(where)) < shares[where]
            found = {
                "cluster_mean": cluster_mean(events, where)[1],
                "rate": rate(events, where).ci,
                "wilson on images": wilson(int(events.sum()), len(events)),
            }
            for name, (low, high) in found.items():
                inside[name].append(low <= p <= high)
        for name in cells:
            cells[name][f"prompts={prompts} rho={correlation} p={p}"] = np.mean(inside[name])
    assert report("wilson on images", cells["wilson on images"])[0] < 0.8
    for name in ("cluster_mean", "rate"):
        mean, worst = report(name, cells[name])
        assert 0.93 <= mean <= 0.97
        assert worst > 0.82


def test_prompts_crossed_with_seeds():
    rng = np.random.default_rng(5)
    two_way, bootstrap, by_prompt = {}, {}, {}
    for (prompts, seeds), (a, b) in product(((20, 10), (40, 40)), ((1, 0), (1, 1), (0, 1))):
        p, s = np.repeat(np.arange(prompts), seeds), np.tile(np.arange(seeds), prompts)
        inside = {"two": [], "pigeon": [], "one": []}
        for seed in range(200):
            x = (a * rng.normal(size=(prompts, 1)) + b * rng.normal(size=seeds)).ravel()
            x = x + rng.normal(size=prompts * seeds)
            found = {
                "two": two_way_mean(x, p, s),
                "pigeon": crossed_bootstrap(x, p, s, draws=200, seed=seed),
                "one": cluster_mean(x, p),
            }
            for name, (_, (low, high)) in found.items():
                inside[name].append(low <= 0 <= high)
        cell = f"{prompts} × {seeds}, effects {a} {b}"
        two_way[cell], bootstrap[cell] = np.mean(inside["two"]), np.mean(inside["pigeon"])
        by_prompt[cell] = np.mean(inside["one"])
    assert report("cluster_mean, seeds matter", by_prompt)[1] < 0.6
    mean, worst = report("two_way_mean", two_way)
    assert 0.93 <= mean <= 0.97
    assert worst > 0.90
    mean, worst = report("crossed_bootstrap", bootstrap)
    assert 0.93 <= mean <= 0.97
    assert worst > 0.86


def test_amplification():
    rng = np.random.default_rng(6)
    cells = {}
    for prompts, n, slope in product((12, 60), (100, 1000), (1.0, 1.5)):
        reference = np.linspace(0.1, 0.9, prompts)
        logit = slope * np.log(reference / (1 - reference))
        inside = []
        for _ in range(300):
            spread = rng.normal(0, 0.6, prompts)
            k = rng.binomial(n, 1 / (1 + np.exp(-logit - spread)))
            low, high = amplification_slope(k, np.full(prompts, n), reference).ci
            inside.append(low <= slope <= high)
        cells[f"prompts={prompts} n={n} slope={slope}"] = np.mean(inside)
    mean, worst = report("amplification_slope", cells)
    assert 0.93 <= mean <= 0.97
    assert worst > 0.90


def test_a_confidence_sequence_is_never_left_while_a_peeked_interval_is():
    rng = np.random.default_rng(7)
    most, paths = 300, 2000
    k, n = np.meshgrid(np.arange(most + 1), np.arange(most + 1))
    low, high = confidence_sequence(np.minimum(k, n), n)
    z = norm.ppf(0.975)
    cells, peeked = {}, {}
    for p in (0.5, 0.3, 0.05):
        hits = (rng.random((paths, most)) < p).cumsum(axis=1)
        looks = np.broadcast_to(np.arange(1, most + 1), hits.shape)
        outside = (low[looks, hits] > p) | (high[looks, hits] < p)
        cells[f"p={p}"] = 1 - outside.any(axis=1).mean()
        # Wilson's interval excludes p where the score test rejects it.
        score = np.abs(hits / looks - p) / np.sqrt(p * (1 - p) / looks)
        peeked[f"p={p}"] = 1 - (score > z).any(axis=1).mean()
    assert report("confidence_sequence, every look", cells)[1] >= 0.96
    assert report("wilson, every look", peeked)[0] < 0.75


def test_equivalence_errs_at_most_as_often_as_it_says():
    worst = {"biased": 0.0, "equivalent": 0.0}
    for n, (margin, reference) in product((10, 50, 150), ((0.1, 0.5), (0.05, 0.2), (0.0, 0.3))):
        verdicts = np.array(
            [equivalence_of_proportion(k, n, margin, reference).verdict for k in range(n + 1)]
        )
        for p in (reference - margin, reference + margin):
            weight = binom.pmf(np.arange(n + 1), n, p)
            for verdict in worst:
                worst[verdict] = max(worst[verdict], weight[verdicts == verdict].sum())
    print(f"{'equivalence_of_proportion':34} worst error {worst}")
    assert max(worst.values()) <= 0.05

    rng = np.random.default_rng(8)
    found = [equivalence_of_mean(rng.normal(0.1, 0.2, 40), 0.1).verdict for _ in range(1000)]
    assert np.mean(np.array(found) == "equivalent") == pytest.approx(0.05, abs=0.02)
    assert np.mean(np.array(found) == "biased") == pytest.approx(0.025, abs=0.015)

    n, error = 40, 0.0
    outcomes = discordant_counts(n)
    weight = multinomial.pmf(outcomes, n, [0.2, 0.05, 0.75])  # a difference of .15, the margin
    for (b, c, _), w in zip(outcomes, weight, strict=True):
        if w > 1e-6:
            first, second = [1] * b + [0] * (n - b), [0] * b + [1] * c + [0] * (n - b - c)
            error += w * (equivalence_of_pairs(first, second, 0.15).verdict == "equivalent")
    assert error <= 0.06


def test_the_false_discovery_rate_over_a_family_of_prompts():
    # 60 prompts of 100 images, 15 of them skewed: exact tests, as a probe makes them.
    rng = np.random.default_rng(9)
    p = np.array([equivalence_of_proportion(k, 100, margin=0).p_beyond for k in range(101)])
    false, found = [], []
    for _ in range(400):
        hits = rng.binomial(100, np.repeat([0.5, 0.7], [45, 15]))
        rejected = benjamini_hochberg(p[hits]) <= 0.05
        false.append(rejected[:45].sum() / max(1, rejected.sum()))
        found.append(rejected[45:].mean())
    print(
        f"{'benjamini_hochberg at .05':34} false {np.mean(false):.3f}  found {np.mean(found):.2f}"
    )
    assert np.mean(false) <= 0.05
    assert np.mean(found) > 0.8
