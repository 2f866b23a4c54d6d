"""Every variant against its own diffusers pipeline, the oracle."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from audit.backends import SCHEDULERS
from audit.backends.stable_diffusion import StableDiffusion
from audit.errors import AuditError
from audit.inputs import Inputs
from audit.plan import Request
from tests.backends.tiny_variants import DIMENSION, make_variant
from tests.tiny import make_stable_diffusion

PROMPTS = ("a doctor", "a nurse on a hill", "un piloto")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[tuple[str, str], Path] = {}

    def get(name: str, prediction: str = "epsilon") -> Path:
        if (name, prediction) not in made:
            folder = tmp_path_factory.mktemp("model") / name
            make = make_stable_diffusion if name == "text-to-image" else make_variant
            arguments = (prediction,) if name == "text-to-image" else (name, prediction)
            made[name, prediction] = make(folder, *arguments)
        return made[name, prediction]

    return get


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inputs, dict[str, list[str]]]:
    """Three pictures of different sizes, masks, depth maps and embeddings."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    inputs = Inputs()
    made: dict[str, list[str]] = {"image": [], "mask": [], "depth": [], "embedding": []}
    for index, size in enumerate([(32, 32), (44, 30), (64, 64)]):
        small = Image.fromarray(draw.integers(0, 256, (6, 6, 3), np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{index}.png")
        mask = np.zeros((32, 32), np.uint8)
        mask[4 + 4 * index : 20 + 4 * index, 8:28] = 255
        Image.fromarray(mask).save(folder / f"mask{index}.png")
        np.save(folder / f"depth{index}.npy", draw.random((20, 24)).astype(np.float32))
        np.save(folder / f"embedding{index}.npy", draw.normal(size=DIMENSION).astype(np.float32))
        made["image"].append(inputs.add(folder / f"{index}.png"))
        made["mask"].append(inputs.add(folder / f"mask{index}.png"))
        made["depth"].append(inputs.add(folder / f"depth{index}.npy"))
        made["embedding"].append(inputs.add(folder / f"embedding{index}.npy"))
    return inputs, made


def requests_for(name: str, made: dict[str, list[str]], **changes: Any) -> list[Request]:
    """Three requests of one shape, each with a prompt, a seed and pictures of its own."""
    shared: dict[str, Any] = {"steps": 6, "guidance": 5.0, "height": 32, "width": 32}
    shared |= {"negative_prompt": "bad"} | SHARED.get(name, {}) | changes
    named = {"inpainting": "mask", "inpainting-2": "mask", "depth-given": "depth"}.get(name)
    requests = []
    for seed, prompt in enumerate(PROMPTS):
        own = {named: made[named][seed]} if named else {}
        if not name.startswith("text-to-image"):
            own["init_image"] = made["embedding" if name == "unclip-given" else "image"][seed]
        requests.append(Request(**({"prompt": prompt, "seed": seed} | own | shared)))
    return requests


SHARED: dict[str, dict[str, Any]] = {
    "image-to-image": {"strength": 0.7},
    "image-to-image-2": {"strength": 0.7},
    "depth": {"strength": 0.8},
    "depth-given": {"strength": 0.8},
    "upscaler": {"noise_level": 20, "height": 64, "width": 64},
    "unclip": {"noise_level": 40},
    "unclip-given": {"noise_level": 10},
}

FOLDERS = {
    "image-to-image": "text-to-image",
    "image-to-image-2": "text-to-image-2",
    "depth-given": "depth",
    "unclip-given": "unclip",
}

PIPELINES = {
    "text-to-image": "StableDiffusionPipeline",
    "image-to-image": "StableDiffusionImg2ImgPipeline",
    "inpainting": "StableDiffusionInpaintPipeline",
    "depth": "StableDiffusionDepth2ImgPipeline",
    "upscaler": "StableDiffusionUpscalePipeline",
    "unclip": "StableUnCLIPImg2ImgPipeline",
}


@cache
def pipeline(name: str, folder: Path) -> tuple[Any, Any]:
    """The pipeline and the scheduler that it came with."""
    import diffusers

    without = {}
    if name in ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"):
        without = {"safety_checker": None, "requires_safety_checker": False}
    pipe = getattr(diffusers, name).from_pretrained(folder, use_safetensors=True, **without)
    pipe.set_progress_bar_config(disable=True)
    return pipe, pipe.scheduler


@cache
def backend_of(folder: Path) -> StableDiffusion:
    return StableDiffusion(folder, "cpu")


def oracle(name: str, folder: Path, requests: list[Request], inputs: Inputs) -> np.ndarray:
    import diffusers

    kind = name.removesuffix("-2").removesuffix("-given")
    pipe, own = pipeline(PIPELINES[kind], folder)
    first = requests[0]
    scheduler, extra = SCHEDULERS.get(first.scheduler, (type(own).__name__, {}))
    pipe.scheduler = getattr(diffusers, scheduler).from_config(own.config, **extra)

    def picture(request: Request, shrink: int = 1) -> Image.Image:
        opened = inputs.image(request.init_image)
        return pipe.image_processor.resize(
            opened, request.height // shrink, request.width // shrink
        )

    size = {"height": first.height, "width": first.width}
    if kind == "text-to-image":
        special = size
    elif kind == "image-to-image":
        special = {"image": [picture(r) for r in requests], "strength": first.strength}
    elif kind == "inpainting":
        grey, white = Image.new("RGB", (32, 32), (128,) * 3), Image.new("L", (32, 32), 255)
        special = size | {
            "image": [picture(r) if r.init_image else grey for r in requests],
            "mask_image": [inputs.mask(r.mask) if r.mask else white for r in requests],
            "strength": first.strength,
        }
    elif kind == "depth":
        special = {"image": [picture(r) for r in requests], "strength": first.strength}
        if first.depth:
            maps = [torch.from_numpy(inputs.array(r.depth)) for r in requests]
            special["depth_map"] = torch.stack(maps)
    elif kind == "upscaler":
        special = {"image": [picture(r, 4) for r in requests], "noise_level": first.noise_level}
    elif name == "unclip-given":
        given = torch.stack([torch.from_numpy(inputs.array(r.init_image)) for r in requests])
        special = size | {"image_embeds": given, "noise_level": first.noise_level}
    else:
        shown = [inputs.image(r.init_image) for r in requests]
        special = size | {"image": shown, "noise_level": first.noise_level}
    images = pipe(
        prompt=[r.prompt for r in requests],
        negative_prompt=[r.negative_prompt for r in requests],
        num_inference_steps=first.steps,
        guidance_scale=first.guidance,
        eta=first.eta,
        output_type="np",
        generator=[torch.Generator().manual_seed(r.seed) for r in requests],
        **special,
    ).images
    return np.round(images * 255).astype(int)


def pixels(results: list[Any]) -> np.ndarray:
    assert [result.error for result in results] == [""] * len(results)
    return np.stack([np.asarray(result.image) for result in results]).astype(int)


def ours(folder: Path, requests: list[Request], inputs: Inputs, size: int = 0) -> np.ndarray:
    backend = backend_of(folder)
    backend.inputs = inputs
    return pixels(backend.generate(requests, size or len(requests)))


def apart(name: str, folder: Path, requests: list[Request], inputs: Inputs) -> int:
    """The largest difference between our images and the pipeline's, in 255ths."""
    images = ours(folder, requests, inputs)
    assert images.std() > 5
    return int(np.abs(images - oracle(name, folder, requests, inputs)).max())


KINDS = (
    "text-to-image-2",
    "image-to-image",
    "image-to-image-2",
    "inpainting",
    "inpainting-2",
    "depth",
    "depth-given",
    "upscaler",
    "unclip",
    "unclip-given",
)


@pytest.mark.filterwarnings("ignore:In CPU autocast")
@pytest.mark.parametrize("scheduler", ["model", *SCHEDULERS])
@pytest.mark.parametrize("name", KINDS)
def test_images_equal_those_of_the_variants_pipeline(model, pictures, name: str, scheduler: str):
    inputs, made = pictures
    # Stable Diffusion 2 comes with either prediction; the upscaler only with v.
    prediction = "v_prediction" if name.endswith("-2") or name == "upscaler" else "epsilon"
    folder = model(FOLDERS.get(name, name), prediction)
    requests = requests_for(name, made, scheduler=scheduler)
    if name in ("depth", "unclip"):
        # We show each picture to the depth or CLIP model alone, the pipeline the whole batch.
        assert apart(name, folder, requests, inputs) <= 1
        requests = requests[2:]
    assert apart(name, folder, requests, inputs) == 0


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("image-to-image", {"strength": 1.0}),
        ("image-to-image", {"strength": 0.2, "scheduler": "dpm++"}),
        ("inpainting", {"strength": 0.5}),
        ("inpainting", {"strength": 0.5, "scheduler": "euler"}),
        ("inpainting", {"init_image": "", "mask": ""}),
        ("inpainting-2", {"init_image": "", "mask": "", "scheduler": "ddpm"}),
        ("depth-given", {"strength": 1.0}),
        ("upscaler", {"noise_level": 350}),
        ("upscaler", {"guidance": 1.0}),
        ("unclip-given", {"guidance": 1.0}),
        ("unclip-given", {"noise_level": 999}),
        ("inpainting", {"guidance": 1.0}),
        ("text-to-image-2", {"scheduler": "ddim", "eta": 0.5}),
        ("image-to-image", {"scheduler": "ddim", "eta": 1.0}),
        ("upscaler", {"scheduler": "ddim", "eta": 1.0}),
        ("text-to-image-2", {"height": 48, "width": 24}),
    ],
)
def test_images_equal_the_pipelines_at_other_settings(
    model, pictures, name: str, changes: dict[str, Any]
):
    inputs, made = pictures
    folder = model(FOLDERS.get(name, name), "v_prediction" if name == "upscaler" else "epsilon")
    requests = requests_for(name, made, **changes)
    assert apart(name, folder, requests, inputs) == 0


