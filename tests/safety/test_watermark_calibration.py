"""Calibrated p-values keep their promise on clean images; nominal ones that do not are refused."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom, binomtest, ks_2samp, kstest

from audit.errors import AuditError
from audit.statistics import clopper_pearson
from safety.watermarks.calibration import (
    Calibration,
    Null,
    calibrate,
    calibrate_statistic,
    key_of,
)
from safety.watermarks.codecs import Codec, InvisibleWatermark, match, matched
from safety.watermarks.detection import detect
from safety.watermarks.keys import KeyNulls, folded
from safety.watermarks.null_report import (
    LEVEL,
    NOMINAL,
    NullReport,
    bit_report,
    grouped_interval,
    nominal_table,
    null_report,
)
from safety.watermarks.presets import (
    stable_diffusion_v1,
    stable_diffusion_v2,
    stable_diffusion_xl,
)
from tests.safety import latent_null, networks, rivagan_null
from tests.safety.clean import crops, portraits

IMAGES = 2000
CODECS: dict[str, Codec] = {
    "sd-v1": stable_diffusion_v1(),
    "sd-v2": stable_diffusion_v2(),
    "sdxl": stable_diffusion_xl(),
    "dwtDctSvd": InvisibleWatermark("dwtDctSvd", b"audit!", "dwtDctSvd"),
    "rivaGan": rivagan_null.CODEC,
}
POPULATIONS = [
    *((name, "crops") for name in CODECS),
    *((name, "portraits") for name in CODECS if name != "rivaGan"),
    *((name, "portraits") for name in latent_null.MARKS),
    ("trustmark", "crops"),
]
"""Natural crops and portraits of the phantom's corpus, 2,000 of each."""


@cache
def clean_bits(name: str, population: str = "crops") -> np.ndarray:
    """Read from clean images, shape (IMAGES, domains, n)."""
    if name == "rivaGan":
        return rivagan_null.kept()
    if name in networks.BITS:
        return networks.kept()[name]
    return CODECS[name].decode(crops(IMAGES) if population == "crops" else portraits(IMAGES))


@cache
def clean_statistic(name: str, population: str) -> np.ndarray:
    """Shape (IMAGES,): agreeing bits, or what a mark without them says."""
    if name in latent_null.MARKS:
        return latent_null.kept()[name]
    if name == "trustmark":
        return matched(networks.network(name), networks.kept()[name]).matches
    return match(clean_bits(name, population), CODECS[name].bits).matches


def test_the_statistics_that_are_kept_of_marks_in_the_noise_are_what_the_phantom_reads() -> None:
    backend, kept = latent_null.opened(), latent_null.kept()
    if str(kept["model"]) != latent_null.model(backend):
        pytest.skip("the phantom was trained anew: python -m tests.safety.latent_null")
    read = latent_null.read(backend, latent_null.portraits()[:2])
    for name, found in read.items():
        np.testing.assert_allclose(found, kept[name][:2], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["rivaGan", *networks.BITS])
def test_the_bits_that_are_kept_of_slow_codecs_are_what_they_read(name: str) -> None:
    codec = rivagan_null.CODEC if name == "rivaGan" else networks.network(name)
    kept = rivagan_null.kept() if name == "rivaGan" else networks.kept()[name]
    read = codec.decode([crops(IMAGES)[at] for at in (0, 7)])
    # An output on the threshold may fall to the other side on another processor.
    assert (read != kept[[0, 7]]).sum() <= 1


def _halves(statistic: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(statistic))
    return statistic[order[::2]], statistic[order[1::2]]


