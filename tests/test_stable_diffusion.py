"""Our loop against diffusers' own pipeline, the oracle."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from audit.backends import SCHEDULERS
from audit.backends.stable_diffusion import StableDiffusion
from audit.errors import AuditError
from audit.plan import Request
from tests.tiny import make_stable_diffusion

REQUESTS = [
    Request(prompt, seed=seed, steps=6, guidance=5.0, height=32, width=32, negative_prompt="bad")
    for seed, prompt in enumerate(["a doctor", "a nurse on a hill", "x" * 40])
]


def oracle(folder: Path, requests: list[Request], scheduler: str = "model") -> np.ndarray:
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    if scheduler != "model":
        name, extra = SCHEDULERS[scheduler]
        pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **extra)
    first = requests[0]
    return np.stack(
        pipe(
            [r.prompt for r in requests],
            negative_prompt=[r.negative_prompt for r in requests],
            num_inference_steps=first.steps,
            guidance_scale=first.guidance,
            height=first.height,
            width=first.width,
            output_type="np",
            generator=[torch.Generator().manual_seed(r.seed) for r in requests],
        ).images
    )


def pixels(results: list) -> np.ndarray:
    return np.stack([np.asarray(result.image) for result in results]).astype(int)


@pytest.mark.parametrize("scheduler", ["model", *SCHEDULERS])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_images_equal_those_of_the_pipeline(tmp_path: Path, prediction: str, scheduler: str):
    folder = make_stable_diffusion(tmp_path / "m", prediction)
    requests = [dataclasses.replace(r, scheduler=scheduler) for r in REQUESTS]
    ours = pixels(StableDiffusion(folder, "cpu").generate(requests, len(requests)))
    theirs = np.round(oracle(folder, requests, scheduler) * 255).astype(int)
    assert ours.std() > 5
    assert np.array_equal(ours, theirs)


def test_without_guidance_the_unconditional_half_is_not_evaluated(tiny_model: Path):
    requests = [dataclasses.replace(r, guidance=1.0) for r in REQUESTS]
    results = StableDiffusion(tiny_model, "cpu").generate(requests, 3)
    assert np.array_equal(pixels(results), np.round(oracle(tiny_model, requests) * 255).astype(int))
    assert results[0].telemetry["text_noise_magnitude"] is None


@pytest.mark.parametrize("scheduler", ["model", "ddpm", "euler-ancestral"])
def test_an_image_does_not_depend_on_its_neighbours(tiny_model: Path, scheduler: str):
    backend = StableDiffusion(tiny_model, "cpu")
    requests = [dataclasses.replace(r, scheduler=scheduler) for r in REQUESTS]
    alone = backend.generate(requests[:1], 3)
    together = backend.generate(requests, 3)
    assert np.array_equal(pixels(alone)[0], pixels(together)[0])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_text_noise_magnitude_is_the_norm_of_the_difference_of_both_predictions(
    tmp_path: Path, prediction: str
):
    folder = make_stable_diffusion(tmp_path / "m", prediction)
    backend = StableDiffusion(folder, "cpu")
    request = dataclasses.replace(REQUESTS[0], scheduler="ddim", steps=1)
    told = backend.generate([request], 1)[0].telemetry
    t = backend._scheduler(request).timesteps[0]
    x = backend._initial_noise(request, [torch.Generator().manual_seed(request.seed)])
    with torch.no_grad():
        conditional, unconditional = (
            backend.unet(x, t, encoder_hidden_states=backend._encode([text])[0]).sample
            for text in (request.prompt, request.negative_prompt)
        )
    expected = float((conditional - unconditional).norm())
    assert told["text_noise_magnitude"] == pytest.approx(expected, rel=1e-4)
    assert told["text_noise_steps"] == [told["text_noise_first"]]


def test_tokens_that_do_not_fit_are_counted(tiny_model: Path):
    cut = [
        r.telemetry["tokens_cut"] for r in StableDiffusion(tiny_model, "cpu").generate(REQUESTS, 3)
    ]
    assert cut == [0, 0, 40 + 2 - 16]


def test_a_latent_that_is_not_finite_is_a_failed_outcome(tiny_model: Path):
    backend = StableDiffusion(tiny_model, "cpu")
    with torch.no_grad():
        backend.unet.conv_out.bias.fill_(float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = backend.generate(REQUESTS[:1], 1)[0]
    assert (result.image, result.outcome) == (None, "failed")
    assert "NaN" in result.error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "no model_index.json"),
        (lambda folder: (folder / "unet").rename(folder / "u"), "lacks its part 'unet'"),
        (
            lambda folder: next((folder / "vae").glob("*.safetensors")).unlink(),
            "holds no .safetensors file",
        ),
        (
            lambda folder: next((folder / "unet").glob("*.safetensors")).write_bytes(b"x" * 64),
            "cannot load the model",
        ),
        (lambda folder: (folder / "model_index.json").write_text("{"), "is damaged"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(tmp_path: Path, change, message: str):
    folder = make_stable_diffusion(tmp_path / "m")
    change(folder)
    with pytest.raises(AuditError, match=message) as caught:
        StableDiffusion(folder, "cpu")
    assert "\n" not in str(caught.value)
