"""Every attack does what its strength says, and its cost is measured as others measure it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from audit.errors import AuditError
from safety import perturbations as change
from safety.watermarks.attacks import ATTACKS, Attack, attack_of, combined
from safety.watermarks.quality import quality
from tests.safety.clean import photographs


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return photographs()[0].resize((200, 150))


def _values(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=lambda a: a.name)
def test_an_attack_changes_an_image_more_the_stronger_it_is(
    attack: Attack, photo: Image.Image
) -> None:
    before = photo.tobytes()
    made = [attack.apply(photo, strength, 3) for strength in attack.strengths]
    assert photo.tobytes() == before
    assert all(image.mode == "RGB" for image in made)
    if attack.name == "cut":
        assert [i.size for i in made] == [(198, 148), (190, 142), (180, 135), (150, 112)]
        assert all(np.isnan(quality(photo, image).psnr) for image in made)
        return
    assert all(image.size == photo.size for image in made)
    psnr = [quality(photo, image).psnr for image in made]
    assert psnr == sorted(psnr, reverse=True)
    assert psnr[0] < 60


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=lambda a: a.name)
def test_a_seed_decides_and_the_smallest_image_is_survived(
    attack: Attack, photo: Image.Image
) -> None:
    strength = attack.strengths[-1]
    one, again, other = (attack.apply(photo, strength, seed).tobytes() for seed in (1, 1, 2))
    assert one == again
    chance = attack.name in ("noise", "overlay", "blur-noise-jpeg")
    assert (one != other) == chance
    assert attack.apply(Image.new("L", (1, 1)), strength, 0).size == (1, 1)


@pytest.mark.parametrize(
    "attack", [a for a in ATTACKS.values() if a.identity is not None], ids=lambda a: a.name
)
def test_no_strength_is_no_change(attack: Attack, photo: Image.Image) -> None:
    assert attack.identity is not None
    assert attack.identity not in attack.strengths
    assert attack.apply(photo, attack.identity, 0).tobytes() == photo.tobytes()


def test_every_attack_but_lossy_files_and_what_holds_one_has_an_identity() -> None:
    lossy = {a.name for a in ATTACKS.values() if a.identity is None}
    assert lossy == {n for n in ATTACKS if "jpeg" in n} | {"webp", "screenshot"}


@pytest.mark.parametrize("deviation", [2, 5, 10, 20])
def test_the_psnr_of_noise_is_that_of_its_variance_and_of_rounding(deviation: float) -> None:
    grey = Image.new("RGB", (256, 256), (128, 128, 128))
    expected = 10 * np.log10(255**2 / (deviation**2 + 1 / 12))
    found = quality(grey, ATTACKS["noise"].apply(grey, deviation, 7)).psnr
    assert found == pytest.approx(expected, abs=0.05)


def test_noise_does_not_wrap_around() -> None:
    for value in (0, 255):
        plain = Image.new("RGB", (64, 64), (value, value, value))
        assert np.abs(_values(ATTACKS["noise"].apply(plain, 10, 0)) - value).max() < 60


def test_photometric_attacks_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    image, x = Image.fromarray(values), values.astype(float)
    luma = (x @ [0.299, 0.587, 0.114]).round()[..., None]
    expected = {
        ("brighter", 1.5): 1.5 * x,
        ("darker", 0.65): 0.65 * x,
        ("contrast", 1.5): luma.mean().round() + 1.5 * (x - luma.mean().round()),
        ("fade", 0.25): luma + 0.25 * (x - luma),
        ("saturate", 2.0): luma + 2 * (x - luma),
    }
    for (name, strength), wanted in expected.items():
        found = _values(ATTACKS[name].apply(image, strength, 0))
        # Rounding of the luma, doubled at most, and of the result.
        assert np.abs(found - wanted.clip(0, 255)).max() <= 3, name


def test_geometric_attacks_move_what_they_say(photo: Image.Image) -> None:
    x = _values(photo)
    flipped = ATTACKS["flip"].apply(photo, 1, 0)
    np.testing.assert_array_equal(_values(flipped), x[:, ::-1])
    cut = ATTACKS["cut"].apply(photo, 0.75, 0)
    np.testing.assert_array_equal(_values(cut), x[19:131, 25:175])
    square = photo.crop((0, 0, 150, 150))
    turned = ATTACKS["rotate"].apply(square, 90, 0)
    np.testing.assert_array_equal(_values(turned), np.rot90(_values(square)))
    framed = _values(ATTACKS["border"].apply(photo, 0.1, 0))
    white = (framed == 255).all(axis=2)
    assert white[:15].all() and white[-15:].all() and white[:, :20].all() and white[:, -20:].all()
    assert white.mean() == pytest.approx(1 - 0.8**2, abs=0.02)
    covered = _values(ATTACKS["overlay"].apply(photo, 0.25, 5))
    assert (covered != x).any(axis=2).mean() == pytest.approx(0.25, abs=0.01)
    assert (covered[(covered != x).any(axis=2)] == 255).all()


def test_halved_chroma_loses_fine_colour_and_full_chroma_keeps_it() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (200, 60, 60), (60, 110, 200)
    image = Image.fromarray(stripes)
    halved = quality(image, ATTACKS["jpeg"].apply(image, 95, 0)).psnr
    full = quality(image, ATTACKS["jpeg-444"].apply(image, 95, 0)).psnr
    assert full > halved + 10


def test_psnr_and_ssim_are_those_of_scikit_image(photo: Image.Image) -> None:
    for name in ("jpeg", "blur", "noise", "brighter", "rotate"):
        after = ATTACKS[name].apply(photo, ATTACKS[name].strengths[-1], 0)
        found = quality(photo, after)
        x, y = _values(photo) / 255, _values(after) / 255
        assert found.psnr == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1))
        luma = np.array([0.299, 0.587, 0.114])
        theirs = structural_similarity(
            x @ luma, y @ luma, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=1,
        )  # fmt: skip
        assert found.ssim == pytest.approx(theirs, abs=1e-9)


def test_equal_images_have_infinite_psnr_and_those_of_other_sizes_none(photo: Image.Image) -> None:
    assert quality(photo, photo) == (float("inf"), pytest.approx(1.0))
    assert np.isnan(quality(photo, photo.resize((100, 100)))).all()
    small = Image.new("RGB", (8, 8))
    assert np.isnan(quality(small, small).ssim)


def test_a_combination_is_its_steps_in_order(photo: Image.Image) -> None:
    found = ATTACKS["blur-noise-jpeg"].apply(photo, 2, 4)
    by_hand = change.jpeg(change.noisy(change.blurred(photo, 1), 5, 4), 75)
    assert found.tobytes() == by_hand.tobytes()
    assert ATTACKS["resize-jpeg"].unit == "rank of resize 0.9, 0.75, 0.5 → jpeg 90, 75, 50"
    with pytest.raises(AuditError, match="one of 1…3, not 4"):
        ATTACKS["blur-noise-jpeg"].apply(photo, 4, 0)
    with pytest.raises(AuditError, match="as many strengths"):
        combined("odd", [(ATTACKS["blur"], (1.0,)), (ATTACKS["jpeg"], (90.0, 50.0))])


@pytest.mark.parametrize(
    ("name", "strength", "said"),
    [
        ("jpeg", 96, "1…95"),
        ("webp", -1, "WebP quality must be at least 0 and at most 100, not -1"),
        ("resize", 1.5, "at most 1"),
        ("crop", 0.0, "at least 0.01"),
        ("noise", float("nan"), "not nan"),
        ("blur", -1, "at least 0 and finite"),
        ("overlay", 2, "share of the area"),
        ("border", 0.7, "at most 0.5"),
        ("brighter", float("inf"), "at least 0 and finite, not inf"),
        ("rotate", float("nan"), "degrees of a rotation"),
        ("flip", float("nan"), "a whole number of times, not nan"),
        ("flip", 0.5, "a whole number of times"),
    ],
)
def test_a_strength_out_of_range_is_refused(
    name: str, strength: float, said: str, photo: Image.Image
) -> None:
    with pytest.raises(AuditError, match=said):
        ATTACKS[name].apply(photo, strength, 0)


def test_an_unknown_attack_is_answered_with_those_there_are() -> None:
    with pytest.raises(AuditError, match=r"no attack 'jpg'.*jpeg"):
        attack_of("jpg")