@pytest.mark.parametrize(("name", "population"), POPULATIONS)
def test_calibrated_p_values_of_clean_images_that_were_held_out_are_uniform(
    name: str, population: str
) -> None:
    statistic = clean_statistic(name, population)
    assert len(statistic) >= IMAGES
    for seed in range(3):
        measured, held_out = _halves(statistic, seed)
        null, rng = Null.measure(measured), np.random.default_rng(seed)
        p = null.randomised_p(held_out, rng)
        # The null itself is a sample: p-values share its error, which a test of one sample
        # against the uniform law does not know.
        assert ks_2samp(p, null.randomised_p(measured, rng)).pvalue > 0.001
        assert kstest(p, "uniform").statistic < 2 * 1.95 / np.sqrt(len(p))
        for alpha in (0.1, 0.05, 0.01):
            low, high = clopper_pearson(int((p <= alpha).sum()), len(p), 0.9999)
            assert low <= alpha <= high
            # Ties make the p-value that decides err on the safe side alone.
            decided = int((null.p(held_out) <= alpha).sum())
            assert clopper_pearson(decided, len(p), 0.9999)[0] <= alpha


@pytest.mark.parametrize("name", CODECS)
def test_the_report_of_a_codec_on_clean_crops_upholds_its_calibration(name: str) -> None:
    report = bit_report(clean_bits(name), CODECS[name].bits)
    images = len(clean_bits(name))
    assert images >= IMAGES
    assert report.images == images and report.refusal is None
    assert report.uniformity > LEVEL
    for one in report.held_out:
        assert one.n == images - images // 2
        assert one.ci[0] <= one.rate <= one.ci[1]
        assert clopper_pearson(one.events, one.n, 0.9999)[0] <= one.alpha
    assert report.smallest_p == 1 / (images + 1)
    assert report.smallest_shown == pytest.approx(1 - 0.025 ** (1 / images))


def test_fixed_keys_fire_tens_of_times_as_often_as_the_binomial_promises() -> None:
    """Facts: random keys average what is promised, the worst key 190 times as much."""
    report = bit_report(clean_bits("sdxl"), CODECS["sdxl"].bits)
    at = {rates.alpha: rates for rates in report.keys}[1e-3]
    assert at.keys == 1000
    assert at.mean < 2e-3
    assert at.worst_ci[0] > 10 * at.alpha
    assert at.zeros > 0.5
    # Plain areas give every bit the same value.
    bits = clean_bits("sdxl")[:, 0].mean(axis=1)
    assert ((bits < 0.05) | (bits > 0.95)).mean() > 0.2


def test_the_worst_keys_nominal_p_value_is_refused_and_its_calibrated_one_holds() -> None:
    decoded = clean_bits("sdxl")
    n, domains = 48, 2
    keys = np.random.default_rng(0).random((1000, n)) < 0.5
    rates = (nominal_table(n, domains)[folded(decoded, keys)] <= 1e-3).mean(axis=0)
    worst = keys[rates.argmax()]
    report = bit_report(decoded, worst, keys=10)
    assert report.nominal_refusal is not None
    assert "fires on" in report.nominal_refusal
    assert report.refusal is None
    realised = {one.alpha: one for one in report.nominal}[1e-3]
    assert realised.ci[0] > 0.01
    held_out = {one.alpha: one for one in report.held_out}[0.01]
    assert held_out.ci[0] <= 0.01


def test_a_key_that_clean_images_match_fully_is_refused() -> None:
    report = bit_report(clean_bits("sdxl"), np.zeros(48, bool), keys=10)
    assert report.refusal is not None
    assert "surest reading" in report.refusal


def test_flat_portraits_are_calibrated_where_their_bits_are_no_coins_at_all() -> None:
    codec = CODECS["sdxl"]
    images = portraits(300)
    found = calibrate(codec, images, "portraits of the phantom's corpus, enlarged")
    equal = codec.decode(images)[:, 0].mean(axis=1)
    assert ((equal < 0.05) | (equal > 0.95)).mean() > 0.5
    assert found.report.keys[0].worst > 0.5
    assert clopper_pearson(found.report.held_out[0].events, 150, 0.9999)[0] <= 0.05
    marked = codec.decode([codec.embed(image) for image in images[:20]])
    p = found.null.p(match(marked, codec.bits).matches)
    assert np.median(p) == found.null.smallest_p


