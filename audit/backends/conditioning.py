"""Where the denoising starts and what it is shown beside the text, for each variant.

Every random number of an image is drawn from the image's own CPU generator, in the order in which
the variant's diffusers pipeline draws: so the images equal the pipeline's, and do not depend on
their neighbours in the batch. Pictures are brought to the model as that pipeline does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from audit.errors import AuditError
from audit.inputs import Inputs
from audit.plan import Request

from .noise_marks import NoiseMark
from .variants import DEPTH, INPAINTING, UNCLIP, UPSCALER, Variant


@dataclass(frozen=True)
class Start:
    """What a batch starts from.

    Attributes:
        latents: (batch, channels, height, width), at the noise level of the first timestep.
        channels: (batch, further channels, height, width), given to the UNet beside the latent at
            every step: mask and masked picture, depth, or the low-resolution picture.
        class_labels: a row for every row of the text states, the unconditional ones first.
    """

    latents: torch.Tensor
    channels: torch.Tensor | None = None
    class_labels: torch.Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Requests of one shape that are made together.

    Attributes:
        requests: one for each image.
        inputs: the pictures that they name.
        scheduler: with its timesteps set.
        timesteps: those that will be run.
        generators: one for each image, fresh.
        guided: whether an unconditional half is evaluated too.
        marks: for each image what sets its initial noise in place of its generator, or ``None``.
    """

    requests: Sequence[Request]
    inputs: Inputs
    scheduler: Any
    timesteps: torch.Tensor
    generators: Sequence[torch.Generator]
    guided: bool
    marks: Sequence[NoiseMark | None]


