"""Whole pipelines of the true classes in tiny form; diffusers called by hand is the oracle."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from audit import engine
from audit.backends import open_backend
from audit.backends.pipelines import Pipelines
from audit.backends.stable_diffusion import StableDiffusion
from audit.errors import AuditError
from audit.inputs import Inputs
from audit.plan import Request
from audit.spec import Spec
from audit.store import Run
from audit.verify import problems
from tests.backends.tiny_pipelines import MAKERS, SIDE, make_sdxl

PROMPTS = ["a doctor", "a nurse on a hill", "x" * 40]


BOTH_WAYS = ("sdxl", "sd3")
"""Those whose guidance has an unconditional half."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name) / "m") for name, make in MAKERS.items()}


def requests(**changes: Any) -> list[Request]:
    common = {"steps": 3, "guidance": 4.0, "height": SIDE, "width": SIDE} | changes
    return [Request(prompt, seed=seed, **common) for seed, prompt in enumerate(PROMPTS)]


def oracle(folder: Path, asked: list[Request], cls: str, **call: Any) -> np.ndarray:
    import diffusers

    pipe = getattr(diffusers, cls).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    first = asked[0]
    if "height" in inspect.signature(pipe.__call__).parameters:
        call |= {"height": first.height, "width": first.width}
    images = pipe(
        prompt=[r.prompt for r in asked],
        num_inference_steps=first.steps,
        guidance_scale=first.guidance,
        generator=[torch.Generator().manual_seed(r.seed) for r in asked],
        **call,
    ).images
    return np.stack([np.asarray(image) for image in images]).astype(int)


def pixels(results: list[Any]) -> np.ndarray:
    return np.stack([np.asarray(result.image) for result in results]).astype(int)


CLASSES = {
    "sdxl": "StableDiffusionXL{}Pipeline",
    "sd3": "StableDiffusion3{}Pipeline",
    "flux": "Flux{}Pipeline",
}


@pytest.mark.parametrize(
    ("name", "negative"), [*((n, "") for n in MAKERS), *((n, "bad") for n in BOTH_WAYS)]
)
def test_images_equal_those_of_the_pipeline_called_directly(
    folders: dict[str, Path], name: str, negative: str
):
    asked = requests(negative_prompt=negative)
    results = Pipelines(folders[name], "cpu").generate(asked, 3)
    call = {"negative_prompt": [negative] * 3} if negative else {}
    theirs = oracle(folders[name], asked, CLASSES[name].format(""), **call)
    assert pixels(results).std() > 5
    assert np.array_equal(pixels(results), theirs)


def test_flux_hears_a_negative_prompt_only_with_true_guidance(folders: dict[str, Path]):
    asked = requests(negative_prompt="bad")
    deaf = Pipelines(folders["flux"], "cpu").generate(asked, 3)
    assert [r.telemetry["dropped_arguments"] for r in deaf] == ["negative_prompt"] * 3
    plain = oracle(folders["flux"], asked, "FluxPipeline")
    assert np.array_equal(pixels(deaf), plain)
    hearing = Pipelines(folders["flux"], "cpu", arguments={"true_cfg_scale": 3.0})
    ours = hearing.generate(asked, 3)
    call = {"negative_prompt": ["bad"] * 3, "true_cfg_scale": 3.0}
    theirs = oracle(folders["flux"], asked, "FluxPipeline", **call)
    assert np.array_equal(pixels(ours), theirs) and not np.array_equal(plain, theirs)
    assert ours[0].telemetry["dropped_arguments"] == ""


def test_a_safety_checker_never_blacks_out(tiny_model: Path):
    backend = Pipelines(tiny_model, "cpu")
    assert (backend._pipe.safety_checker, backend._pipe.config.requires_safety_checker) == (
        None, False,
    )  # fmt: skip
    own = StableDiffusion(tiny_model, "cpu").generate(requests(), 3)
    assert np.array_equal(pixels(backend.generate(requests(), 3)), pixels(own))


def test_half_precision_files_are_a_named_choice(folders: dict[str, Path], tmp_path: Path):
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folders["sdxl"], dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "m", variant="fp16")
    with pytest.raises(AuditError, match="cannot load the pipeline"):
        Pipelines(tmp_path / "m", "cpu")
    backend = Pipelines(tmp_path / "m", "cpu", dtype="float16", variant="fp16")
    assert backend._pipe.unet.dtype == torch.float16
    assert backend.describe()["dtype"] == "float16"


def test_no_negative_prompt_and_an_empty_one_differ_for_sdxl(folders: dict[str, Path]):
    """Why requests with and without one are never in the same call."""
    backend = Pipelines(folders["sdxl"], "cpu")
    plain, mixed = requests(), requests()
    mixed[1] = dataclasses.replace(mixed[1], negative_prompt="bad")
    together = pixels(backend.generate(mixed, 3))
    assert np.array_equal(together[[0, 2]], pixels(backend.generate(plain, 3))[[0, 2]])
    all_negative = requests(negative_prompt="bad")
    assert np.array_equal(together[1], pixels(backend.generate(all_negative, 3))[1])
    empty = oracle(folders["sdxl"], plain, CLASSES["sdxl"].format(""), negative_prompt=[""] * 3)
    assert not np.array_equal(empty, together)


