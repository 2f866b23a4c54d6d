"""Codecs on blocks: the same pixels and bits as their originals', block by block and in batches."""

from __future__ import annotations

import warnings
from fractions import Fraction
from math import comb

import cv2
import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion_xl.watermark import StableDiffusionXLWatermarker
from imwatermark import WatermarkDecoder, WatermarkEncoder
from PIL import Image

from audit import plugins
from audit.errors import AuditError
from safety.perturbations import jpeg
from safety.watermarks import dwtdctsvd
from safety.watermarks.codecs import METHODS, InvisibleWatermark, agreement, match
from safety.watermarks.presets import (
    SDXL_MESSAGE,
    codec,
    stable_diffusion_v1,
    stable_diffusion_v2,
    stable_diffusion_xl,
)
from tests.safety.clean import photographs

PRESETS = {
    "sd-v1": (stable_diffusion_v1, b"StableDiffusionV1"),
    "sd-v2": (stable_diffusion_v2, b"SDV2"),
    "sdxl": (stable_diffusion_xl, SDXL_MESSAGE),
}
MESSAGE = b"audit!"


@pytest.fixture(scope="module")
def views() -> list[Image.Image]:
    """Six photographs of 512²; not those of telescopes and microscopes."""
    chosen = [photographs()[i] for i in (0, 1, 2, 7, 8, 9)]
    return [photo.resize((512, 512)) for photo in chosen]


