"""Marks in the noise, without a model: p-values that hold, planted marks found, bad use refused."""

from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import betainc
from scipy.stats import binomtest, chi2, kstest, ncx2

from audit import plugins
from audit.backends.noise_marks import noise_mark
from audit.backends.pictures import deliver
from audit.errors import AuditError
from audit.plan import Request
from safety.watermarks.gaussian_shading import GaussianShading, _stream
from safety.watermarks.latent import p_of, surprise
from safety.watermarks.tree_ring import TreeRing

PHANTOM = (8, 16, 16)
STABLE_DIFFUSION = (4, 64, 64)


def white(n: int, shape: tuple[int, int, int] = PHANTOM, seed: int = 0) -> torch.Tensor:
    return torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed))


def coloured(n: int) -> torch.Tensor:
    """Latents as unlike white noise as inverted pictures are: smooth, and alike."""
    spectrum = torch.fft.fft2(white(n, seed=1))
    k = torch.fft.fftfreq(16, 1 / 16)
    spectrum /= 1 + k[:, None] ** 2 + k[None] ** 2
    return torch.fft.ifft2(spectrum).real + white(1, seed=2) * 0.1


def marked(mark: Any, n: int, shape: tuple[int, int, int] = PHANTOM) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in range(n)]
    return torch.stack([mark.initial_noise(shape, generator) for generator in generators])


def p(mark: Any, latents: torch.Tensor) -> np.ndarray:
    return np.asarray(mark.nominal_p(mark.statistic(latents)))