def test_p_is_the_rank_among_clean_images_and_ties_are_shared_as_asked() -> None:
    rng = np.random.default_rng(1)
    clean, new = rng.integers(0, 9, 50), rng.integers(-1, 11, 40)
    null = Null.measure(clean)
    for s, p, mid in zip(new, null.p(new), null.mid_p(new), strict=True):
        above, ties = (clean > s).sum(), (clean == s).sum()
        assert p == pytest.approx((1 + above + ties) / 51)
        assert mid == pytest.approx((above + 0.5 * (1 + ties)) / 51)
    assert null.p(new.reshape(4, 10)).shape == (4, 10)


def test_over_many_calibrations_p_values_of_new_images_are_exactly_as_promised() -> None:
    """One new image for each null: nothing is shared, so the uniform law holds exactly."""
    rng = np.random.default_rng(2)
    law = rng.binomial(48, rng.beta(2, 2, (4000, 40)))
    p, mid, random = np.empty((3, 4000))
    for at, (new, *clean) in enumerate(law):
        null = Null.measure(clean)
        p[at], mid[at] = null.p(new), null.mid_p(new)
        random[at] = null.randomised_p(new, rng)
    assert kstest(random, "uniform").pvalue > 0.001
    assert mid.mean() == pytest.approx(0.5, abs=0.02)
    for alpha in (0.05, 0.1, 0.5):
        assert clopper_pearson(int((p <= alpha).sum()), 4000, 0.999)[0] <= alpha


def test_a_threshold_decides_as_the_p_value_does() -> None:
    values = np.random.default_rng(3).integers(0, 30, 199)
    null, s = Null.measure(values), np.arange(-1, 32)
    for alpha in (0.005, 0.01, 0.05, 0.5):
        np.testing.assert_array_equal(null.p(s) <= alpha, s > null.threshold(alpha))
    assert null.smallest_p == 0.005
    assert null.supports(0.005) and not null.supports(0.0049)
    with pytest.raises(AuditError, match="1e-06 takes 999999"):
        null.threshold(1e-6)


def test_fair_coins_pass_as_often_as_they_should() -> None:
    """The self-tests themselves fire at their nominal rate."""
    rng = np.random.default_rng(4)
    uniformity, refused = [], 0
    table = nominal_table(48, 2)
    for _ in range(300):
        s = folded(rng.random((200, 2, 48)) < 0.5, np.ones((1, 48), bool))[:, 0]
        report = null_report(s, table[s], best=48)
        uniformity.append(report.uniformity)
        refused += report.nominal_refusal is not None
        assert report.refusal is None or report.uniformity < LEVEL
    assert clopper_pearson(int((np.array(uniformity) <= 0.05).sum()), 300, 0.999)[0] <= 0.05
    # The exact test of two samples is a little conservative; it must not be much so.
    assert (np.array(uniformity) <= 0.05).mean() > 0.01
    assert refused <= 3


def test_planted_overdispersion_is_measured() -> None:
    """Beta-binomial bits of intra-class correlation ρ have variance (1 + (n − 1)ρ) n/4."""
    rng, n, rho = np.random.default_rng(5), 48, 0.2
    a = (1 / rho - 1) / 2
    decoded = rng.random((20000, 1, n)) < rng.beta(a, a, (20000, 1, 1))
    report = bit_report(decoded, np.ones(n, bool), keys=5)
    assert report.dispersion[0] == pytest.approx(1 + (n - 1) * rho, rel=0.05)
    assert report.nominal_refusal is not None


def test_a_p_value_that_is_always_a_half_is_refused() -> None:
    """Tree-Ring's pattern of zeros: no level is overrun in the tail, and yet it is no p-value."""
    s = np.random.default_rng(6).normal(size=500)
    report = null_report(s, np.full(500, 0.499))
    assert report.nominal_refusal is not None
    assert "falls below 0.5 for 1 of 500" in report.nominal_refusal
    assert report.refusal is None


