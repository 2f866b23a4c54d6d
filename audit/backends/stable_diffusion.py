"""Stable Diffusion: the denoising loop, written out, for the whole family.

The loop is the one of Rombach et al. (2022) with classifier-free guidance (Ho and Salimans 2022,
eq. 6); from the same initial noise its images equal those of the variant's diffusers pipeline.
It differs in what it tells: telemetry at no extra model evaluation, and a batch may hold different
prompts and pictures, each with its own seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from audit.errors import AuditError
from audit.inputs import Inputs
from audit.plan import Request
from audit.signals.attention import AttentionSignals

from .attention import CrossAttention
from .base import Result
from .checkpoints import check_folder, origin, resolve, weight_hashes
from .conditioning import Batch, Conditioner
from .denoising import Denoiser, Denoising
from .device import (
    choose_device,
    choose_dtype,
    declare_tf32,
    describe_device,
    out_of_memory,
    raise_if_lost,
)
from .loading import check_options, load_pipeline, place
from .lora import load_lora
from .noise_marks import NoiseMark, noise_mark
from .pictures import deliver
from .samplers import make_scheduler, set_steps, takes
from .text import TextEncoder
from .variants import INPAINTING, UPSCALER, check_request, recognise


class StableDiffusion:
    """A Stable Diffusion model, of any kind that :mod:`audit.backends.variants` knows.

    Args:
        model: a built-in name, a Hub name, a diffusers folder, or a single checkpoint file.
        device: ``auto`` takes a GPU where there is one.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        mode: ``reference`` runs the UNet as it is; ``fast`` computes nothing twice, and
            compiles on a GPU (:class:`audit.backends.fast.FastUNet`).
        tf32: let float32 arithmetic on a GPU use TF32.
        attention: record the cross-attention per token and step.
        keep_latents: record the final latents.
        attention_slicing: compute attention in slices: less memory, slower.
        vae_slicing: decode one image at a time: less memory.
        vae_tiling: decode large images in tiles: less memory, and slightly other pixels.
        offload: keep weights in main memory: ``none``, ``model`` (one part at a time on the GPU)
            or ``sequential`` (one layer at a time).
        prediction_type, tokenizer, allow_pickle: :func:`audit.backends.checkpoints.resolve`.
        lora, lora_scales: :func:`audit.backends.lora.load_lora`; one file may be given as text.

    Raises:
        AuditError: a part is missing or damaged, or an option is not possible.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "auto",
        dtype: str = "float32",
        mode: str = "reference",
        tf32: bool = False,
        attention: bool = False,
        keep_latents: bool = False,
        attention_slicing: bool = False,
        vae_slicing: bool = False,
        vae_tiling: bool = False,
        offload: str = "none",
        prediction_type: str | None = None,
        tokenizer: str | None = None,
        allow_pickle: bool = False,
        lora: str | Sequence[str] = (),
        lora_scales: Sequence[float] | None = None,
    ) -> None:
        folder = resolve(str(model), prediction_type, allow_pickle, tokenizer)
        self.device, self.dtype = choose_device(device), choose_dtype(dtype)
        self.options = {
            "mode": mode,
            "tf32": tf32,
            "attention": attention,
            "keep_latents": keep_latents,
            "attention_slicing": attention_slicing,
            "vae_slicing": vae_slicing,
            "vae_tiling": vae_tiling,
            "offload": offload,
        }
        check_options(self.options, self.device)
        parts = check_folder(folder, allow_pickle)
        self.variant = recognise(folder)
        self.folder: Path = folder
        self.model_path: Path | None = folder
        self.inputs = Inputs()
        self.marks: dict[str, NoiseMark] = {}
        """Marks of the initial noise by name, beside the installed ones."""
        declare_tf32(tf32)
        self._pipe = load_pipeline(folder, self.variant, parts, self.dtype, allow_pickle)
        self._lora = load_lora(self._pipe, [lora] if isinstance(lora, str) else lora, lora_scales)
        place(self._pipe, self.device, self.options)
        self.unet, self.vae = self._pipe.unet, self._pipe.vae
        self._text = TextEncoder(self._pipe.tokenizer, self._pipe.text_encoder, self.device)
        self._conditioner = Conditioner(self.variant, self._pipe, self.device, self.dtype)
        self.recorder = CrossAttention(self.unet) if attention else None
        self._fast: Any = None
        if mode == "fast":
            from .fast import FastUNet

            self._fast = FastUNet(self.unet)
        self._looked_at: set[tuple[str, str, str]] = set()
        self._halved: set[tuple[int, int, int]] = set()

    @cached_property
    def sampler(self) -> Mapping[str, Any]:
        """50 steps at guidance 7.5, as the model cards sample, at the model's own size.

        Where a variant's pipeline has other defaults, those.
        """
        side = int(self.unet.config.sample_size * self._conditioner.scale)
        own = {"steps": 50, "guidance": 7.5, "height": side, "width": side}
        return own | dict(self.variant.sampler)

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.backends.Backend`."""
        scheduler = self._pipe.scheduler
        described = {
            "backend": "stable-diffusion",
            "variant": self.variant.name,
            "mode": self.options["mode"],
            "prediction_type": scheduler.config.prediction_type,
            "scheduler": type(scheduler).__name__,
            "scheduler_config": {
                # As text: some schedulers hold infinities, which JSON does not know.
                key: str(value)
                for key, value in scheduler.config.items()
                if not key.startswith("_")
            },
            "parameters": sum(p.numel() for p in self.unet.parameters()),
            **describe_device(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention_backend": "sliced" if self.options["attention_slicing"] else "sdpa",
            "options": dict(self.options),
            "compiled": bool(self._fast and self._fast.compiled),
            "origin": origin(self.folder),
            "lora": self._lora,
            "weights": weight_hashes(self.folder),
        }
        if self.variant is INPAINTING:
            described["without_picture"] = "the whole picture is masked, on mid grey"
        return described

    def check(self, request: Request) -> None:
        """Whether the model can make the request; nothing is generated.

        Raises:
            AuditError: one line that says what it lacks, or what this model does not know.
        """
        check_request(self.variant, request, self._conditioner.most_noise)
        unit = self._conditioner.unit
        for name in ("height", "width"):
            pixels = getattr(request, name)
            if pixels < unit or pixels % unit:
                raise AuditError(f"{name} is {pixels}; this model makes multiples of {unit} pixels")
        if not 0 <= request.eta <= 1:
            raise AuditError(f"eta is {request.eta}; it must be from 0 to 1")
        scheduler = make_scheduler(self._pipe.scheduler, request.scheduler)
        if request.eta and not takes(scheduler, "eta"):
            raise AuditError(
                f"eta is {request.eta}, which {type(scheduler).__name__} does not know; "
                "choose the scheduler ddim or leave eta away"
            )
        if noise_mark(request, self.marks) and not self._conditioner.pure_noise(request):
            raise AuditError(
                f"watermark '{request.watermark}' is set in the initial noise, and this image "
                "starts from a picture: leave init_image away"
            )
        names = (request.init_image, request.mask, request.depth)
        if names not in self._looked_at:
            self._conditioner.check_inputs(request, self.inputs)
            self._looked_at.add(names)

    def generate(self, requests: Sequence[Request], batch_size: int) -> list[Result]:
        """See :class:`audit.backends.Backend`.

        Where the memory does not hold a batch, this and further ones like it are made in two
        halves of ⌈batch_size / 2⌉.

        Telemetry, a column each:
            text_noise_magnitude: mean over the steps of ‖ε_c − ε_∅‖₂ over the latent
                (Wen et al. 2024, eq. 4); null without guidance. A model that predicts v is taken
                at its own output, as in the published measurements on SD 2: √ᾱ_t times it is the
                difference in ε, which vanishes where a schedule ends without signal.
            text_noise_first: the same at the first step alone.
            text_noise_steps: the same for every step; :func:`audit.signals.text_noise` is its mean
                over any number of them, and its ε-form for a model that predicts v.
            signal_steps: √ᾱ_t at every step.
            latent_norm: ‖z₀‖₂ of the final latent.
            latent_norm_steps: ‖z‖₂ after every step.
            tokens_cut: how many of the prompt's tokens did not fit.
            text_cut: what they say; empty where all fit.
            seconds: the batch's time over its images.
            batch_made: the batch shape that it was made at, padding included.
            whole_masked: of inpainting models: no picture was given, all of it was painted.

        With ``attention``, over the conditional half:
            attention_tokens: a list for each step with the share of the cross-attention that each
                token gets, :class:`audit.backends.attention.CrossAttention`: (steps, tokens).
            attention_entropy: its entropy in nats at every step (Ren et al. 2024).
            prompt_tokens: how many of those tokens are the prompt's, start and end included; the
                rest are padding.
            ren, ren_first, ren_local, bright_ending, bright_ending_finest: signals of memorization,
                :class:`audit.signals.attention.AttentionSignals`.

        With ``keep_latents``:
            latents: the final latent, float16 in little-endian order, row by row.
            latents_shape: (channels, height, width).

        Raises:
            AuditError: a request cannot be made, or the memory holds not even half a batch.
            Incomplete: the device failed.
        """
        kinds = {(r.shape, r.init_image, r.mask, r.depth): r for r in requests}
        for request in kinds.values():
            self.check(request)
        first = requests[0]
        shape = (batch_size, first.height, first.width)
        if shape not in self._halved:
            results = self._attempt(requests, batch_size)
            if results is not None:
                return results
            self._halved.add(shape)
        half = (batch_size + 1) // 2
        made: list[Result] = []
        for start in range(0, len(requests), half):
            results = self._attempt(requests[start : start + half], half) if half > 1 else None
            if results is None:
                raise AuditError(
                    f"out of memory on {self.device}, at half of the batch size {batch_size} too "
                    f"({first.height}×{first.width} pixels); use a smaller --batch-size"
                )
            made += results
        return made

    def _attempt(self, requests: Sequence[Request], size: int) -> list[Result] | None:
        """The results; ``None`` where the memory does not suffice."""
        try:
            return self._make(requests, size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise_if_lost(error)
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def _make(self, requests: Sequence[Request], size: int) -> list[Result]:
        started = time.perf_counter()
        padded = [*requests, *[requests[-1]] * (size - len(requests))]
        run = self.denoise(padded)
        guided = run.both
        magnitudes, norms = [], []
        watch = AttentionSignals(run, self.recorder) if self.recorder else None
        for step in run:
            if step.difference is not None:
                magnitudes.append(_norm(step.difference))
            norms.append(_norm(step.latents))
            if watch:
                watch.after(step)
        latents, prompts = step.latents, run.prompts
        finite = torch.isfinite(norms[-1])
        images, visible = self.decode(torch.where(finite[:, None, None, None], latents, 0))
        self._pipe.maybe_free_model_hooks()
        seconds = (time.perf_counter() - started) / len(requests)

        signal = [run.noise_level(t)[0] for t in run.timesteps.tolist()]
        norm_steps = torch.stack(norms, 1).tolist()
        # Shape (batch, steps); without guidance there is nothing to tell.
        noise_steps = torch.stack(magnitudes, 1).tolist() if guided else [[]] * size
        results = []
        for index, request in enumerate(requests):
            steps = noise_steps[index]
            telemetry = {
                "text_noise_magnitude": sum(steps) / len(steps) if guided else None,
                "text_noise_first": steps[0] if guided else None,
                "text_noise_steps": steps if guided else None,
                "signal_steps": signal,
                "latent_norm": norm_steps[index][-1],
                "latent_norm_steps": norm_steps[index],
                "tokens_cut": prompts[index].cut,
                "text_cut": prompts[index].cut_text,
                "seconds": seconds,
                "batch_made": size,
            }
            if self.variant is INPAINTING:
                telemetry["whole_masked"] = not request.init_image
            if watch:
                telemetry |= watch.columns(index)
            if self.options["keep_latents"]:
                kept = latents[index].to("cpu", torch.float16).numpy()
                telemetry["latents"] = kept.astype("<f2").tobytes()
                telemetry["latents_shape"] = list(kept.shape)
            if finite[index] and visible[index]:
                marked = noise_mark(request, self.marks) is not None
                results.append(Result(deliver(images[index], request, marked), telemetry=telemetry))
            else:
                what = "decoded image" if finite[index] else "latent"
                error = f"the {what} is not finite (NaN or infinite)"
                results.append(Result(None, "failed", error, telemetry))
        return results

    def denoise(self, requests: Sequence[Request], both: bool = False) -> Denoising:
        """The denoising of requests of one shape, from their own noise; nothing is made yet.

        Args:
            both: evaluate the unconditional half where the guidance does not need it too.

        Raises:
            AuditError: a picture, map or embedding cannot be used.
        """
        first = requests[0]
        both = both or first.guidance > 1
        prompts = self._text([request.prompt for request in requests])
        text = torch.stack([prompt.states for prompt in prompts])
        if both:
            empty = self._text([request.negative_prompt for request in requests])
            text = torch.cat([torch.stack([prompt.states for prompt in empty]), text])
        scheduler = make_scheduler(self._pipe.scheduler, first.scheduler)
        strength = self._conditioner.strength(first)
        timesteps = set_steps(scheduler, first.steps, strength, self.device)
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        marks = [noise_mark(request, self.marks) for request in requests]
        start = self._conditioner.start(
            Batch(requests, self.inputs, scheduler, timesteps, generators, both, marks)
        )
        # Stochastic samplers go on drawing from each image's own generator.
        drawn: dict[str, Any] = {"generator": generators} if takes(scheduler, "generator") else {}
        if takes(scheduler, "eta"):
            drawn["eta"] = first.eta
        predict = self._denoiser(text, both, start.class_labels)
        return Denoising(
            prompts,
            scheduler,
            timesteps,
            start.latents,
            start.channels,
            first.guidance,
            both,
            predict,
            drawn,
        )

    def _denoiser(
        self, text: torch.Tensor, guided: bool, class_labels: torch.Tensor | None
    ) -> Denoiser:
        """The UNet for one batch.

        Args:
            text: (2 × batch, tokens, dimension) under guidance, the unconditional half first; else
                (batch, …).
            guided: whether both halves are wanted.
            class_labels: as many rows as `text`, or ``None``.
        """
        if self._fast:
            denoiser: Denoiser = self._fast.bind(text, guided=guided, class_labels=class_labels)
            return denoiser

        def predict(latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            doubled = torch.cat([latents, latents]) if guided else latents
            prediction: torch.Tensor = self.unet(
                doubled, t, encoder_hidden_states=text, class_labels=class_labels, return_dict=False
            )[0]
            return prediction

        return predict

    @cached_property
    def _decoder(self) -> Callable[[torch.Tensor], torch.Tensor]:
        if self._fast:
            from .fast import fast_decoder

            return fast_decoder(self.vae)
        return lambda latents: self.vae.decode(latents, return_dict=False)[0]

    def decode(self, latents: torch.Tensor) -> tuple[list[Image.Image], list[bool]]:
        """The images of latents, and which of them have only finite pixels."""
        # In half precision this decoder overflows, and its pipeline decodes in single precision.
        single = self.variant is UPSCALER and self.vae.config.force_upcast
        if single and self.dtype == torch.float16:
            self.vae.to(torch.float32)
            latents = latents.float()
        decoded = self._decoder(latents / self.vae.config.scaling_factor)
        if single and self.dtype == torch.float16:
            self.vae.to(self.dtype)
        finite = torch.isfinite(decoded).flatten(1).all(1)
        decoded = torch.where(finite[:, None, None, None], decoded, 0)
        processed = self._pipe.image_processor.postprocess(decoded, output_type="pil")
        return [image.convert("RGB") for image in processed], finite.tolist()


def _norm(latents: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(latents.float().flatten(1), dim=1)
    return norm
