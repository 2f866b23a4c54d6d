"""On the phantom: marked images are told from unmarked ones, and drawing anew weakens the mark."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from PIL import Image

from audit.backends.inversion import inversion, invert
from audit.backends.stable_diffusion import StableDiffusion
from audit.errors import AuditError
from audit.plan import Request
from safety.watermarks.attacks import Attack
from safety.watermarks.gaussian_shading import GaussianShading
from safety.watermarks.latent import read
from safety.watermarks.regeneration import regeneration
from safety.watermarks.tree_ring import TreeRing
from tests.safety.test_watermark_latent_inversion import correlation, last

MARKS: dict[str, Any] = {
    "ring": TreeRing("ring"),
    "rand": TreeRing("rand"),
    "shading": GaussianShading(),
}
COUNT, STEPS = 8, 10
PEOPLE = ("doctor", "nurse", "farmer", "teacher", "pilot", "baker", "judge", "cook")
REQUESTS = [
    Request(f"a portrait of a {who}", seed=seed, steps=STEPS, guidance=3.0, height=64, width=64)
    for seed, who in enumerate(PEOPLE[:COUNT])
]


@pytest.fixture(scope="module")
def backend() -> StableDiffusion:
    backend = StableDiffusion("phantom", "cpu", mode="fast")
    backend.marks.update(MARKS)
    return backend


@pytest.fixture(scope="module")
def images(backend: StableDiffusion) -> dict[str, list[Image.Image]]:
    """The same seeds with each mark, and with none under ``""``."""
    made = {}
    for name in ("", *MARKS):
        wanted = [dataclasses.replace(request, watermark=name) for request in REQUESTS]
        results = backend.generate(wanted, COUNT)
        made[name] = [result.image for result in results if result.image]
    return made


@pytest.fixture(scope="module")
def clean(backend: StableDiffusion, images: dict[str, list[Image.Image]]) -> torch.Tensor:
    return invert(backend, images[""], STEPS)


@pytest.mark.parametrize("name", MARKS)
def test_marked_images_are_told_from_unmarked_ones(
    backend: StableDiffusion,
    images: dict[str, list[Image.Image]],
    clean: torch.Tensor,
    name: str,
) -> None:
    mark = MARKS[name]
    assert len(images[name]) == COUNT
    found = read(mark, backend, images[name], STEPS)
    assert (found.nominal_p <= 1e-3).all()
    unmarked = mark.nominal_p(mark.statistic(clean))
    assert (unmarked > 1e-3).all()
    assert found.statistic.min() > mark.statistic(clean).max()


def test_a_users_message_is_traced_in_the_phantoms_images(
    backend: StableDiffusion, images: dict[str, list[Image.Image]], clean: torch.Tensor
) -> None:
    mark: GaussianShading = MARKS["shading"]
    messages = torch.rand(200, 32, generator=torch.Generator().manual_seed(0)).numpy() < 0.5
    messages[42] = mark.bits((8, 16, 16))
    traced = mark.trace(invert(backend, images["shading"][:4], STEPS), messages)
    assert traced.user.tolist() == [42] * 4
    assert (traced.p <= 0.01).all()
    assert (mark.trace(clean, messages).p > 0.01).all()


def test_the_phantoms_own_noise_is_found_in_part(backend: StableDiffusion) -> None:
    """Its equation is stiff: of a latent about .6 of the noise comes back, where a smooth model
    gives .999; its autoencoder takes more of it."""
    wanted = [dataclasses.replace(each, steps=20, guidance=1.0) for each in REQUESTS[:3]]
    with torch.inference_mode():
        run = backend.denoise(wanted)
        made = last(run)
        found = last(inversion(backend, made, 20, [request.prompt for request in wanted]))
    assert 0.45 < correlation(found, run.latents) < 0.95
    decoded, _ = backend.decode(made)
    through = correlation(invert(backend, decoded, STEPS), run.latents)
    assert 0.25 < through < correlation(found, run.latents)


def test_drawing_anew_keeps_the_size_and_weakens_the_mark(
    backend: StableDiffusion, images: dict[str, list[Image.Image]]
) -> None:
    mark = MARKS["rand"]
    chosen = images["rand"][:3]
    before = read(mark, backend, chosen, STEPS).statistic.mean()
    attacks = regeneration(backend)
    assert [attack.name for attack in attacks] == ["vae", "img2img"]
    kept = backend.inputs
    for attack in attacks:
        assert isinstance(attack, Attack)
        strength = attack.strengths[-1]
        attacked = [attack.apply(image, strength, seed) for seed, image in enumerate(chosen)]
        assert read(mark, backend, attacked, STEPS).statistic.mean() < 0.7 * before
        again = attack.apply(chosen[0], strength, 0)
        assert again.tobytes() == attacked[0].tobytes()
        assert attack.apply(chosen[0], strength, 1).tobytes() != again.tobytes()
        large = chosen[0].resize((100, 80))
        assert attack.apply(large, attack.strengths[0], 0).size == (100, 80)
    assert backend.inputs is kept and not kept.files


def test_a_strength_out_of_range_is_one_line(backend: StableDiffusion) -> None:
    vae, img2img = regeneration(backend)
    image = Image.new("RGB", (64, 64))
    with pytest.raises(AuditError, match="the noise of the attack vae is 0 or more, not -1"):
        vae.apply(image, -1, 0)
    with pytest.raises(AuditError, match=r"strength is 1\.5; it must be from 0 to 1"):
        img2img.apply(image, 1.5, 0)
