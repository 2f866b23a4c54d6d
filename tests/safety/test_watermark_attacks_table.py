"""The table of robustness: what a mark loses is what was taken, by the null that holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom

from audit.errors import AuditError
from safety.watermarks.attacks import ATTACKS, Attack
from safety.watermarks.calibration import Calibration, Null, calibrate
from safety.watermarks.codecs import InvisibleWatermark
from safety.watermarks.null_report import null_report
from safety.watermarks.robustness import robustness
from safety.watermarks.subjects import Rule, Scores, clustered_interval, subject_of
from tests.safety.clean import crops

SVD = InvisibleWatermark("dwtDctSvd", b"audit!", "dwtDctSvd")


@dataclass
class FirstPixels:
    """A mark whose bits are the parities of the first pixels: every loss is known beforehand."""

    name: str = "parity"
    domains: tuple[str, ...] = ("uint8",)
    smallest: int = 64

    def __post_init__(self) -> None:
        self.bits = np.arange(32) % 3 == 0

    def embed(self, image: Image.Image) -> Image.Image:
        pixels = np.array(image.convert("RGB"))
        first = pixels[0, :32, 0]
        pixels[0, :32, 0] = first - first % 2 + self.bits
        return Image.fromarray(pixels)

    def decode(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.array([np.asarray(i.convert("RGB"))[0, :32, 0] % 2 == 1 for i in images])[:, None]


def _flip_bits(image: Image.Image, strength: float, seed: int) -> Image.Image:
    pixels = np.array(image)
    pixels[0, : int(strength), 0] ^= 1
    return Image.fromarray(pixels)


FLIP = Attack("flip-bits", (2.0, 8.0, 16.0), _flip_bits, "bits")
CUT = Attack("shrink", (1.0,), lambda i, s, seed: i.crop((0, 0, 7, 9)), "to 7×9")


@pytest.fixture(scope="module")
def noise() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (16, 40, 3), np.uint8)) for _ in range(300)]


def test_what_an_attack_takes_is_what_is_missing(noise: list[Image.Image]) -> None:
    table = robustness([subject_of(FirstPixels(), noise[:20])], [FLIP, CUT]).set_index(
        ["attack", "strength", "fpr"]
    )
    assert len(table) == (1 + 3 + 1) * 2
    marked = table.loc["flip-bits"]
    for lost in (2, 8, 16):
        row = marked.loc[lost, 1e-3]
        assert row.bit_accuracy == 1 - lost / 32
        # Both polarities of one domain are tried.
        assert row.tpr == (2 * binom.sf(32 - lost - 1, 32, 0.5) <= 1e-3)
        assert row.bit_low < row.bit_accuracy < row.bit_high
        assert (row["null"], row.note, row.unit) == ("nominal", "no calibration", "bits")
    none = table.loc["none"].xs(1e-6, level="fpr").iloc[0]
    assert (none.bit_accuracy, none.tpr, none.n, none.unreadable) == (1, 1, 20, 0)
    assert none.tpr_low == pytest.approx(0.025 ** (1 / 20))
    # All bits of all images agree: twenty observations, not 640.
    assert none.bit_low == none.tpr_low
    gone = table.loc["shrink", 1.0, 1e-3]
    assert (gone.n, gone.unreadable, gone.tpr, gone.clean_n) == (20, 20, 0, 0)
    assert np.isnan(gone.bit_accuracy) and np.isnan(gone.psnr)


def test_clean_images_that_an_attack_makes_look_marked_are_counted(
    noise: list[Image.Image],
) -> None:
    codec = FirstPixels()
    stamp = Attack("stamp", (1.0,), lambda image, s, seed: codec.embed(image))
    table = robustness([subject_of(codec, noise[:10])], [stamp], rates=[1e-6])
    assert table["false"].tolist() == [0, 10]
    assert table.false_rate_low.iloc[1] > 0.5


def test_a_rate_is_decided_by_the_measured_null_where_enough_images_support_it(
    noise: list[Image.Image],
) -> None:
    codec = FirstPixels()
    calibration = calibrate(codec, noise[20:], "noise", keys=10)
    subject = subject_of(codec, noise[:20])
    table = robustness(
        [subject], [FLIP], {"parity": calibration}, rates=[0.01, 1e-6], strengths={"flip-bits": [8]}
    )
    by_rate = table[table.attack == "flip-bits"].set_index("fpr")
    assert by_rate.loc[0.01, "null"] == "calibrated"
    assert by_rate.loc[0.01, "tpr"] == (calibration.null.threshold(0.01) < 24)
    assert by_rate.loc[1e-6, "null"] == "nominal"
    assert by_rate.loc[1e-6, "note"] == "280 clean images support no rate below 0.0036"


def test_a_refused_calibration_or_nominal_p_value_is_said_and_anothers_is_an_error(
    noise: list[Image.Image],
) -> None:
    codec = FirstPixels()
    dark = [Image.new("RGB", (40, 16), (value, 0, 0)) for value in (90, 92, 94)] * 20
    subject = subject_of(codec, noise[:5])
    codec.bits = np.zeros(32, bool)
    useless = calibrate(codec, dark, "dark", keys=5)
    own = Calibration("parity", subject.key, "dark", useless.null, useless.report)
    rule = Rule.of(subject.mark, subject.key, 1e-3, own)
    assert rule.kind == "nominal"
    assert "calibration is refused: 100%" in rule.note
    assert "the nominal p-value does not hold: it promises 1e-06 and fires on 60 of 60" in rule.note
    with pytest.raises(AuditError, match="another message or key"):
        robustness([subject], [FLIP], {"parity": useless})


def test_what_is_found_at_a_rate_is_found_at_every_larger_one() -> None:
    """The nominal p-value of a reading that clean images reach promises what they have refuted."""
    null = Null.measure([*np.arange(20.0, 26), *[16.0] * 93])
    report = null_report(null.values, np.ones(99))
    made = Calibration("m", "k", "planted", null, report)
    scores = Scores(np.array([25.0, 25.5, 26.0]), np.array([1e-9, 1e-9, 0.5]))
    found = {a: Rule.of("m", "k", a, made)(scores).tolist() for a in (1e-6, 0.01, 0.02)}
    assert found[1e-6] == [False, True, False]
    assert found[0.01] == [False, True, True]
    assert found[0.02] == [True, True, True]
    assert Rule.of("m", "k", 1e-6, None)(scores).tolist() == [True, True, False]
    assert Rule.of("m", "k", 1e-6, made).p(scores).tolist() == [0.02, 1e-9, 0.5]


def test_the_published_signs_hold_on_photographs() -> None:
    """Facts: dwtDctSvd reads 1.0 unattacked, about .8 at JPEG 50, and about .5 once cropped."""
    images = crops(2000)[:10]
    subject = subject_of(SVD, images)
    asked = {"jpeg": [90, 50], "crop": [0.9], "resize": [0.5]}
    chosen = [ATTACKS[name] for name in asked]
    table = robustness([subject], chosen, rates=[1e-3], strengths=asked)
    found = {(row.attack, row.strength): row for row in table.itertuples()}
    accuracy = {at: row.bit_accuracy for at, row in found.items() if at[0] != "none"}
    assert table.bit_accuracy.iloc[0] > 0.99
    assert accuracy["jpeg", 90] > 0.9
    assert 0.6 < accuracy["jpeg", 50] < 0.9
    assert accuracy["crop", 0.9] < 0.7
    assert accuracy["resize", 0.5] > 0.95
    assert table.psnr.iloc[0] > 35 and table.ssim.iloc[0] > 0.95
    assert table["false"].sum() == 0


def test_the_table_is_the_same_every_time(noise: list[Image.Image]) -> None:
    subject, asked = subject_of(FirstPixels(), noise[:5]), {"noise": [2.0], "overlay": [0.1]}
    first, again = (
        robustness([subject], [ATTACKS[n] for n in asked], strengths=asked, seed=4) for _ in "12"
    )
    assert first.equals(again)
    other = robustness([subject], [ATTACKS["noise"]], strengths=asked, seed=5)
    assert other.bit_accuracy.iloc[-1] != first.bit_accuracy.iloc[2]


def test_a_mark_set_in_another_domain_is_judged_in_that_domain() -> None:
    float_mark = InvisibleWatermark("float", b"audit!", "dwtDct", embeds="float32")
    table = robustness([subject_of(float_mark, crops(2000)[:6])], [], rates=[1e-3])
    assert table.domain.tolist() == [1]
    assert table.bit_accuracy.iloc[0] > 0.7


def test_intervals_cover_where_images_of_a_prompt_resemble_each_other() -> None:
    rng, held, naive = np.random.default_rng(1), 0, 0
    clusters = np.repeat(np.arange(12), 8)
    for _ in range(400):
        rate = rng.beta(1.4, 0.6, 12)
        events = rng.random(96) < rate[clusters]
        low, high = clustered_interval(events, clusters)
        held += low <= 0.7 <= high
        low, high = clustered_interval(events, np.arange(96))
        naive += low <= 0.7 <= high
    assert held / 400 > 0.92
    assert naive / 400 < 0.85


def test_pairs_are_asked_for(noise: list[Image.Image]) -> None:
    with pytest.raises(AuditError, match="2 marked and 3 clean images in 3 clusters"):
        subject_of(FirstPixels(), noise[:3], marked=noise[:2])
    with pytest.raises(AuditError, match="0 marked and 0 clean"):
        subject_of(FirstPixels(), [])
    silent = FirstPixels("silent")
    silent.bits = np.zeros(0, bool)
    with pytest.raises(AuditError, match="no message to compare with"):
        subject_of(silent, noise[:3])