@pytest.mark.parametrize("name", KINDS)
def test_an_image_does_not_depend_on_its_neighbours(model, pictures, name: str):
    inputs, made = pictures
    folder = model(FOLDERS.get(name, name), "v_prediction" if name == "upscaler" else "epsilon")
    requests = requests_for(name, made, scheduler="euler-ancestral")
    together = ours(folder, requests, inputs)
    assert np.array_equal(ours(folder, requests[:1], inputs, size=3)[0], together[0])
    others = [requests[0], *requests_for(name, made, scheduler="euler-ancestral", prompt="x")[1:]]
    assert np.array_equal(ours(folder, others, inputs)[0], together[0])
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize("name", ["text-to-image-2", "inpainting", "depth", "upscaler", "unclip"])
def test_the_defaults_are_those_of_the_variants_pipeline(model, name: str):
    import diffusers

    backend = backend_of(
        model(FOLDERS.get(name, name), "v_prediction" if name == "upscaler" else "epsilon")
    )
    call = getattr(diffusers, PIPELINES[name.removesuffix("-2")]).__call__
    theirs = {p.name: p.default for p in inspect.signature(call).parameters.values()}
    mine = Request("", **backend.sampler)
    assert (mine.steps, mine.guidance) == (theirs["num_inference_steps"], theirs["guidance_scale"])
    assert mine.strength == theirs.get("strength", 1.0)
    assert mine.noise_level == theirs.get("noise_level", 0)
    assert (mine.height, mine.width) == ((64, 64) if name == "upscaler" else (32, 32))


