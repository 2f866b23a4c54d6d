"""DDIM inversion finds the noise behind an image; latents of the true size carry the marks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from audit.backends.inversion import encode, inversion, invert
from audit.backends.stable_diffusion import StableDiffusion
from audit.errors import AuditError
from audit.plan import Request
from safety.watermarks.gaussian_shading import GaussianShading
from safety.watermarks.latent import read, subject_of
from safety.watermarks.tree_ring import TreeRing
from tests.backends.tiny_variants import make_variant
from tests.tiny import make_stable_diffusion


def tiny(folder: Path, prediction: str, **scheduler: Any) -> StableDiffusion:
    make_stable_diffusion(folder, prediction, checker=False)
    path = folder / "scheduler" / "scheduler_config.json"
    # Without it diffusers' DDIM cuts the clean latent off at ±1, and nothing could be inverted.
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clip_sample": False} | scheduler))
    return StableDiffusion(folder, "cpu")


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def backend(request: Any, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    zero = request.param == "v_prediction"
    spacing = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True} if zero else {}
    return tiny(tmp_path_factory.mktemp("tiny") / "model", request.param, **spacing)


def requests(count: int, **changed: Any) -> list[Request]:
    sampler = {"steps": 50, "guidance": 1.0, "scheduler": "ddim", "height": 32, "width": 32}
    return [Request(f"a cat {i}", seed=i, **(sampler | changed)) for i in range(count)]


@torch.inference_mode()
def last(run: Any) -> torch.Tensor:
    for step in run:
        latents = step.latents
    return latents


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    both = torch.stack([a.flatten(), b.flatten()])
    return float(torch.corrcoef(both)[0, 1])


def test_inverting_a_ddim_generation_finds_its_noise(backend: StableDiffusion) -> None:
    wanted = requests(2, steps=25)
    with torch.inference_mode():
        run = backend.denoise(wanted)
        made = last(run)
        found = last(inversion(backend, made, 25, [request.prompt for request in wanted]))
    assert correlation(made, run.latents) < 0.999
    assert correlation(found, run.latents) > 0.998
    assert float((found - run.latents).abs().mean()) < 0.15


@pytest.mark.parametrize("steps", [5, 20])
def test_each_step_is_that_of_diffusers_inverse_scheduler(
    backend: StableDiffusion, steps: int
) -> None:
    from diffusers import DDIMInverseScheduler

    theirs = DDIMInverseScheduler.from_config(backend._pipe.scheduler.config)
    theirs.set_timesteps(steps)
    latents = start = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    text = torch.stack([backend._text([""])[0].states] * 2)
    with torch.inference_mode():
        ours = inversion(backend, start, steps, ["", ""])
        assert ours.timesteps.tolist() == theirs.timesteps.tolist()
        for t, step in zip(theirs.timesteps, ours, strict=True):
            predicted = backend.unet(latents, t, encoder_hidden_states=text).sample
            latents = theirs.step(predicted, t, latents).prev_sample
            torch.testing.assert_close(step.latents, latents, atol=1e-4, rtol=1e-4)


def test_images_do_not_depend_on_their_batch_and_are_brought_to_the_models_size(
    backend: StableDiffusion,
) -> None:
    images = [result.image for result in backend.generate(requests(3, steps=2), 3)]
    assert all(images)
    together = invert(backend, images, 4, batch_size=2)
    assert together.shape == (3, 4, 16, 16) and together.dtype == torch.float32
    alone = torch.cat([invert(backend, [image], 4) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    large = [image.resize((96, 96), Image.Resampling.BICUBIC) for image in images]
    assert correlation(invert(backend, large, 4), together) > 0.7
    assert invert(backend, images[:1], 2, size=(64, 48)).shape == (1, 4, 32, 24)
    with torch.inference_mode():
        assert encode(backend, large).shape == (3, 4, 16, 16)


def test_what_cannot_be_inverted_is_one_line(backend: StableDiffusion, tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32))
    for use, said in (
        (lambda: invert(backend, []), "no image to invert"),
        (lambda: invert(backend, [image], 2, prompts=["a", "b"]), "1 images but 2 prompts"),
        (lambda: invert(backend, [image], 0), "an inversion of 0 steps"),
        (lambda: invert(backend, [image], 5000), "an inversion of 5000 steps is not possible"),
    ):
        with pytest.raises(AuditError, match=said):
            use()
    other = StableDiffusion(make_variant(tmp_path / "model", "inpainting"), "cpu")
    with pytest.raises(AuditError, match=r"\(inpainting\) cannot be inverted"):
        invert(other, [image], 2)


def test_latents_of_the_true_size_carry_the_marks(backend: StableDiffusion) -> None:
    """4×64×64, as in Stable Diffusion: random weights of its classes, two blocks of autoencoder."""
    shading = GaussianShading()
    marks: dict[str, Any] = {"ring": TreeRing("ring"), "rand": TreeRing("rand"), "shading": shading}
    backend.marks.update(marks)
    (plain,) = requests(1, height=128, width=128, steps=4)
    wanted = [dataclasses.replace(plain, watermark=name) for name in ("", *marks)]
    with torch.inference_mode():
        run = backend.denoise(wanted)
        found = last(inversion(backend, last(run), 4, [""] * 4))
    assert found.shape == (4, 4, 64, 64)
    torch.testing.assert_close(
        run.latents[0], torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(0))
    )
    for place, mark in enumerate(marks.values(), 1):
        statistic = mark.statistic(found)
        assert mark.statistic(run.latents)[place] > 20 and statistic[place] > 12
        assert (np.delete(statistic, place) < 3).all()
    assert shading.matches(found)[3] == 256


def test_a_marked_image_differs_from_its_unmarked_twin_by_the_noise_alone(
    backend: StableDiffusion,
) -> None:
    mark = TreeRing("rand", radius=4)
    subject = subject_of(mark, backend, requests(3, steps=2), steps=2, batch_size=2)
    assert mark.name not in backend.marks
    assert subject.clusters == ["a cat 0", "a cat 1", "a cat 2"]
    assert (subject.mark, subject.key, subject.bits) == ("tree-ring", mark.key, 0)
    plain = [result.image for result in backend.generate(requests(2, steps=2), 2)]
    assert [i.tobytes() for i in subject.clean[:2]] == [i.tobytes() for i in plain]
    assert all(a.tobytes() != b.tobytes() for a, b in zip(subject.marked, plain, strict=False))
    assert subject.score(subject.clean).statistic.shape == (3,)
    with pytest.raises(AuditError, match="one size"):
        subject_of(mark, backend, [])


def test_a_refused_mark_is_not_read(backend: StableDiffusion) -> None:
    with pytest.raises(AuditError, match="is refused: the pattern 'zeros' holds no key"):
        read(TreeRing("zeros"), backend, [Image.new("RGB", (32, 32))])


def test_a_noise_mark_needs_a_start_from_noise(backend: StableDiffusion, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "start.png")
    digest = backend.inputs.add(tmp_path / "start.png")
    backend.marks["mark"] = TreeRing()
    (wanted,) = requests(1, init_image=digest, strength=0.5, watermark="mark")
    with pytest.raises(AuditError, match="'mark' is set in the initial noise, and this image"):
        backend.check(wanted)
