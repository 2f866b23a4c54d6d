"""What an attack costs in quality, against a direct computation."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from probes.watermarking import cost
from probes.watermarking.pairs import Pair
from safety.watermarks.attacks import ATTACKS


def _picture(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return small.resize((96, 96), Image.Resampling.BICUBIC)


def test_the_cost_of_attacks_is_psnr_and_ssim_to_the_marked_image() -> None:
    pairs = [Pair(f"r{n}", f"p{n}", _picture(n), _picture(n)) for n in range(12)]
    asked = [("jpeg", 50.0), ("noise", 5.0)]
    found = cost.of_attacks(pairs, asked)
    assert (found[None].psnr, found[None].ssim) == (cost.HIGHEST, pytest.approx(1.0))
    for attack in asked:
        psnr = []
        for pair in pairs[: cost.ATTACKED]:
            after = ATTACKS[attack[0]].apply(pair.marked, attack[1], crc32(pair.request.encode()))
            psnr.append(peak_signal_noise_ratio(np.asarray(pair.marked), np.asarray(after)))
        assert found[attack].psnr == pytest.approx(np.median(psnr))
        assert 0.5 < found[attack].ssim < 1
    assert cost.of_attacks([], asked) == {}