def test_what_is_given_changes_the_image(model, pictures):
    inputs, made = pictures
    for name, field in {
        "image-to-image": "init_image",
        "inpainting": "mask",
        "depth-given": "depth",
        "depth": "init_image",
        "upscaler": "init_image",
        "unclip": "init_image",
    }.items():
        folder = model(FOLDERS.get(name, name), "v_prediction" if name == "upscaler" else "epsilon")
        first = requests_for(name, made)[0]
        other = dataclasses.replace(first, **{field: getattr(requests_for(name, made)[1], field)})
        images = ours(folder, [first, other], inputs)
        assert not np.array_equal(images[0], images[1]), name


def test_an_inpainting_model_says_that_it_painted_the_whole_picture(model, pictures):
    inputs, made = pictures
    backend = backend_of(model("inpainting"))
    backend.inputs = inputs
    told = [
        backend.generate(requests_for("inpainting", made, **changes)[:1], 1)[0].telemetry
        for changes in ({}, {"init_image": "", "mask": ""})
    ]
    assert [row["whole_masked"] for row in told] == [False, True]
    assert "mid grey" in backend.describe()["without_picture"]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("depth", {"init_image": ""}, "starts from a picture: give init_image"),
        ("upscaler", {"init_image": ""}, "starts from a picture: give init_image"),
        ("unclip", {"init_image": ""}, "starts from a picture: give init_image"),
        ("inpainting", {"mask": ""}, "needs init_image and mask together"),
        ("text-to-image-2", {"mask": "m"}, "takes no mask"),
        ("upscaler", {"depth": "d"}, "takes no depth"),
        ("text-to-image-2", {"noise_level": 5}, "takes no noise_level"),
        ("upscaler", {"noise_level": 351}, "takes 0 to 350"),
        ("unclip", {"noise_level": 1000}, "takes 0 to 999"),
        ("upscaler", {"strength": 0.5}, "takes no strength"),
        ("text-to-image-2", {"strength": 0.5}, "below 1 starts from a picture"),
        ("depth", {"strength": 0.1}, "6 steps at strength 0.1 leave none"),
        ("depth", {"strength": 1.5}, "must be from 0 to 1"),
        ("upscaler", {"height": 40}, "height is 40; this model makes multiples of 16 pixels"),
        ("text-to-image-2", {"width": 31}, "width is 31; this model makes multiples of 2 pixels"),
        ("text-to-image-2", {"eta": 0.5}, "PNDMScheduler does not know"),
        ("text-to-image-2", {"eta": 2.0, "scheduler": "ddim"}, "eta is 2.0"),
        ("text-to-image-2", {"scheduler": "dim"}, "unknown scheduler 'dim'; did you mean 'ddim'"),
        ("image-to-image", {"init_image": "f" * 64}, "no input with the SHA-256"),
        ("depth-given", {"depth": "embedding"}, "must be .height, width."),
        ("unclip-given", {"init_image": "depth"}, "this model's has 32 numbers"),
        ("image-to-image", {"init_image": "depth"}, "is not a picture"),
    ],
)
def test_a_request_that_cannot_be_made_is_one_clear_line(
    model, pictures, name: str, changes: dict[str, Any], message: str
):
    inputs, made = pictures
    changes = {k: made[v][0] if v in made else v for k, v in changes.items()}
    folder = model(FOLDERS.get(name, name), "v_prediction" if name == "upscaler" else "epsilon")
    backend = backend_of(folder)
    backend.inputs = inputs
    request = requests_for(name, made, **changes)[0]
    with pytest.raises(AuditError, match=message) as caught:
        backend.check(request)
    assert "\n" not in str(caught.value)
    with pytest.raises(AuditError, match=message):
        backend.generate([request], 1)


