"""What matched bits are worth, and what the detector stores of them."""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb

import pytest
from PIL import Image

from audit.detectors.base import Batch, Item
from safety.watermarks.codecs import binomial_p
from safety.watermarks.detection import WatermarkDetector
from safety.watermarks.presets import stable_diffusion_v2
from tests.safety.clean import photographs
from tests.safety.synthetic import study


def test_p_values_are_the_exact_binomial_tail_of_both_polarities() -> None:
    for n in (32, 48, 136):
        for k in (n // 2 + 1, n - 2, n):
            tail = Fraction(2 * sum(comb(n, i) for i in range(k, n + 1)), 2**n)
            assert float(binomial_p(k, n, 1)) == pytest.approx(min(1, float(tail)), rel=1e-10)
    # The bits that p ≤ 1e-6 takes, as published, of one polarity: 30 of 32, 41 of 48, 96 of 136.
    for n, least in ((32, 30), (48, 41), (136, 96)):
        assert binomial_p(least, n, 1) / 2 <= 1e-6 < binomial_p(least - 1, n, 1) / 2


def test_the_detector_stores_matches_of_every_codec_and_none_for_small_images() -> None:
    photo = photographs()[0].resize((512, 512))
    images = [stable_diffusion_v2().embed(photo), photo, Image.new("RGB", (64, 64))]
    detector = WatermarkDetector(study())
    items = [Item(str(i), "", image, "", "") for i, image in enumerate(images)]
    columns = detector.detect(Batch(items))
    read = [
        f"{codec}_matches_{domain}"
        for codec in ("sd_v1", "sd_v2", "sdxl")
        for domain in ("uint8", "float32")
    ]
    assert set(columns) >= set(read)
    assert columns["sd_v1_bits"] == [136] * 3
    assert columns["sd_v2_matches_uint8"][0] >= 30 > columns["sd_v2_matches_uint8"][1]
    assert [columns[name][2] for name in read] == [None] * 6
    described = dict(detector.describe())
    assert json.loads(json.dumps(described)) == described
    assert "SDV2" not in json.dumps(described)
