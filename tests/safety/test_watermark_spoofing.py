"""A mark that does not depend on its image is forged by averaging; how far others are is told."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from PIL import Image

from audit.errors import AuditError
from safety.watermarks.codecs import InvisibleWatermark
from safety.watermarks.spoofing import forged, mean_residual, residual, spoofing
from safety.watermarks.subjects import subject_of
from tests.safety.clean import crops


class Pattern:
    """A planted additive mark: one pattern of ±4 for each bit on a band of the image."""

    name, domains, smallest = "pattern", ("uint8",), 1

    def __init__(self, n: int = 32, side: int = 64) -> None:
        rng = np.random.default_rng(0)
        self.bits = rng.random(n) < 0.5
        self._signs = rng.choice([-1.0, 1.0], (n, side * side // n, 3))
        self._side = side

    @property
    def added(self) -> np.ndarray:
        wave = 4 * np.where(self.bits, 1, -1)[:, None, None] * self._signs
        return wave.reshape(self._side, self._side, 3)

    def embed(self, image: Image.Image) -> Image.Image:
        return Image.fromarray((np.asarray(image) + self.added).clip(0, 255).astype(np.uint8))

    def decode(self, images: Sequence[Image.Image]) -> np.ndarray:
        detail = np.array([residual(image) for image in images])
        return (
            (detail.reshape(len(images), *self._signs.shape) * self._signs).sum((2, 3)) > 0
        )[:, None]  # fmt: skip


@cache
def _images(n: int) -> list[Image.Image]:
    """Smooth pictures, none at the ends of the range."""
    rng = np.random.default_rng(1)
    made = []
    for _ in range(n):
        coarse = rng.integers(60, 190, (4, 4, 3), np.uint8)
        made.append(Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC))
    return made


def test_the_residual_of_both_versions_is_what_was_added() -> None:
    mark, image = Pattern(), _images(4)[0]
    found = residual(mark.embed(image), image)
    np.testing.assert_array_equal(found, mark.added)
    # A median filter knows the mark but for the image's own detail.
    estimate = residual(mark.embed(image))
    assert np.corrcoef(estimate.ravel(), mark.added.ravel())[0, 1] > 0.8


def test_an_average_comes_nearer_to_the_mark_the_more_images_it_has() -> None:
    mark = Pattern()
    marked = [mark.embed(image) for image in _images(64)]
    near = [
        np.corrcoef(mean_residual(marked[:n], _images(64)[:n]).ravel(), mark.added.ravel())[0, 1]
        for n in (1, 64)
    ]
    assert near[0] == pytest.approx(1.0)
    strangers = [
        np.corrcoef(mean_residual(marked[:n], _images(128)[64:]).ravel(), mark.added.ravel())[0, 1]
        for n in (4, 16, 64)
    ]
    assert strangers == sorted(strangers)
    without = [
        np.corrcoef(mean_residual(marked[:n]).ravel(), mark.added.ravel())[0, 1] for n in (1, 4, 16)
    ]
    assert without == sorted(without)


def test_a_forgery_is_the_residual_times_its_strength_without_wrapping() -> None:
    grey = Image.new("RGB", (4, 4), (250, 128, 3))
    added = np.full((4, 4, 3), [10.0, -3.0, -2.0])
    assert np.asarray(forged(grey, added, 2.0))[0, 0].tolist() == [255, 122, 0]
    assert forged(grey, added, 0.0).tobytes() == grey.tobytes()


def test_an_additive_mark_is_forged_by_every_means_and_clean_images_are_not_accused() -> None:
    table = spoofing([subject_of(Pattern(), _images(24))], strengths=[0.0, 1.0])
    table = table[table.fpr == 1e-6].set_index(["forgery", "strength"])
    assert table.loc["none"].accepted.tolist() == [0.0]
    for forgery in ("transplant", "copy", "average", "average-paired"):
        assert table.loc[(forgery, 0.0), "accepted"] == 0
        assert table.loc[(forgery, 1.0), "accepted"] == 1, forgery
        assert table.loc[(forgery, 1.0), "accepted_low"] == pytest.approx(0.025 ** (1 / 24))
    assert table.loc[("transplant", 1.0), "psnr"] == pytest.approx(20 * np.log10(255 / 4), abs=0.1)


def test_a_mark_that_depends_on_its_image_is_not_carried_over_by_its_residual() -> None:
    codec = InvisibleWatermark("dwtDctSvd", b"audit!", "dwtDctSvd")
    table = spoofing([subject_of(codec, crops(2000)[:8])], rates=[1e-6], strengths=[1.0])
    accepted = table.set_index("forgery").accepted
    assert accepted["none"] == 0
    assert accepted["transplant"] < 0.5 and accepted["copy"] < 0.5


def test_images_of_different_sizes_are_refused_in_one_line() -> None:
    small, large = Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))
    with pytest.raises(AuditError, match="9×8 and its original of 8×8"):
        residual(large, small)
    with pytest.raises(AuditError, match="8×8 does not fit an image of 9×8"):
        forged(large, residual(small))
    with pytest.raises(AuditError, match="all of one size"):
        mean_residual([small, large])
    with pytest.raises(AuditError, match="all of one size"):
        mean_residual([])
    mark = Pattern()
    with pytest.raises(AuditError, match="two or more images"):
        spoofing([subject_of(mark, _images(1))])