@pytest.mark.parametrize("name", MAKERS)
def test_an_image_does_not_depend_on_its_neighbours(folders: dict[str, Path], name: str):
    backend = Pipelines(folders[name], "cpu")
    alone, together = backend.generate(requests()[:1], 3), backend.generate(requests(), 3)
    assert len(alone) == 1
    assert np.array_equal(pixels(alone)[0], pixels(together)[0])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("masked", [False, True])
def test_a_picture_and_a_mask_reach_the_sibling_pipelines(
    folders: dict[str, Path], tmp_path: Path, name: str, masked: bool
):
    backend, inputs = Pipelines(folders[name], "cpu"), Inputs()
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    mask = Image.fromarray(np.eye(SIDE, dtype=np.uint8) * 255)
    picture.save(tmp_path / "p.png"), mask.save(tmp_path / "m.png")
    start = {"init_image": inputs.add(tmp_path / "p.png"), "strength": 0.7}
    call: dict[str, Any] = {"image": [picture] * 3, "strength": 0.7}
    if masked:
        start["mask"] = inputs.add(tmp_path / "m.png")
        call["mask_image"] = [mask] * 3
    backend.inputs = inputs
    asked = requests(**start)
    cls = CLASSES[name].format("Inpaint" if masked else "Img2Img")
    ours = backend.generate(asked, 3)
    assert np.array_equal(pixels(ours), oracle(folders[name], asked, cls, **call))
    assert [r.telemetry["dropped_arguments"] for r in ours] == [""] * 3


def test_a_scheduler_stands_in_only_where_its_class_is_compatible(folders: dict[str, Path]):
    asked = requests(scheduler="ddim")
    own = pixels(Pipelines(folders["sdxl"], "cpu").generate(requests(), 3))
    ddim = pixels(Pipelines(folders["sdxl"], "cpu").generate(asked, 3))
    assert not np.array_equal(own, ddim)
    with pytest.raises(AuditError, match="cannot stand in for this model's FlowMatchEuler"):
        Pipelines(folders["sd3"], "cpu").generate(asked, 3)


def test_what_a_pipeline_does_not_take_is_recorded(folders: dict[str, Path]):
    backend = Pipelines(folders["sd3"], "cpu")
    results = backend.generate(requests(eta=0.5), 3)
    assert [r.telemetry["dropped_arguments"] for r in results] == ["eta"] * 3
    assert pixels(results).shape == (3, SIDE, SIDE, 3)
    kept = Pipelines(folders["sdxl"], "cpu").generate(requests(eta=0.5), 3)
    assert kept[0].telemetry["dropped_arguments"] == ""


def test_tokens_are_cut_when_no_text_encoder_sees_them(folders: dict[str, Path]):
    clip_only = Pipelines(folders["sdxl"], "cpu").generate(requests(), 3)
    assert [r.telemetry["tokens_cut"] for r in clip_only] == [0, 0, 40 + 2 - 16]
    with_t5 = Pipelines(folders["sd3"], "cpu").generate(requests(), 3)
    assert [r.telemetry["tokens_cut"] for r in with_t5] == [0, 0, 0]
    short = Pipelines(folders["sd3"], "cpu", arguments={"max_sequence_length": 20})
    tokens = 40 + 2  # the word's mark and the end
    assert short.generate(requests(), 3)[2].telemetry["tokens_cut"] == tokens - 20


@pytest.mark.parametrize(("name", "steps", "guidance"), [("sdxl", 50, 5.0), ("sd3", 28, 7.0)])
def test_the_sampler_is_the_pipelines_own(
    folders: dict[str, Path], name: str, steps: int, guidance: float
):
    backend = Pipelines(folders[name], "cpu")
    assert backend.sampler == {
        "steps": steps, "guidance": guidance, "height": SIDE, "width": SIDE,
    }  # fmt: skip
    described = json.loads(json.dumps(backend.describe()))
    assert described["pipeline"] == CLASSES[name].format("")
    assert described["dropped_arguments"] == []
    weights = [key for key in described["weights"] if key.endswith(".safetensors")]
    assert len(weights) == len(described["parameters"]) >= 4


class FullMemory:
    """A denoiser on a device that holds no more than `most` images."""

    def __init__(self, model: Any, most: int) -> None:
        self.model, self.most, self.seen = model, most, []
        self.forward = model.forward
        model.forward = self

    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(len(hidden_states))
        if len(hidden_states) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.forward(hidden_states, *args, **kwargs)


