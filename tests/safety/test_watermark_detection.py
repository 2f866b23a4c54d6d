"""Detection over many images: what was read, in which number format, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom

from audit.detectors.base import Batch, Item
from audit.errors import AuditError
from audit.plan import Request
from safety.watermarks.calibration import calibrate
from safety.watermarks.codecs import InvisibleWatermark, is_black, match, surest
from safety.watermarks.detection import WatermarkDetector, detect
from safety.watermarks.presets import stable_diffusion_v2
from tests.safety.clean import crops
from tests.safety.synthetic import study

STURDY = InvisibleWatermark("sturdy", b"audit!", "dwtDctSvd")
INVERSE = InvisibleWatermark("inverse", bytes(255 - byte for byte in b"audit!"), "dwtDctSvd")


def test_images_of_any_size_are_told_apart_in_one_call() -> None:
    clean = crops(3, seed=7)
    wide = clean[1].resize((300, 259))
    images = [STURDY.embed(clean[0]), wide, Image.new("RGB", (256, 256), (3, 2, 0)),
              clean[2].resize((64, 64)), INVERSE.embed(clean[1])]  # fmt: skip
    found = detect(STURDY, images)
    assert found.state.tolist() == ["read", "read", "black", "small", "read"]
    assert found.kind == "nominal" and np.isnan(found.calibrated_p).all()
    assert np.isnan(found.p[2:4]).all()
    assert (found.p[[0, 4]] < 1e-6).all() and found.p[1] > 1e-3
    assert found.inverted.tolist() == [False, False, False, False, True]
    assert found.domain[0] == "uint8"
    # Two domains and two polarities: the exact tail, four times.
    assert found.p[0] == pytest.approx(4 * binom.sf(found.matches[0] - 1, 48, 0.5))


def test_the_surest_of_counts_equals_the_match_of_bits() -> None:
    rng = np.random.default_rng(0)
    decoded, key = rng.random((200, 2, 32)) < 0.5, rng.random(32) < 0.5
    from_counts, from_bits = surest((decoded == key).sum(axis=2), 32), match(decoded, key)
    for name in ("matches", "domain", "inverted", "p"):
        np.testing.assert_array_equal(getattr(from_counts, name), getattr(from_bits, name))


def test_the_nominal_p_of_fair_coins_keeps_its_promise_over_all_its_tests() -> None:
    counts = np.random.default_rng(1).binomial(48, 0.5, (200_000, 2))
    p = surest(counts, 48).p
    for alpha in (0.05, 0.01, 0.001):
        events, n = int((p <= alpha).sum()), len(p)
        assert binom.sf(events - 1, n, alpha) > 1e-4  # never above the promise
    assert (p <= 0.05).mean() > 0.01  # and not far below it: the correction is not idle


def test_a_calibration_decides_by_clean_images_without_a_second_correction() -> None:
    made = calibrate(STURDY, crops(60, seed=8), "crops")
    found = detect(STURDY, [STURDY.embed(crops(1, seed=9)[0])], made)
    assert found.kind == "calibrated"
    assert found.p[0] == found.calibrated_p[0] == made.null.p(found.matches)[0]
    with pytest.raises(AuditError, match="not of 'inverse'"):
        detect(INVERSE, crops(1), made)


class Checking:
    """A mark that says by itself whether it is there: eight equal bits are."""

    name, bits, domains, smallest, chance, note = "own", np.zeros(0, bool), ("uint8",), 1, 2**-7, ""

    def decode(self, images: Sequence[Image.Image]) -> Any:
        return np.stack([np.asarray(image)[0, :8, 0] > 127 for image in images])[:, None]

    def present(self, decoded: Any) -> Any:
        return decoded[:, 0].all(axis=1) | ~decoded[:, 0].any(axis=1)


def test_a_mark_without_a_message_is_taken_at_its_own_word_and_chance() -> None:
    striped = Image.fromarray(np.tile(np.uint8([[[0], [255]]]), (8, 4, 3)))
    found = detect(Checking(), [Image.new("RGB", (8, 8), "white"), striped])  # type: ignore[arg-type]
    assert found.p.tolist() == [2**-7, 1.0]
    nameless = InvisibleWatermark("x", b"x")
    nameless.bits = np.zeros(0, bool)
    with pytest.raises(AuditError, match="no message to compare with"):
        detect(nameless, crops(1))


def test_black_means_no_pixel_that_could_hold_anything() -> None:
    image = Image.new("RGB", (64, 64))
    assert is_black(image)
    image.putpixel((0, 0), (0, 40, 0))
    assert not is_black(image)


def _detector(**options: Any) -> WatermarkDetector:
    return WatermarkDetector(study(detectors={"watermark": options}))


def test_the_detector_reads_every_mark_and_attacks_only_what_an_image_carries() -> None:
    photo = crops(1, seed=10)[0]
    codec = {"method": "dwtDctSvd", "message": "audit!", "name": "sturdy"}
    detector = _detector(codecs=["sd-v2", codec], attacks={"jpeg": [90, 10], "cut": [0.5]})
    images = [photo, STURDY.embed(photo), stable_diffusion_v2().embed(photo), photo.resize((9, 9))]
    asked = ["", "", "sd-v2", ""]
    columns = detector.detect(
        Batch(
            [
                Item(str(at), "", image, "", "", Request("p", watermark=mark))
                for at, (image, mark) in enumerate(zip(images, asked, strict=True))
            ]
        )
    )
    # One was set on delivery; the other the image brought along.
    assert columns["attacked"] == [None, "sturdy", "sd-v2", None]
    assert columns["sturdy_bits"] == [48] * 4 and columns["sd_v2_bits"] == [32] * 4
    assert columns["sturdy_matches_uint8"][1] == 48
    assert [columns[f"sd_v2_matches_{d}"][3] for d in ("uint8", "float32")] == [None, None]
    read = columns["attack_jpeg_90_matches_uint8"]
    assert read[0] is None and read[1] >= 46 and read[2] is not None and read[3] is None
    assert columns["attack_jpeg_10_matches_uint8"][1] < 46
    # Half of each side is below the size that can be read.
    assert columns["attack_cut_0_5_matches_uint8"] == [None] * 4
    described = dict(detector.describe())
    assert json.loads(json.dumps(described)) == described
    assert "audit!" not in json.dumps(described) and "SDV2" not in json.dumps(described)


def test_what_cannot_be_read_is_left_out_with_its_reason() -> None:
    missing = {"method": "trustmark", "model": "nowhere.onnx"}
    detector = _detector(codecs=["sd-v1", missing], attacks={})
    assert "no model file nowhere.onnx" in detector.describe()["left_out"]["trustmark"]
    with pytest.raises(AuditError, match=r"no watermark can be read: trustmark: .*nowhere.onnx"):
        _detector(codecs=[missing])