def _bgr(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


def _images(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Photographs, noise and plain colours in random sizes, blue first."""
    made = []
    for number in range(count):
        width, height = (int(side) for side in rng.integers(256, 330, 2))
        if number % 4 == 2:
            made.append(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
        elif number % 4 == 3:
            made.append(np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8))
        else:
            made.append(_bgr(photographs()[number % 10].resize((width, height))))
    return made


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_pixels_and_bits_equal_those_of_invisible_watermark(method: str, dtype: type) -> None:
    rng = np.random.default_rng(len(method))
    for image in _images(rng, 4):
        n = int(rng.integers(8, 140))
        bits, pixels = rng.integers(0, 2, n).astype(bool), image.astype(dtype)
        encoder = WatermarkEncoder()
        encoder.set_watermark("bits", bits.tolist())
        theirs = encoder.encode(pixels.copy(), method)
        np.testing.assert_array_equal(METHODS[method].embed(pixels.copy(), bits), theirs)
        rounded = theirs.clip(0, 255).round().astype(np.uint8).astype(dtype)
        for given in (pixels, rounded):
            read = WatermarkDecoder("bits", n).decode(given, method)
            np.testing.assert_array_equal(METHODS[method].read(given[None], n)[0], read)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_every_single_block_is_read_as_by_invisible_watermark(method: str, dtype: type) -> None:
    """With as many bits as blocks no majority hides a block that is read otherwise."""
    for image in _images(np.random.default_rng(7), 4):
        pixels = image.astype(dtype)
        blocks = (image.shape[0] // 8) * (image.shape[1] // 8)
        read = WatermarkDecoder("bits", blocks).decode(pixels, method)
        np.testing.assert_array_equal(METHODS[method].read(pixels[None], blocks)[0], read)


def test_singular_values_on_the_edge_of_a_step_fall_to_the_original_s_side() -> None:
    """A plain colour of U = 9k has the singular value 72k: rounding alone decides its bit."""
    colours = np.stack([np.arange(256), np.full(256, 126), np.full(256, 126)], axis=1)
    u = cv2.cvtColor(colours.astype(np.uint8)[None], cv2.COLOR_BGR2YUV)[0, :, 1]
    on_edge = [int(np.flatnonzero(u == value)[0]) for value in (90, 108, 126, 144) if value in u]
    assert len(on_edge) == 4
    for blue in on_edge:
        plain = np.full((256, 256, 3), (blue, 126, 126), np.uint8)
        read = WatermarkDecoder("bits", 4).decode(plain, "dwtDctSvd")
        np.testing.assert_array_equal(METHODS["dwtDctSvd"].read(plain[None], 4)[0], read)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_blocks_that_give_no_bound_are_decomposed_and_read_right(dtype: type) -> None:
    """Without a dominant direction, with rows that cancel out, and none at all."""
    rng = np.random.default_rng(6)
    orthogonal = np.linalg.qr(rng.normal(size=(300, 4, 4)))[0] * rng.uniform(0, 900, (300, 1, 1))
    top = rng.normal(size=(300, 2, 4)) * 50
    cancelling, free = np.concatenate([top, -top], axis=1), rng.normal(size=(300, 4, 4)) * 60
    blocks = np.concatenate([orthogonal, cancelling, free, np.zeros((1, 4, 4))]).astype(dtype)
    largest = np.linalg.svd(np.stack([cv2.dct(block) for block in blocks]))[1][:, 0]
    halves = dwtdctsvd.upper_half(np.ascontiguousarray(blocks.transpose(1, 2, 0)))
    np.testing.assert_array_equal(halves, largest % 36 > 18)
    assert 300 < halves.sum() < 600


def test_a_batch_of_many_sizes_is_read_like_each_image_alone(views: list[Image.Image]) -> None:
    mark = codec({"method": "dwtDctSvd", "message": "audit!"})
    images = [view.resize(size) for size in ((256, 256), (300, 259)) for view in views[:3]]
    images = [images[i] for i in (3, 0, 4, 1, 5, 2)]
    together = mark.decode(images)
    assert together.shape == (6, 2, 48)
    for image, bits in zip(images, together, strict=True):
        np.testing.assert_array_equal(mark.decode([image])[0], bits)
    assert mark.decode([]).shape == (0, 2, 48)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_installed_codecs_with_the_published_messages(name: str) -> None:
    factory, message = PRESETS[name]
    made = plugins.load("watermarks", name)()
    assert made.name == factory().name == name
    assert np.packbits(made.bits).tobytes() == message


def test_the_message_of_sdxl_is_that_of_diffusers() -> None:
    theirs = StableDiffusionXLWatermarker().watermark
    assert stable_diffusion_xl().bits.astype(int).tolist() == theirs


def test_sdxl_marks_equal_those_of_diffusers_in_both_directions(views: list[Image.Image]) -> None:
    mark, theirs, images = (
        stable_diffusion_xl(),
        StableDiffusionXLWatermarker(),
        VaeImageProcessor(),
    )
    for view in [*views, Image.new("RGB", (256, 256), "#306090")]:
        marked = theirs.apply_watermark(images.preprocess(view))
        delivered = images.postprocess(marked, "pil")[0]
        np.testing.assert_array_equal(np.asarray(mark.embed(view)), np.asarray(delivered))
        for pixels, read in zip(
            (_bgr(delivered), _bgr(delivered).astype(np.float32)),
            mark.decode([delivered])[0],
            strict=True,
        ):
            original = WatermarkDecoder("bits", 48).decode(pixels, "dwtDct")
            np.testing.assert_array_equal(read, original)


def test_diffusers_marks_are_lost_in_uint8_and_found_in_float32(views: list[Image.Image]) -> None:
    """Encoder and decoders in use disagree on the chroma's offset; the domain tried tells."""
    mark = stable_diffusion_xl()
    decoded = mark.decode([mark.embed(view) for view in views])
    found, (uint8, float32) = match(decoded, mark.bits), agreement(decoded, mark.bits).T
    # 41 of 48 bits have p ≤ 1e-6.
    assert (float32 >= 41).sum() >= 4 > (uint8 >= 41).sum()
    assert [mark.domains[i] for i in found.domain[float32 >= 41]].count("float32") >= 4
    assert (found.p[float32 == 48] <= 1e-12).all()
    unmarked = match(mark.decode(views), mark.bits)
    assert unmarked.p.min() > 1e-2


@pytest.mark.parametrize("name", ["sd-v1", "sd-v2"])
def test_a_planted_mark_is_found_and_jpeg_destroys_it(views: list[Image.Image], name: str) -> None:
    mark = PRESETS[name][0]()
    marked = [mark.embed(view) for view in views]
    assert (match(mark.decode(marked), mark.bits).p <= 1e-6).sum() >= 3
    assert match(mark.decode(views), mark.bits).p.min() > 1e-3
    attacked = [jpeg(image, 90) for image in marked]
    assert match(mark.decode(attacked), mark.bits).p.min() > 1e-6


def test_the_published_table_s_signs_hold_on_photographs(views: list[Image.Image]) -> None:
    """dwtDctSvd: 1.0 unattacked and at JPEG 75, near .8 at JPEG 50, chance after a crop; dwtDct:
    chance after any JPEG."""
    accuracy: dict[tuple[str, str], float] = {}
    for method in METHODS:
        mark = InvisibleWatermark("x", SDXL_MESSAGE, method)
        marked = [mark.embed(view) for view in views]
        attacks = {"none": marked, "crop": [i.crop((26, 26, 486, 486)) for i in marked]}
        attacks |= {f"jpeg{q}": [jpeg(i, q) for i in marked] for q in (90, 75, 50)}
        for attack, images in attacks.items():
            read = mark.decode(images)[:, 0]
            accuracy[method, attack] = float(np.median((read == mark.bits).mean(axis=1)))
    assert accuracy["dwtDctSvd", "none"] == accuracy["dwtDctSvd", "jpeg90"] == 1
    assert accuracy["dwtDctSvd", "jpeg75"] > 0.95
    assert 0.65 < accuracy["dwtDctSvd", "jpeg50"] < 0.95
    assert accuracy["dwtDct", "none"] > 0.95
    for pair in [("dwtDctSvd", "crop"), *(("dwtDct", a) for a in ("crop", "jpeg75", "jpeg50"))]:
        assert abs(accuracy[pair] - 0.5) < 0.13, pair


def test_the_mark_is_not_seen(views: list[Image.Image]) -> None:
    for view in views:
        for method in METHODS:
            after = np.asarray(InvisibleWatermark("x", MESSAGE, method).embed(view), float)
            error = ((np.asarray(view, float) - after) ** 2).mean()
            assert 10 * np.log10(255**2 / error) > 30


def test_plain_areas_of_some_colours_keep_no_bit_of_these_marks() -> None:
    """A defect of the codec itself (its pixels are equal), which an audit must be able to show."""
    mark = stable_diffusion_v1()
    plain = [Image.new("RGB", (256, 256), colour) for colour in ("#b4b6ba", "#f6be70")]
    read = mark.decode([mark.embed(image) for image in plain])[:, 0]
    assert (read == mark.bits).mean(axis=1).tolist() == [1.0, 0.5]


def test_an_inverted_mark_is_reported_as_inverted(views: list[Image.Image]) -> None:
    mark = stable_diffusion_v2()
    other = InvisibleWatermark("inverted", bytes(255 - byte for byte in b"SDV2"))
    found = match(mark.decode([other.embed(views[0]), mark.embed(views[0])]), mark.bits)
    assert found.inverted.tolist() == [True, False]
    assert (found.matches >= 30).all() and (found.p <= 1e-6).all()


def test_p_values_are_the_exact_tail_times_the_tests_made() -> None:
    rng = np.random.default_rng(3)
    for domains in (1, 2):
        decoded = rng.integers(0, 2, (40, domains, 48)).astype(bool)
        key = rng.integers(0, 2, 48).astype(bool)
        found = match(decoded, key)
        for image, best, p in zip(decoded, found.matches, found.p, strict=True):
            upright = [(bits == key).sum() for bits in image]
            assert best == max(max(k, 48 - k) for k in upright)
            tail = Fraction(sum(comb(48, k) for k in range(int(best), 49)), 2**48)
            assert p == pytest.approx(min(1.0, float(2 * domains * tail)))


def test_on_fair_coins_the_corrected_p_value_fires_at_most_at_its_nominal_rate() -> None:
    coins = np.random.default_rng(4).integers(0, 2, (20_000, 2, 136)).astype(bool)
    p = match(coins, stable_diffusion_v1().bits).p
    for nominal in (0.1, 0.01, 0.001):
        assert (p <= nominal).mean() <= nominal + 3 * np.sqrt(nominal / len(p))
    # Discrete, but not idle: about half of the rate is used.
    assert (p <= 0.1).mean() > 0.05


def test_many_keys_at_once_give_what_each_gives_alone() -> None:
    rng = np.random.default_rng(5)
    decoded = rng.integers(0, 2, (7, 2, 32)).astype(bool)
    keys = rng.integers(0, 2, (9, 32)).astype(bool)
    many = match(decoded, keys)
    for place, key in enumerate(keys):
        alone = match(decoded, key)
        for part in ("matches", "domain", "inverted", "p"):
            np.testing.assert_array_equal(getattr(many, part)[:, place], getattr(alone, part))


def test_small_images_are_one_clear_line() -> None:
    small, mark = Image.new("RGB", (255, 256)), stable_diffusion_v1()
    for call in (lambda: mark.embed(small), lambda: mark.decode([small])):
        with pytest.raises(AuditError, match="255×256 pixels is too small") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_an_image_too_thin_for_any_block_reads_as_zeros_without_a_warning() -> None:
    thin = Image.new("RGB", (20_000, 6), "#305090")
    assert not stable_diffusion_v2().decode([thin]).any()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not WatermarkDecoder("bits", 32).decode(_bgr(thin), "dwtDct").any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "dwtDtc", "message": "x"}, "did you mean 'dwtDct'"),
        ({"method": "dwtDct"}, "say its 'message', a text, or 'bits'"),
        ({"method": "dwtDct", "message": ""}, "say its 'message'"),
        ({"method": "dwtDct", "message": "x", "bits": "01"}, "not both"),
        ({"method": "dwtDct", "bits": 101}, "in quotes"),
        ({"method": "dwtDct", "bits": "012"}, "0 and 1"),
        ({"method": "dwtDct", "mesage": "x"}, "did you mean 'message'"),
        ({"method": "rivaGan", "message": "five!"}, "rivaGan holds 32 bits, and 'rivaGan' has 40"),
        ({"method": "stable-signature", "bits": "01"}, "say 'model'"),
    ],
)
def test_wrong_settings_are_one_clear_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(AuditError, match=message) as caught:
        codec(settings)
    assert "\n" not in str(caught.value)


def test_a_message_is_a_text_or_bits() -> None:
    text = codec({"method": "dwtDct", "message": "A", "name": "ours"})
    assert (text.name, text.bits.tolist()) == ("ours", [bool(int(d)) for d in "01000001"])
    np.testing.assert_array_equal(codec({"method": "dwtDct", "bits": "01000001"}).bits, text.bits)
    with pytest.raises(AuditError, match="method"):
        InvisibleWatermark("x", b"m", "rot13")