def test_a_population_that_changes_on_the_way_is_refused() -> None:
    s = np.random.default_rng(7).normal(np.repeat([0.0, 1.0], 250))
    report = null_report(s, np.full(500, 1.0))
    assert report.refusal is not None
    assert "first and the second half" in report.refusal
    mixed = np.random.default_rng(8).permutation(s)
    assert null_report(mixed, np.full(500, 1.0)).refusal is None


def test_images_of_few_groups_that_differ_are_refused_for_groups_not_seen() -> None:
    rng = np.random.default_rng(9)
    groups = np.tile([f"photograph {at}" for at in range(8)], 100)
    alike = rng.normal(np.tile(rng.normal(size=8) * 3, 100))
    report = null_report(alike, np.full(800, 1.0), groups)
    assert report.groups == 8
    assert report.refusal is not None
    assert "images of more groups" in report.refusal
    # The order in which they come shows nothing.
    assert null_report(alike, np.full(800, 1.0)).refusal is None
    assert null_report(rng.normal(size=800), np.full(800, 1.0), groups).refusal is None


def test_images_of_one_group_are_no_independent_witnesses_against_a_p_value() -> None:
    """A sound p-value, equal for the ten images of each group: refused no more often than said."""
    rng, refused, naive = np.random.default_rng(14), 0, 0
    groups = np.repeat(np.arange(30), 10)
    for _ in range(300):
        p = rng.random(30)[groups]
        report = null_report(rng.random(300), p, groups)
        refused += report.nominal_refusal is not None
        naive += null_report(rng.random(300), p).nominal_refusal is not None
        assert len(set(report.nominal[0].ci)) == 2
    assert refused <= 3 < naive
    # And a p-value that is wrong in most of the groups is still refused.
    wrong = null_report(rng.random(300), (rng.random(30) ** 4)[groups], groups)
    assert wrong.nominal_refusal is not None
    low, high = wrong.nominal[0].ci
    assert low < wrong.nominal[0].rate - 0.1 and high > wrong.nominal[0].rate + 0.1


def test_the_tail_is_held_to_the_exact_binomial_test_where_images_are_independent() -> None:
    for events, n, alpha in ((3, 100, 0.01), (8, 100, 0.01), (9, 100, 0.01), (12, 100, 0.05)):
        level = LEVEL / (len(NOMINAL) + 1)
        low, _ = grouped_interval(np.arange(n) < events, None, 1 - 2 * level)
        exact = binomtest(events, n, alpha, alternative="greater").pvalue
        assert (low > alpha) == (exact < level)


def test_a_statistic_that_never_changes_is_refused() -> None:
    report = null_report(np.ones(50), np.full(50, 0.5))
    assert report.refusal is not None
    assert report.refusal.startswith("100% of the clean images")


def test_the_nulls_of_many_keys_are_those_of_each() -> None:
    decoded, held_out = clean_bits("sd-v2")[:500], clean_bits("sd-v2")[500:600]
    keys = np.random.default_rng(10).random((25, 32)) < 0.5
    p = KeyNulls.measure(decoded, keys).p(held_out)
    assert p.shape == (100, 25)
    for at, key in enumerate(keys):
        one = Null.measure(match(decoded, key).matches)
        np.testing.assert_allclose(p[:, at], one.p(match(held_out, key).matches))


def test_folded_matches_are_those_of_the_codecs_statistic() -> None:
    rng = np.random.default_rng(11)
    decoded, keys = rng.random((30, 2, 48)) < 0.5, rng.random((7, 48)) < 0.5
    found, reference = folded(decoded, keys), match(decoded, keys)
    np.testing.assert_array_equal(found, reference.matches)
    np.testing.assert_allclose(nominal_table(48, 2)[found], reference.p)
    assert nominal_table(48, 2)[48] == 4 * 2.0**-48
    assert nominal_table(48, 1)[41] == pytest.approx(2 * binom.sf(40, 48, 0.5))


