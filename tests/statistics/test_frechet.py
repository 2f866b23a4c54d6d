"""The Fréchet distance: against its closed form, a root of matrices, and repeated sampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from audit.statistics import frechet


def by_root(x: np.ndarray, y: np.ndarray) -> float:
    """As the authors' program writes it."""
    one, two = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    gap = x.mean(0) - y.mean(0)
    return float(gap @ gap + np.trace(one + two - 2 * np.real(sqrtm(one @ two))))


@pytest.mark.parametrize(("n", "m"), [(90, 70), (90, 9), (9, 70)])
def test_it_is_the_distance_that_a_root_of_matrices_gives(n: int, m: int) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(n, 8)) @ rng.normal(size=(8, 8)), rng.normal(0.4, 2, (m, 8))
    assert frechet(x, y).estimate == pytest.approx(by_root(x, y), rel=1e-6)


def test_sets_of_fewer_images_than_features_are_measured_too() -> None:
    """Of rank-deficient covariances the root is the sum of the singular values of A Bᵀ."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 40)), rng.normal(size=(15, 40))
    a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    values = np.linalg.eigvals(a.T @ a @ b.T @ b).real.clip(0)
    gap = x.mean(0) - y.mean(0)
    plain = gap @ gap + (a**2).sum() + (b**2).sum() - 2 * np.sqrt(values).sum()
    assert frechet(x, y).estimate == pytest.approx(plain, rel=1e-4)


def test_of_two_normal_laws_it_is_the_closed_form_and_above_it_at_small_n() -> None:
    """Diagonal covariances: Σ (μ − ν)² + (σ − τ)²; the bias shrinks with n."""
    rng = np.random.default_rng(3)
    mean, sigma, tau = np.array([0.5, 0, -1]), np.array([1, 2, 0.5]), np.array([1, 1, 1])
    exact = float((mean**2).sum() + ((sigma - tau) ** 2).sum())

    def at(n: int) -> float:
        one, two = rng.normal(0, sigma, (n, 3)), rng.normal(mean, tau, (n, 3))
        return frechet(one, two, folds=3).estimate

    assert at(100_000) == pytest.approx(exact, rel=0.02)
    alike = [frechet(*rng.normal(size=(2, n, 16)), folds=3).estimate for n in (50, 200, 800)]
    assert alike[0] > 2 * alike[1] > 4 * alike[2] > 0


@pytest.mark.parametrize(("d", "prompts", "m"), [(4, 40, 300), (32, 12, 60)])
def test_the_interval_is_as_wide_as_the_value_varies_with_prompts(
    d: int, prompts: int, m: int
) -> None:
    """Planted: images of a prompt share half of their variance; also where n is near d."""
    rng = np.random.default_rng(4)
    of, values, widths = np.repeat(np.arange(prompts), 4), [], []
    for _ in range(120):
        shared = rng.normal(size=(prompts, d))[of]
        x = 0.4 + (shared + rng.normal(size=shared.shape)) / 2**0.5
        found = frechet(x, rng.normal(size=(m, d)), of)
        values.append(found.estimate)
        widths.append(found.ci[1] - found.ci[0])
    spread = np.mean(widths) / 2 / 2.1  # about Student's quantile at these degrees of freedom
    assert 0.8 < spread / np.std(values) < 1.5


def test_a_planted_shift_is_found_and_the_interval_needs_three_prompts() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(200, 6)), rng.normal(size=(200, 6))
    near, far = frechet(x, y), frechet(x + 1, y)
    assert far.ci[0] > near.ci[1] and far.n == 200 and far.m == 200
    assert np.isnan(frechet(x, y, np.arange(200) % 2).ci).all()


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.ones((3, 2)), np.ones((3, 4)), "columns"),
        (np.ones((1, 2)), np.ones((3, 2)), "two images"),
        (np.full((3, 2), np.nan), np.ones((3, 2)), "finite"),
    ],
)
def test_sets_that_do_not_fit_are_refused(x: np.ndarray, y: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        frechet(x, y)