def test_when_memory_runs_out_the_batch_is_halved_once_and_for_good(folders: dict[str, Path]):
    backend = Pipelines(folders["sd3"], "cpu")
    asked = [*requests(), dataclasses.replace(requests()[0], seed=9)]
    whole = pixels(backend.generate(asked, 4))
    memory = FullMemory(backend._pipe.transformer, most=4)  # guidance doubles: 2 images
    halved = backend.generate(asked, 4)
    assert [r.telemetry["batch_made"] for r in halved] == [2] * 4
    assert np.abs(pixels(halved) - whole).max() <= 1
    memory.seen.clear()
    assert backend.generate(asked, 4)[0].telemetry["batch_made"] == 2
    assert max(memory.seen) == 4  # the whole batch is not tried again
    memory.most = 2
    with pytest.raises(AuditError, match="no memory left for a batch of 2 images"):
        backend.generate(asked, 4)


def test_an_image_that_is_not_finite_is_a_failed_outcome(folders: dict[str, Path]):
    backend = Pipelines(folders["sdxl"], "cpu")
    with torch.no_grad():
        backend._pipe.vae.decoder.conv_out.bias.fill_(float("nan"))
    results = backend.generate(requests()[:2], 3)
    assert [(r.image, r.outcome) for r in results] == [(None, "failed")] * 2
    assert "NaN" in results[0].error


def to_pickle(folder: Path) -> None:
    from safetensors.torch import load_file

    weights = folder / "text_encoder_2/model.safetensors"
    torch.save(load_file(weights), folder / "text_encoder_2/pytorch_model.bin")
    weights.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), "it has no model_index.json"),
        (lambda f: (f / "model_index.json").write_text("{"), "is damaged"),
        (
            lambda f: (f / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}'),
            "cannot load the pipeline",
        ),
        (
            lambda f: (f / "model_index.json").write_text('{"unet": ["my_code", "Net"]}'),
            "needs code from 'my_code'",
        ),
        (lambda f: (f / "model_index.json").write_text("[]"), "holds no mapping"),
        (to_pickle, r"holds no \.safetensors file, only pytorch_model\.bin"),
        (
            lambda f: next((f / "unet").glob("*.safetensors")).write_bytes(b"x" * 64),
            "cannot load the pipeline",
        ),
    ],
)
def test_a_damaged_folder_is_one_clear_line(tmp_path: Path, change: Any, message: str):
    folder = make_sdxl(tmp_path / "m")
    change(folder)
    with pytest.raises(AuditError, match=message) as caught:
        Pipelines(folder, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"depth": "ab"}, "takes no depth map"),
        ({"mask": "ab"}, "a mask needs the picture"),
        ({"height": 33}, "refuses 32×33 pixels"),
        ({"scheduler": "nonesuch"}, "unknown scheduler"),
    ],
)
def test_a_request_that_cannot_be_made_is_one_clear_line(
    folders: dict[str, Path], asked: dict[str, Any], message: str
):
    with pytest.raises(AuditError, match=message) as caught:
        Pipelines(folders["sdxl"], "cpu").generate(requests(**asked), 3)
    assert "\n" not in str(caught.value)


def test_a_request_can_be_checked_before_anything_is_made(folders: dict[str, Path]):
    backend = Pipelines(folders["sd3"], "cpu")
    backend.check(requests()[0])
    with pytest.raises(AuditError, match="cannot stand in"):
        backend.check(requests(scheduler="ddim")[0])


def test_options_of_the_backend_are_checked(folders: dict[str, Path]):
    with pytest.raises(AuditError, match="option offload moves parts to a GPU"):
        Pipelines(folders["sdxl"], "cpu", offload=True)
    with pytest.raises(AuditError, match="did you mean 'guidance_rescale'"):
        Pipelines(folders["sdxl"], "cpu", arguments={"guidance_rescal": 0.7})
    with pytest.raises(AuditError, match="takes no argument 'guidance_scale' from the option"):
        Pipelines(folders["sdxl"], "cpu", arguments={"guidance_scale": 0.7})


def test_a_whole_audit_of_sdxl(folders: dict[str, Path], tiny_suite: Path, tmp_path: Path):
    options = {"arguments": {"guidance_rescale": 0.5}}
    assert open_backend(str(folders["sdxl"]), "cpu", options=options).describe()["arguments"] == {
        "guidance_rescale": 0.5
    }
    spec = Spec(
        model=str(folders["sdxl"]),
        suite=str(tiny_suite),
        backend=options,
        batch_size=4,
        images_per_prompt=2,
        probes={"demographics": {}, "languages": {}},
    )
    study, backend, probes = engine.prepare(spec)
    run: Run = engine.run(study, backend, probes, tmp_path / "run")
    records = run.read_table("records")
    assert len(records) == 6 + 4 and (records.outcome == "ok").all()
    assert run.info["backend"]["pipeline"] == "StableDiffusionXLPipeline"
    assert problems(run)[0] == []