# ---- Tree-Ring -----------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["rand", "ring"])
def test_a_fixed_key_on_white_noise_gives_uniform_p_values(pattern: Any) -> None:
    mark = TreeRing(pattern, b"fixed")
    assert kstest(p(mark, white(2000)), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("pattern", ["rand", "ring"])
def test_random_keys_on_a_picture_that_is_not_white_give_uniform_p_values(pattern: Any) -> None:
    latent = coloured(1)
    found = [p(TreeRing(pattern, bytes([i % 256, i // 256])), latent)[0] for i in range(600)]
    assert kstest(found, "uniform").pvalue > 1e-3


def test_a_fixed_key_on_pictures_that_are_alike_breaks_the_nominal_p_value() -> None:
    """Why these marks are calibrated too: what pictures share agrees with some key by chance."""
    noise = coloured(101)
    alike = noise[:100] + noise[100:]
    rates = [(p(TreeRing("ring", bytes([i])), alike) <= 0.01).mean() for i in range(60)]
    assert max(rates) > 0.1
    assert np.mean(rates) < 0.05


def test_the_published_p_value_of_rand_fires_twice_as_often_as_it_says() -> None:
    latents = white(4000)
    spectrum = torch.fft.fftshift(torch.fft.fft2(latents[:, 0]), dim=(-1, -2))
    y, x = np.ogrid[:16, :16]
    disc = torch.from_numpy((x - 8) ** 2 + (y[::-1] - 8) ** 2 <= 5**2)
    drawn = torch.randn(16, 16, generator=torch.Generator().manual_seed(999999))
    key = torch.fft.fftshift(torch.fft.fft2(drawn))[disc]
    assert (published(spectrum[:, disc], key) <= 0.01).mean() == pytest.approx(0.02, abs=0.006)
    ours = p(TreeRing("rand", b"999999", radius=5, channels=(0,)), latents)
    assert binomtest(int((ours <= 0.01).sum()), 4000, 0.01).pvalue > 1e-3


def test_zeros_has_no_power_and_is_refused_with_the_reason() -> None:
    mark = TreeRing("zeros", radius=5)
    for latents in (marked(mark, 50) + 0.3 * white(50, seed=3), white(50)):
        spectrum = torch.fft.fft2(latents)[:, :, mark.rings(PHANTOM) > 0].flatten(1)
        said = published(spectrum, torch.zeros_like(spectrum[0]))
        assert ((said > 0.4) & (said < 0.6)).all()
    assert mark.refusal is not None
    assert "no key" in mark.refusal
    with pytest.raises(AuditError, match="'tree-ring' is refused: the pattern 'zeros'"):
        mark.statistic(white(1))
    assert TreeRing("ring").refusal is TreeRing("rand").refusal is None


def published(found: torch.Tensor, key: torch.Tensor) -> np.ndarray:
    """Wen et al. 2023, section 3.4: every coefficient's two halves, one variance."""
    values = torch.view_as_real(found).flatten(1).double().numpy()
    target = torch.view_as_real(key).flatten().double().numpy()
    sigma = values.std(axis=1, ddof=1, keepdims=True)
    distance = (((values - target) / sigma) ** 2).sum(1)
    offset = ((target / sigma) ** 2).sum(1)
    law = ncx2(len(target), offset) if target.any() else chi2(len(target))
    return np.asarray(law.cdf(distance))


@pytest.mark.parametrize("pattern", ["rand", "ring", "zeros"])
@pytest.mark.parametrize("shape", [PHANTOM, STABLE_DIFFUSION, (4, 96, 64)])
def test_the_mark_replaces_the_disc_and_nothing_else(
    pattern: Any, shape: tuple[int, int, int]
) -> None:
    mark = TreeRing(pattern, channels=(1, 3))
    noise = white(1, shape)[0]
    found = mark.initial_noise(shape, torch.Generator().manual_seed(0))
    disc = mark.rings(shape) > 0
    changed = (torch.fft.fft2(found) - torch.fft.fft2(noise)).abs() > 1e-2
    assert found.dtype == torch.float32
    assert not changed[:, ~disc].any() and not changed[[0, 2]].any()
    assert changed[[1, 3]][:, disc].float().mean() > 0.99
    if pattern == "rand":  # the ring's key is coherent, so its size varies more
        assert found.std() == pytest.approx(1, abs=0.05)


def test_the_disc_has_the_published_radius_and_leaves_the_mean_alone() -> None:
    rings = TreeRing().rings(STABLE_DIFFUSION)
    assert rings.max() == 10 and rings[0, 0] == 0
    # Gauss's circle problem: 317 points of a grid within 10 of one of them.
    assert int((rings > 0).sum()) == 316
    assert TreeRing().rings(PHANTOM).max() == 5


@pytest.mark.parametrize("pattern", ["rand", "ring"])
@pytest.mark.parametrize("shape", [PHANTOM, STABLE_DIFFUSION])
def test_a_planted_pattern_is_found_under_noise_by_its_key_alone(
    pattern: Any, shape: tuple[int, int, int]
) -> None:
    mark = TreeRing(pattern, b"mine", radius=10)
    # A share of .36 is what the phantom's own images keep of their noise.
    noisy = 0.36 * marked(mark, 40, shape) + (1 - 0.36**2) ** 0.5 * white(40, shape, seed=7)
    assert (p(mark, noisy) <= 1e-3).mean() >= 0.95
    assert (p(TreeRing(pattern, b"another"), noisy) <= 1e-3).mean() <= 0.05
    assert (p(mark, marked(mark, 2, shape)) < 1e-12).all()


def test_rings_withstand_mirroring_and_quarter_turns_and_rand_does_not() -> None:
    for change in (lambda z: z.flip(-1), lambda z: z.flip(-2), lambda z: torch.rot90(z, 1, (2, 3))):
        for pattern, kept in (("ring", True), ("rand", False)):
            mark = TreeRing(pattern)
            latents = marked(mark, 4) + white(4, seed=5)
            before, after = mark.statistic(latents), mark.statistic(change(latents))
            assert np.allclose(after, before, rtol=1e-4) == kept
            assert (after > 3).all() == kept


def test_a_key_is_no_image_seeds_noise() -> None:
    """A key drawn as images are would be found in every image of its seed."""
    for number in range(20):
        latents = white(1, seed=number)
        for secret in (b"%d" % number, bytes([number]), number.to_bytes(8, "little")):
            assert p(TreeRing("rand", secret), latents)[0] > 1e-4


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda: TreeRing("stars"), "no pattern 'stars'; there are rand, ring, zeros"),
        (lambda: TreeRing(channels=(4,)).rings(STABLE_DIFFUSION), "which has 4"),
        (lambda: TreeRing(radius=1, channels=(0,)).rings(PHANTOM), "has 1 numbers .* needs 8"),
        (lambda: TreeRing().statistic(torch.zeros(1, *PHANTOM)), "not inverted from an image"),
        (lambda: GaussianShading(secret=b"short"), "a key of 32 bytes and a nonce of 12, not 5"),
        (lambda: GaussianShading(message=(0, 2)), "a sequence of 0 and 1"),
        (lambda: GaussianShading(copies=(3, 8, 8)).capacity(PHANTOM), "3×8×8 parts, and 8×16×16"),
        (lambda: GaussianShading(message=(1, 0)).bits(PHANTOM), "2 bits, .* 8×16×16 holds 32"),
        (lambda: GaussianShading().trace(white(1), np.zeros((5, 31), bool)), r"give \(users, 32\)"),
    ],
)
def test_what_cannot_be_is_one_line(use: Any, said: str) -> None:
    with pytest.raises(AuditError, match=said) as error:
        use()
    assert "\n" not in str(error.value)


# ---- Gaussian Shading ----------------------------------------------------------------------


def test_the_key_stream_is_chacha20() -> None:
    """RFC 8439, appendix A.1, test vector 1: key, nonce and counter of zeros."""
    stream = np.packbits(_stream(bytes(32), bytes(12), 128)).tobytes()
    assert stream.hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_the_noise_is_normal_and_the_message_is_read_back_at_the_true_sizes() -> None:
    mark = GaussianShading()
    assert (mark.capacity(STABLE_DIFFUSION), mark.capacity(PHANTOM)) == (256, 32)
    for shape in (STABLE_DIFFUSION, PHANTOM):
        noise = marked(mark, 4, shape)
        assert kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
        assert (mark.matches(noise) == mark.capacity(shape)).all()
        torch.testing.assert_close(noise[0].abs(), white(1, shape)[0].abs())
    assert p(mark, marked(mark, 1))[0] == pytest.approx(2.0**-32)
    other = GaussianShading(secret=bytes(32))
    assert abs(other.matches(marked(mark, 1, STABLE_DIFFUSION))[0] - 128) < 40


def test_the_published_vote_is_no_fair_coin_and_ours_is() -> None:
    """64 copies tie with probability .1, and a published tie reads 0."""
    signs = white(4000, (64, 1, 1)).flatten(1) > 0
    published_ones = int((signs.sum(1) > 32).sum())
    assert binomtest(published_ones, 4000, 0.5).pvalue < 1e-6
    assert published_ones / 4000 == pytest.approx((1 - comb(64, 32) / 2**64) / 2, abs=0.03)
    bits = np.concatenate(
        [GaussianShading(secret=bytes([i]) * 32).decode(coloured(4)) for i in range(60)]
    )
    # Bits of one key agree between pictures that are alike: a key is one draw.
    assert bits.reshape(60, -1).mean(1).mean() == pytest.approx(0.5, abs=4 * 0.5 / (60 * 32) ** 0.5)


def test_the_tail_is_exact_where_the_published_one_is_off_by_one() -> None:
    mark, n = GaussianShading(), 32
    signs = torch.sign(marked(mark, 1))[0].reshape(8, 8, 2, 8, 2)
    wrong = signs.clone()
    for bit in range(9):  # turn nine of the message's bits over
        channel, rest = divmod(bit, 4)
        wrong[channel, :, rest // 2, :, rest % 2] *= -1
    latents = wrong.reshape(1, *PHANTOM)
    assert mark.matches(latents).tolist() == [23]
    exact = Fraction(sum(comb(n, k) for k in range(23, n + 1)), 2**n)
    assert p(mark, latents)[0] == pytest.approx(float(exact))
    # The published rule takes 22 matches for a rate of 1%, because it looks at P(M > 22).
    first = next(i for i in range(n) if betainc(i + 1, n - i, 0.5) <= 0.0101)
    assert first == 22
    assert Fraction(sum(comb(n, k) for k in range(22, n + 1)), 2**n) > Fraction(2, 100)


def test_p_values_of_random_keys_are_exact_on_pictures_that_are_not_white() -> None:
    latent = coloured(1)
    found = [GaussianShading(secret=bytes([i % 256, i // 256]) * 16) for i in range(1500)]
    said = np.array([p(mark, latent)[0] for mark in found])
    for matches in (19, 21, 23):
        tail = sum(comb(32, k) for k in range(matches, 33)) / 2**32
        assert binomtest(int((said <= tail * 1.001).sum()), 1500, tail).pvalue > 1e-3


def test_the_planted_user_is_traced_and_no_user_is_accused_too_often() -> None:
    rng = np.random.default_rng(0)
    messages = rng.random((1000, 32)) < 0.5
    owner = GaussianShading(message=tuple(messages[137].astype(int)))
    noisy = 0.36 * marked(owner, 30) + (1 - 0.36**2) ** 0.5 * white(30, seed=9)
    traced = owner.trace(noisy, messages)
    assert (traced.user == 137).mean() >= 0.95
    assert (traced.p <= 0.01).mean() >= 0.95
    # One match of 1,000 by chance is common: uncorrected, nearly every image accuses somebody.
    clean = owner.trace(white(3000), messages)
    alone = np.array([sum(comb(32, k) for k in range(m, 33)) / 2**32 for m in clean.matches])
    assert (alone <= 0.011).mean() > 0.99
    for matches in (26, 27, 28):
        promised = 1 - (1 - sum(comb(32, k) for k in range(matches, 33)) / 2**32) ** 1000
        accused = int((clean.p <= promised * 1.001).sum())
        assert accused == int((clean.matches >= matches).sum())
        assert binomtest(accused, 3000, promised).pvalue > 1e-3


def test_keys_are_told_apart_by_their_hash_and_do_not_hold_the_secret() -> None:
    marks: list[Any] = [TreeRing(), TreeRing("rand"), TreeRing(radius=9), TreeRing(secret=b"x")]
    marks += [GaussianShading(), GaussianShading(nonce=bytes(11) + b"1")]
    marks += [GaussianShading(message=(0, 1)), GaussianShading(copies=(2, 8, 8))]
    assert len({mark.key for mark in marks}) == len(marks)
    assert all(len(mark.key) == 64 for mark in marks)


def test_the_installed_marks_are_found_by_their_names() -> None:
    assert plugins.names("latent_watermarks") == ["gaussian-shading", "tree-ring"]
    for name in plugins.names("latent_watermarks"):
        mark = noise_mark(Request("", watermark=name), {})
        assert mark is not None
        assert mark.name == name
        mine = TreeRing(secret=b"mine")
        assert noise_mark(Request("", watermark=name), {name: mine}) is mine
    for name in ("", "sd-v1", "unknown"):
        assert noise_mark(Request("", watermark=name), {}) is None


def test_a_backend_that_does_not_reach_the_noise_does_not_hand_out_unmarked_images() -> None:
    image, request = Image.new("RGB", (8, 8)), Request("", watermark="tree-ring")
    with pytest.raises(AuditError, match="'tree-ring' is set in the initial noise: only"):
        deliver(image, request)
    assert deliver(image, request, marked=True) is image


def test_statistics_and_p_values_are_each_others_inverse() -> None:
    values = np.array([1.0, 0.3, 1e-200])
    np.testing.assert_allclose(p_of(surprise(values)), values)
    assert np.isfinite(surprise([0.0])).all()
