"""Attacks that draw an image anew with a model: they leave the picture and take the mark.

After Zhao et al. (2024), "Invisible image watermarks are provably removable using generative AI",
and the regenerations of WAVES (An et al. 2024): encode, add noise, and let the model reconstruct.
The model need not be the one that made the image.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from PIL import Image

from audit.errors import AuditError

from .attacks import Attack

if TYPE_CHECKING:
    from audit.backends.stable_diffusion import StableDiffusion

NAMES = ("vae", "img2img")
NOISE = (0.0, 0.1, 0.2, 0.4)
STRENGTHS = (0.1, 0.2, 0.3, 0.5)
STEPS = 20
"""Of the whole noising; a strength s runs the last ⌊20 s⌋ of them."""


def regeneration(backend: StableDiffusion, steps: int = STEPS) -> tuple[Attack, Attack]:
    """The attacks ``vae`` and ``img2img`` with a model; each image is drawn at the model's own size
    and brought back to its own.

    Args:
        steps: of the denoising that img2img takes a part of.
    """
    return (
        Attack(
            "vae",
            NOISE,
            partial(vae_round_trip, backend),
            "deviation of the noise on the latent, which is of unit variance",
        ),
        Attack(
            "img2img",
            STRENGTHS,
            partial(image_to_image, backend, steps=steps),
            f"share of the noising, {steps} steps",
        ),
    )


def vae_round_trip(
    backend: StableDiffusion, image: Image.Image, strength: float, seed: int
) -> Image.Image:
    """The image through the autoencoder, with noise of deviation `strength` on the latent."""
    import torch

    from audit.backends.inversion import encode

    if not 0 <= strength < float("inf"):
        raise AuditError(f"the noise of the attack vae is 0 or more, not {strength}")
    with torch.inference_mode():
        latents = encode(backend, [image])
        drawn = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
        latents = latents + strength * drawn.to(latents.device)
        images, finite = backend.decode(latents.to(backend.dtype))
    if not finite[0]:
        raise AuditError(f"attack vae at {strength:g}: the decoded image is not finite")
    return _sized(images[0], image)


def image_to_image(
    backend: StableDiffusion, image: Image.Image, strength: float, seed: int, steps: int = STEPS
) -> Image.Image:
    """The image noised and denoised again without a prompt (SDEdit, Meng et al. 2022)."""
    from audit.inputs import Inputs
    from audit.plan import Request

    height, width = (int(backend.sampler[side]) for side in ("height", "width"))
    kept = backend.inputs
    with TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        image.convert("RGB").save(path)
        backend.inputs = Inputs()
        try:
            request = Request(
                "",
                seed=seed,
                steps=steps,
                guidance=1.0,
                init_image=backend.inputs.add(path),
                strength=strength,
                height=height,
                width=width,
            )
            (result,) = backend.generate([request], 1)
        finally:
            backend.inputs = kept
    if result.image is None:
        raise AuditError(f"attack img2img at {strength:g}: {result.error}")
    return _sized(result.image, image)


def _sized(image: Image.Image, like: Image.Image) -> Image.Image:
    if image.size == like.size:
        return image
    return image.resize(like.size, Image.Resampling.BICUBIC)
