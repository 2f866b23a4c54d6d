"""How fast images are made: ``python benchmarks/generation.py [--quick] [--json FILE]``.

On a GPU: random weights in the true shapes of SD 1.5 and 2.1, our fast mode against the diffusers
pipeline as it comes, at its best batch, and compiled. On a CPU: the phantom against the pipeline,
by processor time, and whether memory stays flat. What this machine cannot say is told as such.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from audit.backends.architectures import ARCHITECTURES, scheduler
from audit.backends.stable_diffusion import StableDiffusion
from audit.energy import Ledger, Meter, gpu_uuid
from audit.generation import generate
from audit.plan import Request, place
from audit.spec import Spec
from audit.store import Run
from benchmarks.common import Row, Timings, at_least, at_most, machine, report

NO_GPU = "no GPU here"
SHAPES = {"SD 1.5": (4, 768), "SD 2.1": (4, 1024)}
PIPELINE = "the diffusers pipeline"


def requests(count: int, number: int = 0, **changed: Any) -> list[Request]:
    """`count` requests with a prompt and a seed each, new ones in every round."""
    people = ("doctor", "nurse", "farmer", "teacher", "pilot", "baker", "judge", "cook")
    return [
        Request(f"a portrait of a {people[i % 8]} {number}", seed=i, **changed)
        for i in range(count)
    ]


def pipeline_of(folder: Path, device: str, dtype: torch.dtype) -> Any:
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False, dtype=dtype
    ).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe: Any, wanted: Sequence[Request]) -> Any:
    """The requests, made by the pipeline."""
    first = wanted[0]
    return pipe(
        [request.prompt for request in wanted],
        num_inference_steps=first.steps,
        guidance_scale=first.guidance,
        height=first.height,
        width=first.width,
        generator=[torch.Generator().manual_seed(request.seed) for request in wanted],
    ).images


def store_all(backend: Any, wanted: Sequence[Request], batch: int, out: Path) -> None:
    """The requests through the engine: images, telemetry, encoding, storage."""
    store = Run.create(out)
    store.write_json("run.json", {"threads": torch.get_num_threads(), "backend": {}})
    spec = Spec(batch_size=batch)
    with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
        generate(store, spec, backend, place(wanted, batch), Ledger(store, {}))


@torch.inference_mode()
def bare(backend: Any, wanted: Sequence[Request]) -> None:
    """The arithmetic of the requests alone: no telemetry, no pictures, nothing stored."""
    from audit.backends.samplers import make_scheduler

    first = wanted[0]
    texts = [["" for _ in wanted], [request.prompt for request in wanted]]
    text = torch.cat([torch.stack([t.states for t in backend._text(half)]) for half in texts])
    sampler = make_scheduler(backend._pipe.scheduler, first.scheduler)
    sampler.set_timesteps(first.steps, device=backend.device)
    scale = 2 ** (len(backend.vae.config.block_out_channels) - 1)
    shape = (backend.vae.config.latent_channels, first.height // scale, first.width // scale)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(r.seed)) for r in wanted]
    latents = torch.stack(noise).to(backend.device, backend.dtype) * sampler.init_noise_sigma
    predict = backend._denoiser(text, True, None)
    for t in sampler.timesteps:
        empty, given = predict(sampler.scale_model_input(latents, t), t).chunk(2)
        guided = empty + first.guidance * (given - empty)
        latents = sampler.step(guided, t, latents, return_dict=False)[0]
    backend.vae.decode(latents / backend.vae.config.scaling_factor, return_dict=False)[0].cpu()


# ---- the phantom, on a CPU -----------------------------------------------------------------


def phantom(rounds: int, batch: int = 16) -> list[Row]:
    """The phantom: fast and reference mode against the pipeline, by processor time."""
    import numpy as np

    from audit.phantom import path

    shape = {"steps": 20, "guidance": 3.0, "height": 64, "width": 64}
    pipe = pipeline_of(path("phantom"), "cpu", torch.float32)
    ours = {mode: StableDiffusion("phantom", "cpu", mode=mode) for mode in ("reference", "fast")}
    work: dict[str, Callable[[int], Any]] = {
        "pipeline": lambda n: call(pipe, requests(batch, n, **shape)),
        **{
            mode: lambda n, b=backend: b.generate(requests(batch, n, **shape), batch)
            for mode, backend in ours.items()
        },
    }
    timed = Timings(work, rounds)
    theirs = np.stack([np.asarray(image) for image in work["pipeline"](0)]).astype(int)
    mine = np.stack([np.asarray(result.image) for result in work["fast"](0)]).astype(int)
    what = f"{PIPELINE}, batch {batch}"
    rows = [
        Row(f"phantom, {name}", batch / timed.median(name), "images per processor second")
        for name in work
    ]
    for mode in ours:
        ratio, unit = timed.ratio("pipeline", mode)
        name = f"phantom, {mode} mode, processor time"
        known = mode == "fast"
        rows.append(
            at_least(name, ratio, 1.3, unit, what) if known else Row(name, ratio, unit, what)
        )
    ratio, unit = timed.wall_ratio("pipeline", "fast")
    rows.append(Row("phantom, fast mode, wall time", ratio, unit, what))
    rows.append(
        at_most("phantom, largest difference", float(abs(theirs - mine).max()), 1, "of 255", what)
    )
    return rows + stored("phantom", ours["fast"], batch, shape, rounds)


def stored(
    name: str, backend: Any, batch: int, shape: Mapping[str, Any], rounds: int, batches: int = 3
) -> list[Row]:
    """What telemetry, encoding and storage cost beside the arithmetic."""
    on_gpu = backend.device.type == "cuda"

    def engine(number: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            wanted = requests(batch * batches, number, **shape)
            store_all(backend, wanted, batch, Path(folder) / "run")

    def alone(number: int) -> None:
        for start in range(batches):
            bare(backend, requests(batch * batches, number, **shape)[start * batch :][:batch])

    clock = time.perf_counter if on_gpu else time.process_time
    timed = Timings({"engine": engine, "bare": alone}, rounds, clock)
    shares = [1 - b / a for a, b in zip(*timed.seconds.values(), strict=True)]
    share = 100 * sorted(shares)[len(shares) // 2]
    unit = f"% ({100 * min(shares):.1f} to {100 * max(shares):.1f})"
    against = "the arithmetic alone"
    if on_gpu:
        label = f"{name}, time in which the GPU waited for telemetry, encoding and storage"
        return [at_most(label, share, 3, unit, against)]
    label = f"{name}, processor time of telemetry, encoding and storage"
    return [Row(label, share, unit, against)]


def memory(few: int, many: int, steps: int) -> list[Row]:
    """Peak memory of runs of two lengths, each in a process of its own."""
    peaks = []
    for count in (few, many):
        command = [sys.executable, __file__, "--peak", str(count), "--steps", str(steps)]
        peaks.append(float(subprocess.run(command, check=True, capture_output=True).stdout))
    return [
        Row(f"peak memory, {few} images", peaks[0], "MiB"),
        at_most(
            f"peak memory, {many} images", peaks[1] / peaks[0], 1.05, f"× ({peaks[1]:.0f} MiB)",
            f"{few} images",
        ),
    ]  # fmt: skip


def peak(count: int, steps: int) -> float:
    """Peak memory of this process in MiB after a run of `count` images."""
    backend = StableDiffusion("phantom", "cpu", mode="fast")
    wanted = requests(count, steps=steps, guidance=3.0, height=64, width=64)
    with tempfile.TemporaryDirectory() as folder:
        store_all(backend, wanted, 16, Path(folder) / "run")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- the family, in its true shapes --------------------------------------------------------


def save_model(key: tuple[int, int], folder: Path, tiny: bool) -> Path:
    """A diffusers folder with random weights in the shapes of `key`, or in shapes a CPU runs."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    from audit.backends.clip_tokenizer import clip_tokenizer

    known = ARCHITECTURES[key]
    unet, vae, text = dict(known.unet), dict(known.vae), dict(known.text_encoder)
    if tiny:
        unet |= {"block_out_channels": [32, 64, 64, 64], "norm_num_groups": 8}
        unet |= {"attention_head_dim": 4, "cross_attention_dim": 64}
        vae |= {"block_out_channels": [16, 16, 32, 32], "norm_num_groups": 8}
        text |= {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
        text |= {"num_attention_heads": 4}
    torch.manual_seed(0)
    with torch.device("cpu" if tiny else "cuda"):
        pipe = diffusers.StableDiffusionPipeline(
            vae=diffusers.AutoencoderKL(**vae),
            text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
            tokenizer=clip_tokenizer(known.pad_token),
            unet=diffusers.UNet2DConditionModel(**unet),
            scheduler=diffusers.DDIMScheduler.from_config(scheduler(known, "epsilon")),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.to(dtype=torch.float32 if tiny else torch.bfloat16).save_pretrained(folder)
    return folder


def teraflop(folder: Path, pixels: int, steps: int) -> float:
    """TFLOP of one image: 2 × `steps` UNet passes and a decoding, counted without weights."""
    import diffusers
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as unet_count:
        unet = diffusers.UNet2DConditionModel.from_config(
            diffusers.UNet2DConditionModel.load_config(folder / "unet")
        )
        side = pixels // 8
        text = torch.zeros(1, 77, unet.config.cross_attention_dim)
        unet(torch.zeros(1, 4, side, side), torch.zeros(1), encoder_hidden_states=text)
    with torch.device("meta"), FlopCounterMode(display=False) as vae_count:
        vae = diffusers.AutoencoderKL.from_config(
            diffusers.AutoencoderKL.load_config(folder / "vae")
        )
        vae.decode(torch.zeros(1, 4, side, side))
    flops = 2 * steps * unet_count.get_total_flops() + vae_count.get_total_flops()
    return float(flops) / 1e12


def ceiling(device: str, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product."""
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    # The clock of the competitors: processor time where other work shares the machine.
    clock = time.perf_counter if device == "cuda" else time.process_time
    times = Timings({"product": lambda _: synchronised(lambda: a @ b)}, 9, clock)
    return 2 * side**3 / min(times.seconds["product"]) / 1e12


def synchronised(work: Callable[[], Any]) -> Any:
    """`work`, until the device has done it."""
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def family(name: str, device: str, sizes: Sequence[int], steps: int, rounds: int) -> list[Row]:
    """One architecture against the pipeline: at batch 1, at its best batch, and compiled."""
    on_gpu = device == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_model(SHAPES[name], Path(temporary) / "model", tiny=not on_gpu)
        for pixels in sizes:
            rows += versus(name, folder, device, dtype, pixels, steps, rounds)
            if on_gpu:
                torch.compiler.reset()
                torch.cuda.empty_cache()
    return rows


def versus(
    name: str, folder: Path, device: str, dtype: torch.dtype, pixels: int, steps: int, rounds: int
) -> list[Row]:
    on_gpu = device == "cuda"
    shape = {"steps": steps, "guidance": 7.5, "height": pixels, "width": pixels}
    label = f"{name}{'' if on_gpu else ' layout, tiny'}, {pixels} px"
    pipe = pipeline_of(folder, device, dtype)

    def best_batch() -> int:
        rates = {}
        for batch in (1, 2, 4, 8, 16, 32) if on_gpu else (1, 2, 4):
            few = requests(batch, **(shape | {"steps": min(steps, 5)}))
            try:
                timed = Timings({"": lambda _, f=few: call(pipe, f)}, 1, time.perf_counter)
            except torch.OutOfMemoryError:
                break
            rates[batch] = batch / timed.median("")
        return max(rates, key=rates.__getitem__)

    best = best_batch()
    batch = 16 if on_gpu else best
    fast = StableDiffusion(str(folder), device, str(dtype).removeprefix("torch."), mode="fast")
    images = {"batch 1": 1, f"best batch {best}": best, "fast mode": batch}
    work: dict[str, Callable[[int], Any]] = {
        "batch 1": lambda n: call(pipe, requests(1, n, **shape)),
        f"best batch {best}": lambda n: call(pipe, requests(best, n, **shape)),
        "fast mode": lambda n: fast.generate(requests(batch, n, **shape), batch),
    }
    if on_gpu:
        compiled = pipeline_of(folder, device, dtype)
        compiled.unet.to(memory_format=torch.channels_last)
        compiled.vae.to(memory_format=torch.channels_last)
        compiled.unet.compile(mode="max-autotune", fullgraph=True)
        compiled.vae.decoder.compile(mode="max-autotune-no-cudagraphs")
        images["compiled"] = best
        work["compiled"] = lambda n: call(compiled, requests(best, n, **shape))
    timed = Timings(work, rounds, time.perf_counter if on_gpu else time.process_time)
    rates = {key: images[key] / timed.median(key) for key in work}
    unit = "images/s" if on_gpu else "images per processor second"
    cost, top = teraflop(folder, pixels, steps), ceiling(device, dtype)
    rows = [Row(f"{label}, {key}", rate, unit) for key, rate in rates.items()]
    for key in work:
        if key != "fast mode":
            rows.append(
                Row(f"{label}, fast mode", rates["fast mode"] / rates[key], "×", f"pipeline, {key}")
            )
    rows.append(Row(f"{label}, fast mode", rates["fast mode"] * cost, "TFLOP/s of the model"))
    share = 100 * rates["fast mode"] * cost / top
    against = f"a matrix product, {top:.3g} TFLOP/s"
    if not on_gpu:
        return [*rows, Row(f"{label}, share of the ceiling", share, "%", against)]
    ratio = rates["fast mode"] / rates["compiled"]
    rows.append(at_least(f"{label}, fast mode", ratio, 1.3, "×", "pipeline, compiled"))
    aim = at_least if pixels == 512 else lambda n, v, _, u, a: Row(n, v, u, a)
    rows.append(aim(f"{label}, share of the ceiling", share, 60, "%", against))
    uuid = gpu_uuid(device)
    for key in work:
        torch.cuda.reset_peak_memory_stats()
        meter = Meter([uuid] if uuid else [])
        synchronised(lambda k=key: work[k](rounds))
        joules = meter.lap().joules
        gib = torch.cuda.max_memory_allocated() / 2**30
        rows.append(Row(f"{label}, {key}, GPU memory at its peak", gib, "GiB"))
        reason = "" if joules is not None else "NVML does not count energy here"
        each = None if joules is None else joules / images[key]
        rows.append(Row(f"{label}, {key}, energy", each, "J/image", unmeasured_because=reason))
    return rows + stored(label, fast, batch, shape, min(rounds, 3))


def unmeasured() -> list[Row]:
    """The aims that need a GPU."""
    against = "the pipeline compiled, channels last"
    rows = []
    for name in SHAPES:
        for pixels in (512, 768):
            label = f"{name}, {pixels} px"
            asked = [(f"{label}, fast mode", "×", against, "≥ 1.3")]
            if pixels == 512:
                asked.append((f"{label}, share of the ceiling", "%", "a matrix product", "≥ 60"))
            asked.append((f"{label}, energy", "J/image", "", ""))
            waited = f"{label}, time in which the GPU waited for telemetry, encoding and storage"
            asked.append((waited, "%", "the arithmetic alone", "≤ 3"))
            rows += [
                Row(what, None, unit, versus_, aim, None, NO_GPU)
                for what, unit, versus_, aim in asked
            ]
    return rows


def silence() -> None:
    """No bars of other libraries in the output."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast images are made.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under two minutes")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak:
        print(peak(given.peak, given.steps))
        return
    described = machine()
    warnings.filterwarnings("ignore")
    silence()
    has_gpu = torch.cuda.is_available()
    device = given.device if given.device != "auto" else "cuda" if has_gpu else "cpu"
    if device == "cuda" and not has_gpu:
        parser.error("--device cuda: no GPU that this torch can use")
    quick = given.quick
    stages: list[tuple[str, Callable[[], list[Row]]]] = [
        ("phantom", lambda: phantom(2 if quick else 11)),
        ("memory", lambda: memory(200, 2000, 1)),
    ]
    for name in SHAPES:
        if device == "cuda":
            shape = ((512,), 10, 2) if quick else ((512, 768), 50, 5)
        else:
            shape = ((64,), 2, 1) if quick else ((64, 96), 2, 5)
        stages.append((name, lambda n=name, s=shape: family(n, device, *s)))
    rows = []
    for name, stage in stages:
        started = time.perf_counter()
        rows += stage()
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    if device == "cpu":
        rows += unmeasured()
    print(report(rows, described, given.json))


if __name__ == "__main__":
    main()
