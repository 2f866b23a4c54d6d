"""Squared MMDs: against plain double sums, on planted shifts, and on sets that are alike."""

from __future__ import annotations

import numpy as np
import pytest

from audit.statistics import cmmd, kid, mmd


def unit(rng: np.random.Generator, n: int, d: int = 16, shift: float = 0.0) -> np.ndarray:
    rows = rng.normal(size=(n, d))
    rows[:, 0] += shift
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def as_torch_fidelity(x: np.ndarray, y: np.ndarray) -> float:
    """KID as torch-fidelity and torchmetrics write it: full matrices, diagonals taken out."""
    kxx, kyy, kxy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    within = (kxx.sum() - np.trace(kxx)) / (n * (n - 1))
    return float(within + (kyy.sum() - np.trace(kyy)) / (m * (m - 1)) - 2 * kxy.mean())


def as_published(x: np.ndarray, y: np.ndarray) -> float:
    """CMMD by its authors' program: all pairs, one with itself included; sigma 10, times 1000."""

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[np.exp(-0.005 * ((p - q) ** 2).sum()) for q in b] for p in a]))

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def test_kid_equals_the_formula_of_torch_fidelity() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(37, 12)), rng.normal(0.3, 1, (51, 12))
    assert kid(x, y).estimate == pytest.approx(as_torch_fidelity(x, y), rel=1e-10)


def test_cmmd_is_the_published_one_without_the_pairs_of_an_image_with_itself() -> None:
    rng = np.random.default_rng(2)
    x, y = unit(rng, 23, shift=1), unit(rng, 31)
    found, biased = cmmd(x, y).estimate, as_published(x, y)

    def itself(a: np.ndarray) -> float:
        off = (as_mean(a) * len(a) - 1) / (len(a) - 1)
        return 1000 * (as_mean(a) - off)

    def as_mean(a: np.ndarray) -> float:
        return float(np.mean(np.exp(-0.005 * (2 - 2 * a @ a.T))))

    assert found == pytest.approx(biased - itself(x) - itself(y), abs=1e-9)
    assert 0 < found < biased


def test_the_interval_covers_nothing_where_nothing_is_planted() -> None:
    """A degenerate statistic: coverage is above the nominal 95%, and not by being endless."""
    rng = np.random.default_rng(3)
    found = [cmmd(unit(rng, 30), unit(rng, 40)) for _ in range(200)]
    covered = np.mean([one.ci[0] <= 0 <= one.ci[1] for one in found])
    assert covered >= 0.93
    spread = np.std([one.estimate for one in found])
    assert np.median([one.ci[1] - one.ci[0] for one in found]) < 8 * spread
    assert abs(np.mean([one.estimate for one in found])) < 3 * spread / 200**0.5


def test_a_planted_shift_is_found_and_its_size_is_covered() -> None:
    rng = np.random.default_rng(4)
    true = cmmd(unit(rng, 1500, shift=2), unit(rng, 1500)).estimate
    found = [cmmd(unit(rng, 30, shift=2), unit(rng, 40)) for _ in range(200)]
    assert np.mean([one.ci[0] > 0 for one in found]) > 0.95
    covered = np.mean([one.ci[0] <= true <= one.ci[1] for one in found])
    assert 0.91 <= covered <= 0.99


def test_images_of_one_prompt_do_not_pass_for_a_distance() -> None:
    """Prompts of one distribution, four near-copies each: the pairs within a prompt are left out,
    without which the set looks narrower than the reference it was drawn from."""
    rng = np.random.default_rng(5)
    aware, blind = [], []
    for _ in range(60):
        prompts = unit(rng, 12)
        x = np.repeat(prompts, 4, axis=0) + rng.normal(0, 0.02, (48, 16))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        y = unit(rng, 40)
        low, high = cmmd(x, y, np.repeat(np.arange(12), 4)).ci
        aware.append(low <= 0 <= high)
        low, high = cmmd(x, y).ci
        blind.append(low <= 0 <= high)
    assert np.mean(aware) >= 0.93
    assert np.mean(blind) < 0.7


def test_prompts_that_are_all_there_is_are_strata() -> None:
    """Twelve prompts of their own, and a reference of the same ones: as clusters they look wider
    than the reference, and as strata they do not; a planted shift is found either way."""
    rng = np.random.default_rng(7)
    centres = rng.normal(0, 1.5, (12, 16))

    def drawn(prompts: np.ndarray, shift: float = 0.0) -> np.ndarray:
        rows = centres[prompts] + rng.normal(size=(len(prompts), 16)) + shift
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    prompts = np.repeat(np.arange(12), 3)
    covered, blind, found = [], [], []
    estimates = []
    for _ in range(100):
        y = drawn(rng.integers(0, 12, 60))
        x = drawn(prompts)
        distance = cmmd(x, y, strata=prompts)
        estimates.append(distance.estimate)
        covered.append(distance.ci[0] <= 0 <= distance.ci[1])
        blind.append(cmmd(x, y, prompts).ci[1] < 0)
        found.append(cmmd(drawn(prompts, 1.0), y, strata=prompts).ci[0] > 0)
    assert np.mean(covered) >= 0.93
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / 10
    assert np.mean(blind) > 0.2
    assert np.mean(found) > 0.95


def test_strata_are_the_plain_sums_over_pairs_of_prompts() -> None:
    rng = np.random.default_rng(8)
    x, y, prompts = unit(rng, 12), unit(rng, 9), np.repeat(np.arange(4), [2, 3, 3, 4])
    k = np.exp(-0.005 * (2 - 2 * x @ x.T))
    pairs = 0.0
    for p in range(4):
        for q in range(4):
            block = k[np.ix_(prompts == p, prompts == q)]
            same = len(block) * (len(block) - 1)
            pairs += (block.sum() - len(block)) / same if p == q else block.mean()
    kyy = np.exp(-0.005 * (2 - 2 * y @ y.T))
    kxy = np.exp(-0.005 * (2 - 2 * x @ y.T))
    cross = np.mean([kxy[prompts == p].mean() for p in range(4)])
    plain = 1000 * (pairs / 16 + (kyy.sum() - 9) / 72 - 2 * cross)
    assert cmmd(x, y, strata=prompts).estimate == pytest.approx(plain, abs=1e-9)


def test_blocks_give_what_the_whole_matrix_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    x, y, prompts = unit(rng, 20), unit(rng, 17), np.arange(20) // 3
    whole = cmmd(x, y, prompts)
    monkeypatch.setattr("audit.statistics.distances.BLOCK", 40)
    blocks = cmmd(x, y, prompts)
    assert blocks.estimate == pytest.approx(whole.estimate, abs=1e-9)
    assert blocks.ci == pytest.approx(whole.ci, abs=1e-9)


def test_what_cannot_be_compared_is_refused() -> None:
    x = np.eye(4)
    for bad in (np.eye(3), np.ones(4), np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match=r"columns|dimensions|finite"):
            kid(x, bad)
    with pytest.raises(ValueError, match="a stratum needs two images"):
        kid(x, x, strata=[0, 0, 0, 1])
    with pytest.raises(ValueError, match="two prompts"):
        mmd(x, x, lambda a, b: a @ b.T, clusters=[0, 0, 0, 0])
