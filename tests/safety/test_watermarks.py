"""Planted marks are found with their exact p-values; clean images carry none."""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from imwatermark import WatermarkDecoder, WatermarkEncoder
from PIL import Image
from sklearn.datasets import load_sample_image

from audit import plugins
from audit.detectors.base import Batch, Item
from audit.errors import AuditError
from safety.watermarks import dwtdct
from safety.watermarks.attacks import jpeg
from safety.watermarks.codecs import (
    InvisibleWatermark,
    stable_diffusion_v1,
    stable_diffusion_v2,
)
from safety.watermarks.detection import WatermarkDetector, inversion, p_value
from tests.safety.synthetic import study

FACTORIES = {"sd-v1": stable_diffusion_v1, "sd-v2": stable_diffusion_v2}
ALPHA = 2.5e-7


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Six 512² views of two photographs."""
    china, flower = (load_sample_image(f"{name}.jpg") for name in ("china", "flower"))
    cuts = [image[:400, left : left + 400] for image in (china, flower) for left in (0, 120, 240)]
    return [Image.fromarray(cut).resize((512, 512)) for cut in cuts]


def _bgr(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


@pytest.mark.parametrize("size", [(512, 512), (256, 256), (259, 300), (640, 427)])
@pytest.mark.parametrize("message", [b"StableDiffusionV1", b"SDV2", b"\x00\xff\x5a"])
def test_pixels_and_bits_equal_those_of_invisible_watermark(
    photographs: list[Image.Image], size: tuple[int, int], message: bytes
) -> None:
    bits = np.unpackbits(np.frombuffer(message, np.uint8)).astype(bool)
    for image in photographs[::3]:
        bgr = _bgr(image.resize(size))
        encoder = WatermarkEncoder()
        encoder.set_watermark("bytes", message)
        theirs = encoder.encode(bgr.copy(), "dwtDct")
        np.testing.assert_array_equal(dwtdct.embed(bgr, bits), theirs)
        for pixels in (bgr, theirs, _bgr(jpeg(Image.fromarray(theirs), 90))):
            read = WatermarkDecoder("bits", len(bits)).decode(pixels, "dwtDct")
            np.testing.assert_array_equal(dwtdct.read(pixels, len(bits)), read)


def test_a_plain_image_is_read_like_invisible_watermark_reads_it() -> None:
    plain = np.full((256, 256, 3), (30, 140, 200), np.uint8)
    read = WatermarkDecoder("bits", 32).decode(plain, "dwtDct")
    np.testing.assert_array_equal(dwtdct.read(plain, 32), read)


@pytest.mark.parametrize("name", FACTORIES)
def test_the_factories_are_the_installed_codecs_with_the_published_messages(name: str) -> None:
    codec = plugins.load("watermarks", name)()
    assert codec.name == name
    text, length = {"sd-v1": (b"StableDiffusionV1", 136), "sd-v2": (b"SDV2", 32)}[name]
    assert len(codec.bits) == length
    assert np.packbits(codec.bits).tobytes() == text


@pytest.mark.parametrize("name", FACTORIES)
def test_a_planted_mark_is_found_and_a_clean_image_has_none(
    photographs: list[Image.Image], name: str
) -> None:
    codec = FACTORIES[name]()
    marked = [
        p_value((codec.decode(codec.embed(i)) == codec.bits).sum(), len(codec.bits))
        for i in photographs
    ]
    clean = [p_value((codec.decode(i) == codec.bits).sum(), len(codec.bits)) for i in photographs]
    assert sum(p <= ALPHA for p in marked) >= 5
    assert min(clean) > 1e-3


@pytest.mark.parametrize("name", FACTORIES)
def test_jpeg_at_quality_90_destroys_the_stable_diffusion_marks(
    photographs: list[Image.Image], name: str
) -> None:
    codec = FACTORIES[name]()
    found = [
        p_value((codec.decode(jpeg(codec.embed(i), 90)) == codec.bits).sum(), len(codec.bits))
        for i in photographs
    ]
    assert sum(p <= ALPHA for p in found) <= 1


def test_plain_areas_of_some_colours_keep_no_bit_of_these_marks() -> None:
    """A defect of the codec itself (its pixels are equal), which an audit must be able to show."""
    codec = stable_diffusion_v1()
    kept = {
        colour: (
            codec.decode(codec.embed(Image.new("RGB", (256, 256), colour))) == codec.bits
        ).mean()
        for colour in ("#b4b6ba", "#f6be70")
    }
    assert kept == {"#b4b6ba": 1.0, "#f6be70": 0.5}


def test_the_sturdier_method_survives_jpeg(photographs: list[Image.Image]) -> None:
    codec = InvisibleWatermark("sturdy", b"audit!", "dwtDctSvd")
    attacked = jpeg(codec.embed(photographs[0]), 90)
    assert (codec.decode(attacked) == codec.bits).mean() > 0.9


def test_the_mark_is_not_seen(photographs: list[Image.Image]) -> None:
    for image in photographs:
        before = np.asarray(image, float)
        after = np.asarray(stable_diffusion_v1().embed(image), float)
        assert 10 * np.log10(255**2 / ((before - after) ** 2).mean()) > 30


def test_p_values_are_the_exact_binomial_tail() -> None:
    for n in (32, 48, 136):
        for k in (0, n // 2, n - 2, n):
            tail = Fraction(sum(comb(n, i) for i in range(k, n + 1)), 2**n)
            assert float(p_value(k, n)) == pytest.approx(float(tail), rel=1e-10)
            assert float(inversion(n - k, n)) == pytest.approx(float(tail), rel=1e-10)
    # The bits that p ≤ 1e-6 takes, as published: 30 of 32, 41 of 48, 96 of 136.
    for n, least in ((32, 30), (48, 41), (136, 96)):
        assert p_value(least, n) <= 1e-6 < p_value(least - 1, n)


def test_an_inverted_mark_is_no_match_but_a_certain_inversion(
    photographs: list[Image.Image],
) -> None:
    codec = stable_diffusion_v2()
    other = InvisibleWatermark("inverted", bytes(255 - byte for byte in b"SDV2"))
    matches = int((codec.decode(other.embed(photographs[0])) == codec.bits).sum())
    assert inversion(matches, 32) <= ALPHA
    assert p_value(matches, 32) > 0.999


@pytest.mark.parametrize(("matches", "bits"), [(33, 32), (-1, 32), (0, 0)])
def test_impossible_matches_are_refused(matches: int, bits: int) -> None:
    with pytest.raises(ValueError, match="must"):
        p_value(matches, bits)
    with pytest.raises(ValueError, match="must"):
        inversion(matches, bits)


def test_small_images_are_one_clear_line() -> None:
    small = Image.new("RGB", (255, 256))
    codec = stable_diffusion_v1()
    for call in (codec.embed, codec.decode):
        with pytest.raises(AuditError, match="255×256 pixels is too small") as caught:
            call(small)
        assert "\n" not in str(caught.value)


def test_wrong_codecs_and_attacks_are_refused() -> None:
    with pytest.raises(AuditError, match="method"):
        InvisibleWatermark("x", b"m", "rot13")
    with pytest.raises(AuditError, match="message"):
        InvisibleWatermark("x", b"")
    for quality in (0, 96):
        with pytest.raises(AuditError, match="quality"):
            jpeg(Image.new("RGB", (8, 8)), quality)


def test_the_detector_stores_matches_of_every_codec_and_none_for_small_images(
    photographs: list[Image.Image],
) -> None:
    images = [
        stable_diffusion_v2().embed(photographs[0]),
        photographs[0],
        Image.new("RGB", (64, 64)),
    ]
    detector = WatermarkDetector(study())
    items = [Item(str(i), "", image, "", "") for i, image in enumerate(images)]
    columns = detector.detect(Batch(items))
    assert set(columns) >= {
        f"{codec}_{what}"
        for codec in ("sd_v1", "sd_v2")
        for what in ("bits", "matches", "jpeg90_matches")
    }
    assert columns["sd_v1_bits"] == [136] * 3
    assert columns["sd_v2_matches"][0] >= 30
    assert columns["sd_v2_matches"][1] < 30
    assert columns["sd_v2_jpeg90_matches"][0] < 30
    assert [column[2] for name, column in columns.items() if "matches" in name] == [None] * 4
    described = dict(detector.describe())
    assert json.loads(json.dumps(described)) == described
    assert "SDV2" not in json.dumps(described)