@pytest.mark.parametrize("name", ["image-to-image", "inpainting", "depth", "upscaler", "unclip"])
def test_the_fast_mode_runs_every_variant_within_one_grey_level(model, pictures, name: str):
    inputs, made = pictures
    folder = model(FOLDERS.get(name, name), "v_prediction" if name == "upscaler" else "epsilon")
    requests = requests_for(name, made, scheduler="ddim")
    backend = StableDiffusion(folder, "cpu", mode="fast")
    backend.inputs = inputs
    fast = pixels(backend.generate(requests, 3))
    assert np.abs(fast - ours(folder, requests, inputs)).max() <= 1
    assert backend.describe()["mode"] == "fast"


@pytest.mark.parametrize("name", ["inpainting", "depth", "upscaler", "unclip"])
def test_every_variant_runs_in_half_precision(model, pictures, name: str):
    inputs, made = pictures
    folder = model(FOLDERS.get(name, name), "v_prediction" if name == "upscaler" else "epsilon")
    requests = requests_for(name, made, scheduler="ddim", steps=3)
    backend = StableDiffusion(folder, "cpu", "float16")
    backend.inputs = inputs
    apart = np.abs(pixels(backend.generate(requests, 3)) - ours(folder, requests, inputs))
    assert 0 < apart.mean() < 5
