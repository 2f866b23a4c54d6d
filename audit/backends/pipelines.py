"""Any diffusers text-to-image pipeline, called as it is: SDXL, SD3, FLUX, PixArt, …

The pipeline's own ``__call__`` makes the images. What this adds is a seed for each image, a fixed
batch shape, and a record of what the pipeline could not be told.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from audit.errors import AuditError
from audit.inputs import Inputs
from audit.plan import Request
from audit.plugins import did_you_mean

from .base import Result
from .checkpoints import check_folder, origin, resolve, weight_hashes
from .pictures import deliver
from .samplers import make_scheduler, scheduler_class

TASKS = {
    "text": "AutoPipelineForText2Image",
    "image": "AutoPipelineForImage2Image",
    "mask": "AutoPipelineForInpainting",
}
OURS = {
    "prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "height", "width", "eta",
    "image", "mask_image", "strength", "noise_level", "generator", "output_type", "return_dict",
    "num_images_per_prompt",
}  # fmt: skip
"""Arguments that a request decides; the option `arguments` may not."""


class Pipelines:
    """Any diffusers text-to-image pipeline (SDXL, SD3, FLUX, PixArt, …), called as it is.

    Args:
        model: a folder with a model_index.json, or a Hub name.
        device: ``auto`` takes a GPU where there is one.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        variant: such as ``fp16``, for folders whose weights are ``*.fp16.safetensors``.
        offload: keep on the GPU only the component that is at work.
        arguments: further arguments of every call, such as ``{true_cfg_scale: 4}``.

    Raises:
        AuditError: there is no such pipeline, or it has no safetensors weights.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "auto",
        dtype: str = "float32",
        variant: str = "",
        offload: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = resolve(str(model))
        parts = check_folder(self.folder)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        self.model_path: Path | None = self.folder
        self.inputs = Inputs()
        self._pipe = _load(self.folder, parts, self.dtype, variant)
        if offload and self.device.type == "cpu":
            raise AuditError("option offload moves parts to a GPU and back, and there is none here")
        if offload:
            self._pipe.enable_model_cpu_offload(device=self.device)
        else:
            self._pipe.to(self.device)
        self._offload = offload
        self._tasks = {"text": self._pipe}
        self._scheduler = self._pipe.scheduler
        self._arguments = dict(arguments or {})
        known = _parameters(self._pipe)
        for name in self._arguments:
            if name in OURS or name not in known:
                raise AuditError(
                    f"{type(self._pipe).__name__} takes no argument '{name}' from the option "
                    f"'arguments'{did_you_mean(name, known - OURS)}; it takes: "
                    f"{', '.join(sorted(known - OURS))}"
                )
        self._batch_limit: int | None = None

    @cached_property
    def sampler(self) -> Mapping[str, Any]:
        """The defaults of the pipeline's ``__call__``, at the model's own size.

        A distilled checkpoint (turbo, lightning, schnell) wants other steps than its class: say so.
        """
        default = {
            name: p.default for name, p in inspect.signature(self._pipe.__call__).parameters.items()
        }
        found: dict[str, Any] = {}
        if isinstance(default.get("num_inference_steps"), int):
            found["steps"] = default["num_inference_steps"]
        guidance = default.get("guidance_scale", 1.0)  # a pipeline that takes none has none
        if isinstance(guidance, int | float):
            found["guidance"] = float(guidance)
        size = self._size()
        for side, own in zip(("height", "width"), size or (None, None), strict=True):
            chosen = default.get(side) or own
            if isinstance(chosen, int):
                found[side] = chosen
        return found

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.backends.Backend`."""
        import diffusers

        return {
            "backend": "pipelines",
            "mode": "pipeline",
            "pipeline": type(self._pipe).__name__,
            "scheduler": type(self._scheduler).__name__,
            "scheduler_config": {
                key: str(value)
                for key, value in self._scheduler.config.items()
                if not key.startswith("_")
            },
            "parameters": {
                name: sum(p.numel() for p in part.parameters())
                for name, part in self._pipe.components.items()
                if isinstance(part, torch.nn.Module)
            },
            "arguments": self._arguments,
            # What the pipeline does of its own accord, such as PixArt's resolution binning.
            "defaults": {
                name: parameter.default
                for name, parameter in inspect.signature(self._pipe.__call__).parameters.items()
                if name not in OURS | set(self._arguments)
                and isinstance(parameter.default, bool | int | float | str)
            },
            "dropped_arguments": sorted(
                {"negative_prompt", "num_inference_steps", "guidance_scale", "height", "width"}
                - _parameters(self._pipe)
            ),
            "blacked_out": "never: safety checker and watermarker are not loaded",
            "offload": self._offload,
            "device": (
                torch.cuda.get_device_name(self.device)
                if self.device.type == "cuda"
                else str(self.device)
            ),
            "dtype": str(self.dtype).removeprefix("torch."),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "torch_threads": torch.get_num_threads(),
            "diffusers": diffusers.__version__,
            "origin": origin(self.folder),
            "weights": weight_hashes(self.folder),
        }

    def check(self, request: Request) -> None:
        """Whether the pipeline can make requests like this one.

        Raises:
            AuditError: it cannot start from a picture or take this scheduler.
        """
        self._for_task(request)
        self._scheduler_for(request)

    def generate(self, requests: Sequence[Request], batch_size: int) -> list[Result]:
        """See :class:`audit.backends.Backend`.

        Telemetry, a column each:
            seconds: of the whole batch, divided by its requests.
            batch_made: the batch's shape; half of `batch_size` after memory ran out.
            dropped_arguments: what this request asked and the pipeline does not take.
            tokens_cut: tokens of the prompt that no text encoder saw; null where that is unknown.

        Raises:
            AuditError: the pipeline refuses the request, or half a batch is too large as well.
        """
        started = time.perf_counter()
        padded = [*requests, *[requests[-1]] * (batch_size - len(requests))]
        shape = self._batch_limit or len(padded)
        try:
            images = self._in_parts(padded, shape)
        except _OutOfMemory as error:
            half = shape // 2
            if self._batch_limit is not None or half == 0:
                raise _memory_spent(shape) from error
            self._batch_limit = shape = half
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                images = self._in_parts(padded, shape)
            except _OutOfMemory as second:
                raise _memory_spent(shape) from second
        seconds = (time.perf_counter() - started) / len(requests)
        results = []
        for request, image in zip(requests, images, strict=False):
            telemetry = {
                "seconds": seconds,
                "batch_made": shape,
                "dropped_arguments": ", ".join(sorted(self._told(request)[1])),
                "tokens_cut": self._cut(request.prompt),
            }
            if np.isfinite(image).all():
                picture = Image.fromarray((image * 255).round().astype("uint8"))
                results.append(Result(deliver(picture, request), telemetry=telemetry))
            else:
                reason = "the decoded image is not finite (NaN)"
                results.append(Result(None, "failed", reason, telemetry))
        return results

    def _in_parts(self, requests: Sequence[Request], shape: int) -> list[npt.NDArray[np.float32]]:
        images: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(requests), shape):
            part = list(requests[start : start + shape])
            part += [part[-1]] * (shape - len(part))
            images += self._call(part)
        return images[: len(requests)]

    def _call(self, requests: list[Request]) -> list[npt.NDArray[np.float32]]:
        """One batch of one shape; float images (height, width, 3) in 0 to 1.

        To some pipelines no negative prompt and an empty one are different things (SDXL's zeroed
        embeddings), so requests with and without one are never in the same call.
        """
        kinds = {bool(request.negative_prompt) for request in requests}
        images: list[Any] = [None] * len(requests)
        for negative in kinds:
            made = self._ask(requests, negative)
            for slot, request in enumerate(requests):
                if bool(request.negative_prompt) is negative:
                    images[slot] = made[slot]
        return images

    @torch.inference_mode()
    def _ask(self, requests: list[Request], negative: bool) -> npt.NDArray[np.float32]:
        first = requests[0]
        pipe = self._for_task(first)
        told, _ = self._told(first)
        told.pop("negative_prompt", None)
        if negative and "negative_prompt" in _parameters(pipe):
            told["negative_prompt"] = [request.negative_prompt for request in requests]
        if first.init_image:
            size = (first.width, first.height)
            told["image"] = [
                _resized(self.inputs.image(request.init_image), size) for request in requests
            ]
            if first.mask:
                told["mask_image"] = [
                    _resized(self.inputs.mask(request.mask), size) for request in requests
                ]
        pipe.scheduler = self._scheduler_for(first)
        try:
            made = pipe(
                prompt=[request.prompt for request in requests],
                # CPU generators: the same seed gives the same noise on every device.
                generator=[torch.Generator().manual_seed(request.seed) for request in requests],
                output_type="np",
                **told,
            ).images
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise _OutOfMemory from error
        except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
            if "can't allocate memory" in str(error):  # PyTorch's words for a CPU without memory
                raise _OutOfMemory from error
            line = " ".join(str(error).split())[:300]
            raise AuditError(
                f"{type(pipe).__name__} refuses {first.width}×{first.height} pixels, "
                f"{first.steps} steps, scheduler {first.scheduler}: {line}"
            ) from error
        return np.asarray(made, dtype=np.float32)

    def _told(self, request: Request) -> tuple[dict[str, Any], list[str]]:
        """The arguments that the pipeline takes, and the names of those that it does not."""
        known = _parameters(self._for_task(request))
        wanted: dict[str, Any] = {
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            "height": request.height,
            "width": request.width,
        }
        if request.negative_prompt:
            wanted["negative_prompt"] = request.negative_prompt
        if request.eta:
            wanted["eta"] = request.eta
        if request.noise_level:
            wanted["noise_level"] = request.noise_level
        if request.init_image:
            wanted["strength"] = request.strength
        dropped = [name for name in wanted if name not in known]
        if request.init_image:
            # The picture is given in that size already.
            dropped = [name for name in dropped if name not in ("height", "width")]
        if "true_cfg_scale" in known and self._arguments.get("true_cfg_scale", 1) <= 1:
            # Distilled guidance has no unconditional half for a negative prompt to act on.
            dropped += [name for name in ("negative_prompt",) if name in wanted and name in known]
        told = {name: value for name, value in wanted.items() if name not in dropped}
        return told | {k: v for k, v in self._arguments.items() if k in known}, dropped

    def _for_task(self, request: Request) -> Any:
        if request.depth:
            raise AuditError("the backend 'pipelines' takes no depth map: leave depth out")
        if request.mask and not request.init_image:
            raise AuditError("a mask needs the picture it masks: give init_image as well")
        task = "mask" if request.mask else "image" if request.init_image else "text"
        if task not in self._tasks:
            import diffusers

            try:
                self._tasks[task] = getattr(diffusers, TASKS[task]).from_pipe(self._pipe)
            except (ValueError, TypeError) as error:
                raise AuditError(
                    f"{type(self._pipe).__name__} has no sibling that starts from "
                    f"{'a picture and a mask' if request.mask else 'a picture'}; leave init_image "
                    "and mask out"
                ) from error
            self._tasks[task].set_progress_bar_config(disable=True)
        return self._tasks[task]

    def _scheduler_for(self, request: Request) -> Any:
        own, chosen = self._scheduler, scheduler_class(request.scheduler)
        if chosen is not None and chosen[0] not in {c.__name__ for c in own.compatibles}:
            raise AuditError(
                f"scheduler '{request.scheduler}' ({chosen[0]}) cannot stand in for this model's "
                f"{type(own).__name__}; use the model's own: --scheduler model"
            )
        return make_scheduler(own, request.scheduler)

    def _size(self) -> tuple[int, int] | None:
        """Height and width in pixels that the model was trained at, where its parts say so."""
        side = getattr(self._pipe, "default_sample_size", None)
        for name in ("unet", "transformer"):
            part = getattr(self._pipe, name, None)
            side = side or getattr(getattr(part, "config", None), "sample_size", None)
        factor = getattr(self._pipe, "vae_scale_factor", None)
        if side is None or factor is None:
            return None
        high, wide = side if isinstance(side, list | tuple) else (side, side)
        return int(high * factor), int(wide * factor)

    def _cut(self, prompt: str) -> int | None:
        """Tokens beyond the limit of every text encoder.

        CLIP's limit is its tokenizer's; the others' is the call's `max_sequence_length`.
        """
        signature = inspect.signature(self._pipe.__call__).parameters
        longest = self._arguments.get("max_sequence_length")
        if longest is None and "max_sequence_length" in signature:
            longest = signature["max_sequence_length"].default
        cut = []
        for name, tokenizer in self._pipe.components.items():
            if not name.startswith("tokenizer") or tokenizer is None:
                continue
            limit = tokenizer.model_max_length
            if not type(tokenizer).__name__.startswith("CLIP"):
                if not isinstance(longest, int):
                    return None
                limit = longest
            whole = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
            cut.append(max(0, whole - limit))
        return min(cut, default=None)


class _OutOfMemory(Exception):
    """The device has no memory left for a batch of this shape."""


def _memory_spent(shape: int) -> AuditError:
    return AuditError(
        f"no memory left for a batch of {shape} images, half of --batch-size included; choose a "
        "smaller --batch-size and another --out, or --option offload=true, or --dtype float16"
    )


def _load(folder: Path, parts: Mapping[str, Any], dtype: torch.dtype, variant: str) -> Any:
    import diffusers
    import diffusers.utils.logging
    import transformers.utils.logging

    # Their bars would tear ours; cut prompts, which they warn of at every call, are counted.
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    given: dict[str, Any] = {"use_safetensors": True, "dtype": dtype, "local_files_only": True}
    if variant:
        given["variant"] = variant
    # What a pipeline would black out or mark is judged by detectors of its own.
    takes = _constructor(diffusers.DiffusionPipeline.load_config(folder).get("_class_name"))
    if "safety_checker" in parts:
        given["safety_checker"] = None
    if "requires_safety_checker" in takes:
        given["requires_safety_checker"] = False
    if "add_watermarker" in takes:
        given["add_watermarker"] = False
    if "watermarker" in parts:
        given["watermarker"] = None
    try:
        try:
            pipe = diffusers.AutoPipelineForText2Image.from_pretrained(folder, **given)
        except ValueError as error:
            if "AutoPipeline can't find a pipeline linked to" not in str(error):
                raise
            pipe = diffusers.DiffusionPipeline.from_pretrained(folder, **given)
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise AuditError(f"cannot load the pipeline in {folder}: {line}") from error
    if "prompt" not in _parameters(pipe) or not hasattr(pipe, "scheduler"):
        raise AuditError(f"{folder} holds a {type(pipe).__name__}: it makes no images from text")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _constructor(name: Any) -> set[str]:
    import diffusers

    found = getattr(diffusers, str(name), None)
    return set(inspect.signature(found.__init__).parameters) if inspect.isclass(found) else set()


def _parameters(pipe: Any) -> set[str]:
    return set(inspect.signature(pipe.__call__).parameters)


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