def test_images_too_small_for_the_codec_are_counted_apart() -> None:
    small = crops(3, 100)
    images = (image for image in (*small, *crops(IMAGES)[:40]))
    found = calibrate(CODECS["sd-v2"], images, "a stream", groups=["a", "b"] * 21 + ["a"], keys=3)
    assert (found.unreadable, found.report.images, found.report.groups) == (3, 40, 2)
    whole = match(clean_bits("sd-v2")[:40], CODECS["sd-v2"].bits).matches
    np.testing.assert_array_equal(found.null.values, np.sort(whole))


def test_a_calibration_is_of_one_mark_and_one_key() -> None:
    rng = np.random.default_rng(12)
    key = key_of(CODECS["sd-v1"].bits)
    found = calibrate_statistic("ring", key, rng.normal(size=99), rng.random(99), "normal")
    found.check("ring", key)
    with pytest.raises(AuditError, match="of the mark 'ring', not of 'other'"):
        found.check("other", key)
    with pytest.raises(AuditError, match="another message or key"):
        found.check("ring", key_of(CODECS["sd-v2"].bits))
    constant = calibrate_statistic("ring", key, np.ones(99), rng.random(99), "constant")
    with pytest.raises(AuditError, match="is refused: 100%"):
        constant.check("ring", key)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.arange(19), "19 clean images are too few"),
        ([*range(30), np.nan], "no finite number"),
        (np.zeros((5, 5)), "too few"),
    ],
)
def test_what_is_no_sample_of_clean_images_is_refused(values: np.ndarray, said: str) -> None:
    with pytest.raises(AuditError, match=said):
        Null.measure(values)


def test_an_image_without_a_statistic_has_no_p_value() -> None:
    with pytest.raises(ValueError, match="could not be read"):
        Null.measure(range(50)).p([1.0, np.nan])


def test_a_mark_that_checks_itself_is_calibrated_by_how_often_it_says_so() -> None:
    """TrustMark's code accepts 2.5% of random bits; which images those are is the network's."""
    mark, images = networks.network("trustmark"), crops(IMAGES)
    black = [Image.new("RGB", (256, 256))] * 3
    found = calibrate(mark, [*black, *images[:200]], "crops")
    said = clean_statistic("trustmark", "crops")[:200]
    assert (found.unreadable, found.report.images) == (3, 200)
    assert found.null.p([0, 1]).tolist() == [1.0, (1 + said.sum()) / 201]
    assert found.report.keys == () and found.report.refusal is None
    checked = detect(mark, [*images[:200], *black], found)
    assert checked.kind == "calibrated" and np.isnan(checked.p[200:]).all()
    np.testing.assert_array_equal(checked.p[:200] < 1, said == 1)


def test_a_mark_that_takes_every_clean_image_for_its_own_is_refused() -> None:
    class Credulous:
        name, bits, domains, smallest = "own", np.zeros(0, bool), ("uint8",), 1
        chance, note = 1e-3, ""

        def decode(self, images: list[Image.Image]) -> np.ndarray:
            return np.zeros((len(images), 1, 8), bool)

        def present(self, decoded: np.ndarray) -> np.ndarray:
            return np.arange(len(decoded)) % 10 == 0

    report = calibrate(Credulous(), crops(IMAGES)[:100], "crops").report  # type: ignore[arg-type]
    assert report.refusal is not None and report.refusal.startswith("10% of the clean images")
    assert report.nominal_refusal is not None


def test_a_codec_without_message_or_check_cannot_be_calibrated() -> None:
    class Silent:
        name, bits, domains, smallest = "silent", np.zeros(0, bool), ("uint8",), 1

    with pytest.raises(AuditError, match="no message"):
        calibrate(Silent(), crops(IMAGES)[:30], "none")  # type: ignore[arg-type]


def test_reports_look_at_the_rates_that_are_named() -> None:
    rng = np.random.default_rng(13)
    report = null_report(rng.normal(size=60), rng.random(60))
    assert isinstance(report, NullReport)
    assert [one.alpha for one in report.nominal] == list(NOMINAL)
    assert isinstance(calibrate_statistic("m", "k", range(60), rng.random(60), "p"), Calibration)
