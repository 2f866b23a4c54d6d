"""The latent space: a principal component analysis of 4x4x3 patches, partly whitened.

A linear code fixed beforehand lets the UNet train at once, and gives the autoencoder's two halves
a target each; trained end to end on few steps they gave wrong colours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from audit.phantom.corpus import Item

PATCH, CHANNELS = 4, 8
WHITENING = 0.5
SCALING_FACTOR = 0.18215
"""Stable Diffusion's own: the autoencoder's raw latents are the unit ones divided by it."""

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


def draw_all(items: list[Item] | tuple[Item, ...]) -> Pixels:
    """(n, 64, 64, 3) pixels of the items."""
    return np.stack([np.asarray(item.draw()) for item in items])


def patches(pixels: Pixels) -> Floats:
    """(n, 64, 64, 3) pixels to (n, 16, 16, 48) patches in [-1, 1]."""
    n, size = len(pixels), pixels.shape[1] // PATCH
    x = pixels.astype(np.float32) / 127.5 - 1
    x = x.reshape(n, size, PATCH, size, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, size, size, PATCH * PATCH * 3)


class PatchCode:
    """Encodes patches to CHANNELS unit-variance latents, and linearly back."""

    def __init__(self, mean: Floats, down: Floats, up: Floats) -> None:
        self.mean, self.down, self.up = mean, down, up

    @classmethod
    def fit(cls, pixels: Pixels) -> PatchCode:
        """Components of (n, 64, 64, 3) pixels, each divided by its deviation ** WHITENING."""
        x = patches(pixels).reshape(-1, PATCH * PATCH * 3)
        mean = x.mean(0)
        values, vectors = np.linalg.eigh(np.cov((x - mean).T))
        order = np.argsort(values)[::-1][:CHANNELS]
        deviation = np.sqrt(values[order])
        gain = deviation**-WHITENING
        # One gain for all makes the latents' variance one on average.
        gain /= np.sqrt(np.mean((deviation * gain) ** 2))
        basis = vectors[:, order]
        return cls(
            mean.astype(np.float32),
            (basis * gain).astype(np.float32),
            (basis / gain).T.astype(np.float32),
        )

    def encode(self, pixels: Pixels) -> Floats:
        """(n, 64, 64, 3) pixels to (n, 8, 16, 16) latents."""
        code = (patches(pixels) - self.mean) @ self.down
        return np.asarray(code.transpose(0, 3, 1, 2), dtype=np.float32)

    def decode(self, latents: Floats) -> Pixels:
        """The linear reconstruction; the decoder proper is sharper."""
        x = latents.transpose(0, 2, 3, 1) @ self.up + self.mean
        n, size = x.shape[:2]
        x = x.reshape(n, size, size, PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(n, size * PATCH, size * PATCH, 3)
        return ((x + 1) * 127.5).clip(0, 255).astype(np.uint8)

    def save(self, path: Path) -> None:
        np.savez(path, mean=self.mean, down=self.down, up=self.up)

    @classmethod
    def load(cls, path: Path) -> PatchCode:
        stored = np.load(path, allow_pickle=False)
        return cls(stored["mean"], stored["down"], stored["up"])
