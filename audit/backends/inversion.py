"""DDIM inversion: from an image back to the noise that its model may have started from.

DDIM is the Euler method of an ordinary differential equation (Song et al. 2021, eq. 14); the same
equation solved the other way leads from an image to noise (section 5.4). Nothing is known of how an
image was made, so the prompt is empty and there is no guidance. What that and the autoencoder lose
is measured by whoever uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from audit.errors import AuditError

from .denoising import Denoising
from .samplers import make_scheduler
from .variants import TEXT_TO_IMAGE

if TYPE_CHECKING:
    from .stable_diffusion import StableDiffusion


class DDIMInversion:
    """A sampler for :class:`audit.backends.denoising.Denoising` that goes from image to noise.

    With a and s the square roots of ᾱ and 1 − ᾱ at the noise level that the latent has,
    x̂₀ and ε̂ follow from the prediction (Salimans and Ho 2022, appendix D), and the next level has
    x' = a' x̂₀ + s' ε̂ (Song et al. 2021, eq. 12 with σ = 0). The network is told the level it goes
    to, where DDIM asked it on the way back.

    Args:
        own: the scheduler that the model ships.
        steps: as many as DDIM would make.
        dtype: of the UNet; the latents themselves are kept in single precision.
    """

    def __init__(self, own: Any, steps: int, dtype: torch.dtype) -> None:
        forward = make_scheduler(own, "ddim")
        try:
            forward.set_timesteps(steps)
        except ValueError as error:
            line = " ".join(str(error).split())[:200]
            raise AuditError(f"an inversion of {steps} steps is not possible: {line}") from error
        self.config, self.dtype = forward.config, dtype
        self.alphas_cumprod: torch.Tensor = forward.alphas_cumprod
        self.timesteps: torch.Tensor = forward.timesteps.flip(0)
        self._level: torch.Tensor = forward.final_alpha_cumprod

    def scale_model_input(self, latents: torch.Tensor, timestep: Any) -> torch.Tensor:
        """The latents as the UNet takes them."""
        return latents.to(self.dtype)

    def step(
        self, prediction: torch.Tensor, timestep: Any, latents: torch.Tensor, return_dict: bool
    ) -> tuple[torch.Tensor]:
        """The latents at the noise level of `timestep`; the steps must come in their order."""
        signal, noise = _roots(self._level)
        prediction = prediction.to(latents.dtype)
        if self.config.prediction_type == "v_prediction":
            clean = signal * latents - noise * prediction
            epsilon = signal * prediction + noise * latents
        else:
            clean = (latents - noise * prediction) / signal
            epsilon = prediction
        self._level = self.alphas_cumprod[int(timestep)]
        signal, noise = _roots(self._level)
        return (signal * clean + noise * epsilon,)


def _roots(level: torch.Tensor) -> tuple[float, float]:
    """√ᾱ and √(1 − ᾱ)."""
    return float(level) ** 0.5, (1 - float(level)) ** 0.5


def encode(
    backend: StableDiffusion,
    images: Sequence[Image.Image],
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The means of the images' latent distributions, scaled as the latents are.

    Args:
        size: height and width that the images were made at, the model's own without; images of
            another size are resized to it, as what came between may have done the other way.

    Returns:
        shape (images, channels, height, width), float32, on the backend's device.
    """
    height, width = size or (int(backend.sampler["height"]), int(backend.sampler["width"]))
    pixels = backend._pipe.image_processor.preprocess(
        [image.convert("RGB") for image in images], height=height, width=width
    )
    means = backend.vae.encode(pixels.to(backend.device, backend.dtype)).latent_dist.mode()
    latents: torch.Tensor = means.float() * backend.vae.config.scaling_factor
    return latents


def inversion(
    backend: StableDiffusion, latents: torch.Tensor, steps: int, prompts: Sequence[str]
) -> Denoising:
    """The inversion of one batch of latents; iterating makes its steps.

    Raises:
        AuditError: the model is shown more than text and latent, or has not so many steps.
    """
    if backend.variant is not TEXT_TO_IMAGE:
        raise AuditError(
            f"a model of this kind ({backend.variant.name}) cannot be inverted: what it was shown "
            "beside the text is not known"
        )
    if steps < 1:
        raise AuditError(f"an inversion of {steps} steps is not possible: it takes 1 or more")
    sampler = DDIMInversion(backend._pipe.scheduler, steps, backend.dtype)
    encoded = backend._text(list(prompts))
    text = torch.stack([prompt.states for prompt in encoded])
    return Denoising(
        prompts=encoded,
        scheduler=sampler,
        timesteps=sampler.timesteps.to(backend.device),
        latents=latents.to(backend.device),
        channels=None,
        guidance=1.0,
        both=False,
        predict=backend._denoiser(text, False, None),
        drawn={},
    )


@torch.inference_mode()
def invert(
    backend: StableDiffusion,
    images: Sequence[Image.Image],
    steps: int = 50,
    batch_size: int = 16,
    prompts: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The noise that DDIM inversion finds behind images.

    Args:
        steps: of the inversion. It need not be the number that the images were made with.
        prompts: one for each image where they are known; empty ones without.
        size: see :func:`encode`.

    Returns:
        shape (images, channels, height, width), float32, on the CPU.

    Raises:
        AuditError: the model cannot be inverted.
    """
    if not images:
        raise AuditError("no image to invert")
    if prompts is not None and len(prompts) != len(images):
        raise AuditError(f"{len(images)} images but {len(prompts)} prompts")
    known = list(zip(images, prompts or [""] * len(images), strict=True))
    most = min(batch_size, len(images))
    found = []
    for start in range(0, len(images), most):
        chunk = known[start : start + most]
        # One shape for all batches, as when images are made.
        padded = [*chunk, *[chunk[-1]] * (most - len(chunk))]
        latents = encode(backend, [image for image, _ in padded], size)
        run = inversion(backend, latents, steps, [prompt for _, prompt in padded])
        found.append(_last(run)[: len(chunk)].cpu())
    backend._pipe.maybe_free_model_hooks()
    return torch.cat(found)


def _last(run: Denoising) -> torch.Tensor:
    latents = run.latents
    for step in run:
        latents = step.latents
    return latents
