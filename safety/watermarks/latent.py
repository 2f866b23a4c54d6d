"""Marks that a model's initial noise carries: their interface, and reading them from images.

The p-values of these marks are exact for a key that was drawn without regard to the image: they
average over keys, whatever the image is. A fixed key on images of one kind can fire more or less
often than they say, because inverted latents are no white noise; what it does is measured on clean
images (:mod:`safety.watermarks.calibration`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from audit.errors import AuditError

from .subjects import Scores, Subject

if TYPE_CHECKING:
    import torch

    from audit.backends.stable_diffusion import StableDiffusion
    from audit.plan import Request

Floats = NDArray[np.float64]
Shape = tuple[int, int, int]

PUBLIC = sha256(b"t2i-audit: a key that everybody knows").digest()
"""The key of the marks that are made without arguments."""
STEPS = 20
"""Of the inversion. On the phantom 5, 10, 20 and 50 recover about as much of the noise."""
LARGEST = 300.0
"""−log₁₀ of the smallest p-value that a double holds with all its digits, about."""


class LatentMark(Protocol):
    """A mark in the initial noise.

    Attributes:
        name: unique among the marks in use.
        key: SHA-256 of what only the owner knows, by which a calibration knows the mark.
        refusal: why no verdict can rest on this mark, or ``None``.
    """

    name: str
    key: str
    refusal: str | None

    def initial_noise(self, shape: Shape, generator: torch.Generator) -> torch.Tensor:
        """Marked noise of unit variance, shape (channels, height, width), float32 on the CPU.

        Raises:
            AuditError: a latent of this shape cannot hold the mark.
        """

    def statistic(self, latents: torch.Tensor) -> Floats:
        """−log₁₀ of the p-value of inverted latents, (images, channels, height, width) → (images,).

        Raises:
            AuditError: the mark is refused, or a latent of this shape cannot hold it.
        """

    def nominal_p(self, statistic: ArrayLike) -> Floats:
        """The p-value of a statistic, of any shape."""


def surprise(p: ArrayLike) -> Floats:
    """−log₁₀ p, at most `LARGEST`.

    >>> surprise([1.0, 0.01, 0.0]).tolist()
    [0.0, 2.0, 300.0]
    """
    logs: Floats = -np.log10(np.maximum(np.asarray(p, float), 10.0**-LARGEST))
    return np.abs(logs)  # −0


def p_of(statistic: ArrayLike) -> Floats:
    """The p-value of what `surprise` gave."""
    p: Floats = 10.0 ** -np.asarray(statistic, float)
    return p


def read(
    mark: LatentMark,
    backend: StableDiffusion,
    images: Sequence[Image.Image],
    steps: int = STEPS,
    batch_size: int = 16,
    size: tuple[int, int] | None = None,
) -> Scores:
    """Statistic and nominal p-value of images, by DDIM inversion with the model that made them.

    Args:
        steps: of the inversion.
        size: height and width that the images were made at; the model's own without.

    Raises:
        AuditError: the mark is refused, or the model cannot be inverted.
    """
    if mark.refusal:
        raise AuditError(f"the mark '{mark.name}' is refused: {mark.refusal}")
    from audit.backends.inversion import invert

    statistic = mark.statistic(invert(backend, images, steps, batch_size, None, size))
    return Scores(statistic, mark.nominal_p(statistic))


def subject_of(
    mark: LatentMark,
    backend: StableDiffusion,
    requests: Sequence[Request],
    steps: int = STEPS,
    batch_size: int = 16,
) -> Subject:
    """The images of requests with the mark and without it, of the same seeds, made and read by the
    model; images of one prompt are a cluster.

    Args:
        requests: of one size, at least one.

    Raises:
        AuditError: a request cannot carry a mark in its noise, or gave no image.
    """
    if len({(request.height, request.width) for request in requests}) != 1:
        raise AuditError(f"mark '{mark.name}': give requests of one size, at least one")
    kept = backend.marks
    # The mark may be any: another of its name may be installed.
    backend.marks = {**kept, mark.name: mark}
    try:
        marked = _made(backend, requests, mark.name, batch_size)
    finally:
        backend.marks = kept
    clean = _made(backend, requests, "", batch_size)
    first = requests[0]

    def score(images: Sequence[Image.Image]) -> Scores:
        return read(mark, backend, images, steps, batch_size, (first.height, first.width))

    prompts = [request.prompt for request in requests]
    return Subject(mark.name, mark.key, marked, clean, prompts, score)


def _made(
    backend: StableDiffusion, requests: Sequence[Request], watermark: str, batch_size: int
) -> list[Image.Image]:
    images: list[Image.Image] = []
    wanted = [dataclasses.replace(request, watermark=watermark) for request in requests]
    for start in range(0, len(wanted), batch_size):
        for result in backend.generate(wanted[start : start + batch_size], batch_size):
            if result.image is None:
                raise AuditError(f"watermark '{watermark}': an image failed: {result.error}")
            images.append(result.image)
    return images
