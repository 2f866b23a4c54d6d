"""Stable Diffusion, text to image: the denoising loop, written out.

The loop is the one of Rombach et al. (2022) with classifier-free guidance (Ho and Salimans 2022,
eq. 6); from the same initial noise its images equal those of diffusers' StableDiffusionPipeline.
It differs in what it tells: telemetry at no extra model evaluation, and a batch may hold different
prompts, each with its own seed.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from audit import plugins
from audit.errors import AuditError
from audit.inputs import Inputs
from audit.plan import Request

from .base import Result, scheduler_class
from .checkpoints import check_folder, resolve, weight_hashes

MOST_PROMPTS = 2048
"""Text embeddings kept: about 0.5 GB of them at most, for the largest model."""


class StableDiffusion:
    """A Stable Diffusion folder (epsilon- or v-prediction), in reference mode: eager, fixed shape.

    Args:
        model: a built-in name, a Hub name, or a diffusers folder with unet, vae, text_encoder,
            tokenizer and scheduler.
        device: ``auto`` takes a GPU where there is one.
        dtype: ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        AuditError: a part is missing or damaged.
    """

    def __init__(self, model: str | Path, device: str = "auto", dtype: str = "float32") -> None:
        folder = resolve(str(model))
        parts = check_folder(folder)
        import diffusers.utils.logging
        import transformers.utils.logging
        from diffusers import StableDiffusionPipeline

        # Their bars would tear ours.
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.folder, self.device, self.dtype = folder, torch.device(device), getattr(torch, dtype)
        self.model_path: Path | None = folder
        self.inputs = Inputs()
        # The safety checker is a detector of its own: the loop never blacks an image out.
        without: dict[str, Any] = {}
        if "safety_checker" in parts:
            without = {"safety_checker": None, "requires_safety_checker": False}
        try:
            self._pipe = StableDiffusionPipeline.from_pretrained(
                folder, dtype=self.dtype, use_safetensors=True, **without
            ).to(self.device)
        except Exception as error:
            line = " ".join(str(error).split())[:300]
            raise AuditError(f"cannot load the model in {folder}: {line}") from error
        self._pipe.set_progress_bar_config(disable=True)
        self.unet, self.vae = self._pipe.unet.eval(), self._pipe.vae.eval()
        self.tokenizer, self.text_encoder = self._pipe.tokenizer, self._pipe.text_encoder.eval()
        if self.unet.config.in_channels != self.vae.config.latent_channels:
            raise AuditError(
                f"{folder} takes {self.unet.config.in_channels} input channels: it is no "
                "text-to-image model (inpainting, depth and upscaling are not audited yet)"
            )
        self._encoded: dict[str, tuple[torch.Tensor, int]] = {}

    @cached_property
    def sampler(self) -> Mapping[str, Any]:
        """50 steps at guidance 7.5, as the model cards sample, at the model's own size."""
        side = int(self.unet.config.sample_size * self._scale)
        return {"steps": 50, "guidance": 7.5, "height": side, "width": side}

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.backends.Backend`."""
        hashes = weight_hashes(self.folder)
        return {
            "backend": "stable-diffusion",
            "mode": "reference",
            "prediction_type": self._pipe.scheduler.config.prediction_type,
            "scheduler": type(self._pipe.scheduler).__name__,
            "scheduler_config": {
                # As text: some schedulers hold infinities, which JSON does not know.
                key: str(value)
                for key, value in self._pipe.scheduler.config.items()
                if not key.startswith("_")
            },
            "parameters": sum(p.numel() for p in self.unet.parameters()),
            "device": _device_name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "torch_threads": torch.get_num_threads(),
            "weights": hashes,
        }

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], batch_size: int) -> list[Result]:
        """See :class:`audit.backends.Backend`.

        Telemetry, a column each:
            text_noise_magnitude: mean over the steps of ‖ε_c − ε_∅‖₂ over the latent
                (Wen et al. 2024, eq. 4); null without guidance. A model that predicts v is taken
                at its own output, as in the published measurements on SD 2: √ᾱ_t times it is the
                difference in ε, which vanishes where a schedule ends without signal.
            text_noise_first: the same at the first step alone.
            text_noise_steps: the same for every step.
            latent_norm: ‖z₀‖₂ of the final latent.
            tokens_cut: how many of the prompt's tokens did not fit.
        """
        started = time.perf_counter()
        padded = [*requests, *[requests[-1]] * (batch_size - len(requests))]
        first = padded[0]
        scheduler = self._scheduler(first)
        guided = first.guidance > 1
        text, cut = self._encode([request.prompt for request in padded])
        if guided:
            empty, _ = self._encode([request.negative_prompt for request in padded])
            text = torch.cat([empty, text])
        generators = [torch.Generator().manual_seed(request.seed) for request in padded]
        latents = self._initial_noise(first, generators) * scheduler.init_noise_sigma
        # Stochastic samplers go on drawing from each image's own generator.
        takes = inspect.signature(scheduler.step).parameters
        drawn = {"generator": generators} if "generator" in takes else {}
        magnitudes = []
        for t in scheduler.timesteps:
            doubled = torch.cat([latents, latents]) if guided else latents
            noise = self.unet(
                scheduler.scale_model_input(doubled, t), t, encoder_hidden_states=text
            ).sample
            if guided:
                unconditional, conditional = noise.chunk(2)
                difference = conditional - unconditional
                noise = unconditional + first.guidance * difference
                magnitudes.append(difference.float().flatten(1).norm(dim=1))
            latents = scheduler.step(noise, t, latents, return_dict=False, **drawn)[0]
        images = self._decode(latents)
        seconds = (time.perf_counter() - started) / len(requests)
        # Shape (batch, steps); without guidance there is nothing to tell.
        steps = torch.stack(magnitudes, 1).tolist() if guided else [[]] * batch_size
        norms = latents.float().flatten(1).norm(dim=1).cpu()
        finite = torch.isfinite(norms)
        results = []
        for index, request in enumerate(requests):
            telemetry = {
                "text_noise_magnitude": sum(steps[index]) / len(steps[index]) if guided else None,
                "text_noise_first": steps[index][0] if guided else None,
                "text_noise_steps": steps[index] if guided else None,
                "latent_norm": float(norms[index]),
                "tokens_cut": cut[index],
                "seconds": seconds,
            }
            if finite[index]:
                image = _deliver(images[index], request)
                results.append(Result(image, telemetry=telemetry))
            else:
                results.append(Result(None, "failed", "the latent is not finite (NaN)", telemetry))
        return results

    @property
    def _scale(self) -> int:
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def _scheduler(self, request: Request) -> Any:
        import diffusers

        config = self._pipe.scheduler.config
        chosen = scheduler_class(request.scheduler)
        if chosen is None:
            scheduler = type(self._pipe.scheduler).from_config(config)
        else:
            scheduler = getattr(diffusers, chosen[0]).from_config(config, **chosen[1])
        scheduler.set_timesteps(request.steps, device=self.device)
        return scheduler

    def _encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, list[int]]:
        if len(self._encoded) > MOST_PROMPTS:
            self._encoded.clear()
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._encoded:
                length = self.tokenizer.model_max_length
                tokens = self.tokenizer(
                    prompt,
                    padding="max_length",
                    max_length=length,
                    truncation=True,
                    return_tensors="pt",
                )
                whole = len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids)
                mask = None
                if getattr(self.text_encoder.config, "use_attention_mask", False):
                    mask = tokens.attention_mask.to(self.device)
                hidden = self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)
                self._encoded[prompt] = (hidden[0][0], max(0, whole - length))
        found = [self._encoded[prompt] for prompt in prompts]
        return torch.stack([text for text, _ in found]), [cut for _, cut in found]

    def _initial_noise(
        self, request: Request, generators: Sequence[torch.Generator]
    ) -> torch.Tensor:
        shape = (
            self.unet.config.in_channels,
            request.height // self._scale,
            request.width // self._scale,
        )
        # CPU generators: the same seed gives the same noise on every device and in every batch.
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return noise.to(self.device, self.dtype)

    def _decode(self, latents: torch.Tensor) -> list[Image.Image]:
        decoded = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        processed = self._pipe.image_processor.postprocess(decoded, output_type="pil")
        return [image.convert("RGB") for image in processed]


def _deliver(image: Image.Image, request: Request) -> Image.Image:
    """Resize and mark an image as a product would before it hands it out."""
    if request.deliver_size:
        image = image.resize((request.deliver_size,) * 2, Image.Resampling.BICUBIC)
    if request.watermark:
        codec: Callable[[], Any] = plugins.load("watermarks", request.watermark)
        image = codec().embed(image)
    return image


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
