"""Our loop against diffusers' own pipeline, the oracle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audit.backends import SCHEDULERS
from audit.backends.samplers import make_scheduler, set_steps
from audit.backends.stable_diffusion import StableDiffusion
from audit.errors import AuditError, Incomplete
from audit.plan import Request
from tests.backends.tiny_variants import make_variant
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


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


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
    t = set_steps(make_scheduler(backend._pipe.scheduler, "ddim"), 1, None, "cpu")[0]
    x = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(request.seed))
    with torch.no_grad():
        conditional, unconditional = (
            backend.unet(x, t, encoder_hidden_states=backend._text([text])[0].states[None]).sample
            for text in (request.prompt, request.negative_prompt)
        )
    expected = float((conditional - unconditional).norm())
    assert told["text_noise_magnitude"] == pytest.approx(expected, rel=1e-4)
    assert told["text_noise_steps"] == [told["text_noise_first"]]


def test_tokens_that_do_not_fit_are_counted_and_told(tiny_model: Path):
    told = [r.telemetry for r in StableDiffusion(tiny_model, "cpu").generate(REQUESTS, 3)]
    assert [row["tokens_cut"] for row in told] == [0, 0, 40 + 2 - 16]
    assert told[0]["text_cut"] == ""
    # In the tiny tokenizer a token is a letter.
    assert told[2]["text_cut"].replace(" ", "") == "x" * (40 + 2 - 16)


def test_a_latent_that_is_not_finite_is_a_failed_outcome(tiny_model: Path):
    backend = StableDiffusion(tiny_model, "cpu")
    with torch.no_grad():
        backend.unet.conv_out.bias.fill_(float("nan"))
    result = backend.generate(REQUESTS[:1], 1)[0]
    assert (result.image, result.outcome) == (None, "failed")
    assert "latent is not finite" in result.error


def test_a_decoder_that_overflows_is_a_failed_outcome_and_no_black_image(tiny_model: Path):
    backend = StableDiffusion(tiny_model, "cpu")
    with torch.no_grad():
        backend.vae.decoder.conv_out.bias.fill_(float("inf"))
    result = backend.generate(REQUESTS[:1], 1)[0]
    assert (result.image, result.outcome) == (None, "failed")
    assert "decoded image is not finite" in result.error


def test_a_failed_image_leaves_its_neighbours_as_they_are(tiny_model: Path):
    backend = StableDiffusion(tiny_model, "cpu")
    expected = pixels(backend.generate(REQUESTS, 3))
    encoded = backend._text([REQUESTS[1].prompt])[0]
    with torch.inference_mode():
        encoded.states.fill_(float("nan"))
    results = backend.generate(REQUESTS, 3)
    assert [result.outcome for result in results] == ["ok", "failed", "ok"]
    assert np.array_equal(pixels([results[0], results[2]]), expected[[0, 2]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "no model_index.json"),
        (lambda folder: (folder / "unet").rename(folder / "u"), "lacks its part 'unet'"),
        (
            lambda folder: next((folder / "vae").glob("*.safetensors")).unlink(),
            "holds no weights",
        ),
        (
            lambda folder: next((folder / "unet").glob("*.safetensors")).write_bytes(b"x" * 64),
            "cannot load the model",
        ),
        (lambda folder: (folder / "model_index.json").write_text("{"), "is damaged"),
        (
            lambda folder: edit(
                folder / "model_index.json", _class_name="StableDiffusionXLPipeline"
            ),
            "is a StableDiffusionXLPipeline, which the backend stable-diffusion does not audit",
        ),
        (
            lambda folder: edit(
                folder / "model_index.json", _class_name="StableDiffusionUpscalePipeline"
            ),
            r"takes 7 channels \(4 of the latent\), this one takes 4",
        ),
        (
            lambda folder: edit(
                folder / "model_index.json", _class_name="StableUnCLIPImg2ImgPipeline"
            ),
            "lacks its part 'image_encoder'",
        ),
        (
            lambda folder: edit(
                folder / "scheduler" / "scheduler_config.json", prediction_type="sample"
            ),
            "predicts 'sample'; a model of this kind .text-to-image. predicts epsilon or",
        ),
    ],
)
def test_a_damaged_folder_is_one_clear_line(tmp_path: Path, change, message: str):
    folder = make_stable_diffusion(tmp_path / "m")
    change(folder)
    with pytest.raises(AuditError, match=message) as caught:
        StableDiffusion(folder, "cpu")
    assert "\n" not in str(caught.value)


def test_an_upscaler_predicts_v(tmp_path: Path):
    folder = make_variant(tmp_path / "m", "upscaler", "epsilon")
    with pytest.raises(AuditError, match=r"predicts 'epsilon'; .*upscaler. predicts v_prediction"):
        StableDiffusion(folder, "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "device cuda: no GPU"),
        ({"dtype": "int8"}, "dtype is 'int8'; it must be one of float32"),
        ({"mode": "quick"}, "option mode is 'quick'; it must be reference or fast"),
        ({"offload": "disk"}, "option offload is 'disk'"),
        ({"offload": "model"}, "moves weights to a GPU"),
        ({"mode": "fast", "attention": True}, "option attention needs mode=reference"),
    ],
)
def test_an_option_that_cannot_be_is_one_clear_line(
    tiny_model: Path, options: dict[str, Any], message: str
):
    if torch.cuda.is_available() and "GPU" in message:
        pytest.skip("there is a GPU")
    with pytest.raises(AuditError, match=message) as caught:
        StableDiffusion(tiny_model, **({"device": "cpu"} | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"attention_slicing": True}, {"vae_slicing": True}, {"vae_tiling": True}, {"attention": True}],
)
def test_choices_that_save_memory_or_look_on_leave_the_images(
    tiny_model: Path, options: dict[str, bool]
):
    backend = StableDiffusion(tiny_model, "cpu", **options)
    plain = pixels(StableDiffusion(tiny_model, "cpu").generate(REQUESTS, 3))
    apart = np.abs(pixels(backend.generate(REQUESTS, 3)) - plain).max()
    assert apart <= (0 if options == {"attention": True} else 1)
    assert all(backend.describe()["options"][name] for name in options)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_a_declared_choice(tiny_model: Path, dtype: str):
    backend = StableDiffusion(tiny_model, "cpu", dtype, tf32=True)
    images = pixels(backend.generate(REQUESTS, 3))
    described = backend.describe()
    assert (described["dtype"], described["tf32"]) == (dtype, True)
    exact = StableDiffusion(tiny_model, "cpu")
    assert not exact.describe()["tf32"]
    difference = np.abs(images - pixels(exact.generate(REQUESTS, 3)))
    assert 0 < difference.mean() < 5


def test_the_description_names_all_that_shaped_the_images(tiny_model: Path):
    described = StableDiffusion(tiny_model, "cpu").describe()
    assert described["variant"] == "text-to-image"
    assert (described["prediction_type"], described["scheduler"]) == ("epsilon", "PNDMScheduler")
    assert (described["mode"], described["attention_backend"]) == ("reference", "sdpa")
    assert not described["cudnn_deterministic"] and not described["cudnn_benchmark"]
    assert "unet/diffusion_pytorch_model.safetensors" in described["weights"]
    json.dumps(described, allow_nan=False)


def test_the_final_latents_are_kept_on_request(tiny_model: Path):
    backend = StableDiffusion(tiny_model, "cpu", keep_latents=True)
    result = backend.generate(REQUESTS, 3)[1]
    told = result.telemetry
    latent = np.frombuffer(told["latents"], "<f2").reshape(told["latents_shape"])
    assert np.linalg.norm(latent.astype(float)) == pytest.approx(told["latent_norm"], rel=1e-3)
    assert len(told["latent_norm_steps"]) == 7  # PNDM makes one evaluation more than its steps
    assert told["latent_norm_steps"][-1] == told["latent_norm"]
    with torch.no_grad():
        decoded = backend.vae.decode(torch.tensor(latent[None].astype(np.float32)) / 0.18215).sample
    shown = ((decoded[0] / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(shown - np.asarray(result.image)).max() <= 1


@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_attention_shares_equal_those_of_hooks_on_the_projections(
    tiny_model: Path, guidance: float
):
    requests = [
        dataclasses.replace(r, scheduler="ddim", steps=2, guidance=guidance) for r in REQUESTS[:2]
    ]
    plain = StableDiffusion(tiny_model, "cpu")
    seen: dict[str, list[torch.Tensor]] = {}
    layers = [name for name, _ in plain.unet.named_modules() if name.endswith("attn2")]
    for layer in layers:
        attention = plain.unet.get_submodule(layer)
        for part in ("to_q", "to_k"):

            def keep(_m: Any, _i: Any, out: torch.Tensor, key: str = f"{layer}.{part}") -> None:
                seen.setdefault(key, []).append(out)

            getattr(attention, part).register_forward_hook(keep)
    expected_images = pixels(plain.generate(requests, 2))

    results = StableDiffusion(tiny_model, "cpu", attention=True).generate(requests, 2)
    assert np.array_equal(pixels(results), expected_images)
    assert len(layers) == 4  # of one down, one middle and one up block, which has two
    for index, result in enumerate(results):
        row = index + 2 if guidance > 1 else index  # the unconditional half comes first
        assert np.shape(result.telemetry["attention_tokens"]) == (2, 16)
        assert result.telemetry["prompt_tokens"] == [9, 15][index]
        for step in range(2):
            means = []
            for layer in layers:
                query, key = (seen[f"{layer}.{part}"][step][row] for part in ("to_q", "to_k"))
                heads = plain.unet.get_submodule(layer).heads
                for q, k in zip(query.chunk(heads, 1), key.chunk(heads, 1), strict=True):
                    means.append(torch.softmax(q @ k.T / q.shape[1] ** 0.5, 1).mean(0))
            shares = torch.stack(means).mean(0).double().numpy()
            told = np.array(result.telemetry["attention_tokens"][step])
            assert told == pytest.approx(shares, abs=1e-6)
            assert told.sum() == pytest.approx(1, abs=1e-5)
            assert result.telemetry["attention_entropy"][step] == pytest.approx(
                -(shares * np.log(shares)).sum(), abs=1e-5
            )


def fail_above(backend: StableDiffusion, samples: int, error: Exception) -> list[int]:
    """Let the UNet fail on more than `samples`; the list of what it was asked for."""
    forward, asked = backend.unet.forward, []

    def limited(sample: torch.Tensor, *args: Any, **others: Any) -> Any:
        asked.append(len(sample))
        if len(sample) > samples:
            raise error
        return forward(sample, *args, **others)

    backend.unet.forward = limited
    return asked


def test_out_of_memory_halves_the_batch_once_and_goes_on(tiny_model: Path):
    backend = StableDiffusion(tiny_model, "cpu")
    asked = fail_above(backend, 4, torch.OutOfMemoryError("CUDA out of memory"))
    results = backend.generate(REQUESTS, 4)  # under guidance 8 samples, then 4
    assert [result.telemetry["batch_made"] for result in results] == [2, 2, 2]
    halves = StableDiffusion(tiny_model, "cpu")
    expected = [*halves.generate(REQUESTS[:2], 2), *halves.generate(REQUESTS[2:], 2)]
    assert np.array_equal(pixels(results), pixels(expected))
    assert halves.generate(REQUESTS[:2], 2)[0].telemetry["batch_made"] == 2
    asked.clear()
    assert backend.generate(REQUESTS[:1], 4)[0].outcome == "ok"
    assert max(asked) == 4  # what did not fit is not tried again


def test_out_of_memory_at_half_of_the_batch_asks_for_a_smaller_one(tiny_model: Path):
    backend = StableDiffusion(tiny_model, "cpu")
    fail_above(backend, 1, torch.OutOfMemoryError("CUDA out of memory"))
    for size in (4, 1):
        with pytest.raises(AuditError, match="use a smaller --batch-size"):
            backend.generate(REQUESTS[:1], size)


def test_a_gpu_that_vanishes_is_incomplete_and_other_errors_are_not_hidden(tiny_model: Path):
    backend = StableDiffusion(tiny_model, "cpu")
    lost = torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with …")
    fail_above(backend, 0, lost)
    with pytest.raises(Incomplete, match=r"the device failed: CUDA error.* goes on from here") as e:
        backend.generate(REQUESTS[:1], 1)
    assert "\n" not in str(e.value)
    backend = StableDiffusion(tiny_model, "cpu")
    fail_above(backend, 0, RuntimeError("a mistake of ours"))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        backend.generate(REQUESTS[:1], 1)