class Conditioner:
    """Prepares the batches of one model.

    Args:
        variant: what the model is.
        pipe: its diffusers pipeline, for its parts.
        device, dtype: of the UNet.
    """

    def __init__(
        self, variant: Variant, pipe: Any, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.variant, self.pipe, self.device, self.dtype = variant, pipe, device, dtype
        self.scale = int(2 ** (len(pipe.vae.config.block_out_channels) - 1))

    @property
    def unit(self) -> int:
        """Height and width in pixels are multiples of it."""
        # The upscaler's picture, `scale` times smaller, is itself cut to multiples of the scale.
        return self.scale**2 if self.variant is UPSCALER else self.scale

    @property
    def most_noise(self) -> int:
        """The highest noise level of the picture that the model starts from."""
        if self.variant is UPSCALER:
            return int(self.pipe.config.max_noise_level)
        if self.variant is UNCLIP:
            return int(self.pipe.image_noising_scheduler.config.num_train_timesteps) - 1
        return 0

    def strength(self, request: Request) -> float | None:
        """How much of the noising is gone through; ``None`` where the start is pure noise."""
        from_picture = "strength" in self.variant.takes and bool(request.init_image)
        return request.strength if from_picture or self.variant is INPAINTING else None

    def pure_noise(self, request: Request) -> bool:
        """Whether the request starts from noise alone, and not from a noised picture."""
        whole = self.variant is INPAINTING and request.strength == 1
        return whole or (self.variant is not DEPTH and self.strength(request) is None)

    def start(self, batch: Batch) -> Start:
        """What the batch starts from.

        Raises:
            AuditError: a picture, map or embedding cannot be used.
        """
        begin: Callable[[Batch], Start] = {
            INPAINTING.name: self._inpainting,
            DEPTH.name: self._depth,
            UPSCALER.name: self._upscaler,
            UNCLIP.name: self._unclip,
        }.get(self.variant.name, self._text_to_image)
        return begin(batch)

    def check_inputs(self, request: Request, inputs: Inputs) -> None:
        """Open what a request names.

        Raises:
            AuditError: it is no picture, or an array of the wrong shape.
        """
        if request.init_image:
            if self.variant is UNCLIP and _is_array(inputs, request.init_image):
                self._given_embedding(request.init_image, inputs)
            else:
                inputs.image(request.init_image)
        if request.mask:
            inputs.mask(request.mask)
        if request.depth:
            self._given_depth(request.depth, inputs)

    # ---- the variants ----------------------------------------------------------------------

    def _text_to_image(self, batch: Batch) -> Start:
        image_to_image = bool(batch.requests[0].init_image)
        return Start(self._noised_pictures(batch) if image_to_image else self._pure_noise(batch))

    def _inpainting(self, batch: Batch) -> Start:
        first = batch.requests[0]
        whole = first.strength == 1
        latents = self._pure_noise(batch) if whole else self._noised_pictures(batch)
        size = {"height": first.height, "width": first.width}
        masks, masked = {}, {}
        for request in batch.requests:
            key = request.init_image + request.mask
            if key in masks:
                continue
            if request.init_image:
                picture = self._picture(request, batch.inputs)
                mask = self.pipe.mask_processor.preprocess(batch.inputs.mask(request.mask), **size)
            else:
                # All of it is painted anew; mid grey is 0 in a picture from -1 to 1.
                picture = torch.zeros(1, 3, first.height, first.width)
                mask = torch.ones(1, 1, first.height, first.width)
            masked[key] = picture * (mask < 0.5)
            masks[key] = functional.interpolate(mask, size=self._latent_shape(first)[1:])
        keys = [request.init_image + request.mask for request in batch.requests]
        mask = torch.cat([masks[key] for key in keys]).to(self.device, self.dtype)
        return Start(latents, torch.cat([mask, self._encode(masked, keys, batch.generators)], 1))

    def _depth(self, batch: Batch) -> Start:
        first = batch.requests[0]
        maps: dict[str, torch.Tensor] = {}
        for request in batch.requests:
            key = request.depth or request.init_image
            if key not in maps:
                depth = (
                    self._given_depth(request.depth, batch.inputs)
                    if request.depth
                    else self._predicted_depth(request, batch.inputs)
                )
                depth = functional.interpolate(
                    depth.to(self.device, self.dtype)[None, None],
                    size=self._latent_shape(first)[1:],
                    mode="bicubic",
                    align_corners=False,
                )
                low, high = depth.min(), depth.max()
                maps[key] = 2.0 * (depth - low) / (high - low) - 1.0
        depth = torch.cat([maps[request.depth or request.init_image] for request in batch.requests])
        return Start(self._noised_pictures(batch), depth)

    def _upscaler(self, batch: Batch) -> Start:
        first = batch.requests[0]
        size = {"height": first.height // self.scale, "width": first.width // self.scale}
        opened = {r.init_image: batch.inputs.image(r.init_image) for r in batch.requests}
        low = torch.cat(
            [
                self.pipe.image_processor.preprocess(opened[r.init_image], **size)
                for r in batch.requests
            ]
        ).to(self.device, self.dtype)
        level = torch.tensor([first.noise_level], dtype=torch.long, device=self.device)
        noise = self._noise(tuple(low.shape[1:]), batch.generators)
        low = self.pipe.low_res_scheduler.add_noise(low, noise, level)
        latents = self._pure_noise(batch)
        return Start(latents, low, level.repeat(len(batch.requests) * (2 if batch.guided else 1)))

    def _unclip(self, batch: Batch) -> Start:
        from diffusers.models.embeddings import get_timestep_embedding

        first = batch.requests[0]
        opened = {}
        for request in batch.requests:
            if request.init_image not in opened:
                opened[request.init_image] = self._embedding(request.init_image, batch.inputs)
        embeds = torch.cat([opened[request.init_image] for request in batch.requests])
        level = torch.full((len(batch.requests),), first.noise_level, device=self.device)
        noise = self._noise((embeds.shape[1],), batch.generators)
        normalizer = self.pipe.image_normalizer
        embeds = self.pipe.image_noising_scheduler.add_noise(
            normalizer.scale(embeds), timesteps=level, noise=noise
        )
        embeds = normalizer.unscale(embeds)
        told = get_timestep_embedding(
            level, embeds.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0
        )
        labels = torch.cat([embeds, told.to(embeds.dtype)], 1)
        if batch.guided:
            labels = torch.cat([torch.zeros_like(labels), labels])
        return Start(self._pure_noise(batch), class_labels=labels)

    # ---- pieces ----------------------------------------------------------------------------

    def _latent_shape(self, request: Request) -> tuple[int, int, int]:
        channels = int(self.pipe.vae.config.latent_channels)
        return channels, request.height // self.scale, request.width // self.scale

    def _noise(self, shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> torch.Tensor:
        # CPU generators: the same seed gives the same noise on every device and in every batch.
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return noise.to(self.device, self.dtype)

    def _pure_noise(self, batch: Batch) -> torch.Tensor:
        shape = self._latent_shape(batch.requests[0])
        noise = [
            mark.initial_noise(shape, generator)
            if mark
            else torch.randn(shape, generator=generator)
            for mark, generator in zip(batch.marks, batch.generators, strict=True)
        ]
        stacked = torch.stack(noise).to(self.device, self.dtype)
        latents: torch.Tensor = stacked * batch.scheduler.init_noise_sigma
        return latents

    def _picture(self, request: Request, inputs: Inputs) -> torch.Tensor:
        """(1, 3, height, width) from -1 to 1."""
        picture: torch.Tensor = self.pipe.image_processor.preprocess(
            inputs.image(request.init_image), height=request.height, width=request.width
        )
        return picture

    def _encode(
        self,
        pictures: dict[str, torch.Tensor],
        keys: Sequence[str],
        generators: Sequence[torch.Generator],
    ) -> torch.Tensor:
        """A sample of each picture's latent distribution; each picture is encoded once, alone."""
        distributions = {
            key: self.pipe.vae.encode(picture.to(self.device, self.dtype)).latent_dist
            for key, picture in pictures.items()
        }
        sampled = [
            distributions[key].sample(generator)
            for key, generator in zip(keys, generators, strict=True)
        ]
        latents: torch.Tensor = self.pipe.vae.config.scaling_factor * torch.cat(sampled)
        return latents

    def _noised_pictures(self, batch: Batch) -> torch.Tensor:
        keys = [request.init_image for request in batch.requests]
        pictures = {}
        for request in batch.requests:
            if request.init_image not in pictures:
                pictures[request.init_image] = self._picture(request, batch.inputs)
        latents = self._encode(pictures, keys, batch.generators)
        noise = self._noise(tuple(latents.shape[1:]), batch.generators)
        noised: torch.Tensor = batch.scheduler.add_noise(
            latents, noise, batch.timesteps[:1].repeat(len(batch.requests))
        )
        return noised

    def _given_depth(self, digest: str, inputs: Inputs) -> torch.Tensor:
        depth = inputs.array(digest)
        if depth.ndim != 2:
            raise AuditError(
                f"the depth map {inputs.files[digest]} has the shape {depth.shape}; "
                "it must be (height, width)"
            )
        if depth.min() == depth.max():
            raise AuditError(f"the depth map {inputs.files[digest]} is the same everywhere")
        return torch.from_numpy(depth)

    def _predicted_depth(self, request: Request, inputs: Inputs) -> torch.Tensor:
        image = self.pipe.image_processor.resize(
            inputs.image(request.init_image), request.height, request.width
        )
        pixels = self.pipe.feature_extractor(images=image, return_tensors="pt").pixel_values
        # The batch norms of the depth model do not run in half precision.
        half = self.dtype != torch.float32
        context: AbstractContextManager[Any] = (
            torch.autocast(self.device.type, dtype=self.dtype) if half else nullcontext()
        )
        with context:
            predicted = self.pipe.depth_estimator(pixels.to(self.device, self.dtype))
        depth: torch.Tensor = predicted.predicted_depth[0]
        return depth

    def _embedding(self, digest: str, inputs: Inputs) -> torch.Tensor:
        """(1, dimension): a CLIP image embedding, given or made."""
        if _is_array(inputs, digest):
            return self._given_embedding(digest, inputs)
        image = inputs.image(digest)
        pixels = self.pipe.feature_extractor(images=image, return_tensors="pt").pixel_values
        embeds: torch.Tensor = self.pipe.image_encoder(
            pixels.to(self.device, self.dtype)
        ).image_embeds
        return embeds

    def _given_embedding(self, digest: str, inputs: Inputs) -> torch.Tensor:
        embedding = inputs.array(digest)
        wanted = int(self.pipe.image_encoder.config.projection_dim)
        if embedding.size != wanted:
            raise AuditError(
                f"the embedding {inputs.files[digest]} has the shape {embedding.shape}; "
                f"this model's has {wanted} numbers"
            )
        return torch.from_numpy(embedding.reshape(1, wanted)).to(self.device, self.dtype)


def _is_array(inputs: Inputs, digest: str) -> bool:
    return digest in inputs.files and inputs.files[digest].suffix == ".npy"
