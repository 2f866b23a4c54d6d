"""What the phantom's own instruments (reader, CLIP, safety checker) are trained on.

Drawings in which every attribute is drawn independently and evenly, so that no instrument learns
the skews it has to measure; each also as the autoencoder gives it back from disturbed latents,
which is what generated pictures look like.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audit.phantom import latents
from audit.phantom import vocabulary as v
from audit.phantom.checkpoints import save
from audit.phantom.corpus import Item
from audit.phantom.drawing import Look, draw

OCCUPATIONS: tuple[str, ...] = (*v.OCCUPATIONS, "none")
CLASSES: dict[str, tuple[Any, ...]] = {
    "occupation": OCCUPATIONS,
    "gender": v.GENDERS,
    "skin": v.SKINS,
    "glasses": (False, True),
    "sign": v.SIGNS,
    "background": v.BACKGROUNDS,
}


def balanced(key: str, n: int) -> list[Look]:
    """n looks with independent, even attributes; another key gives other looks."""
    rng = random.Random(key)
    return [
        Look(
            key=f"{key}-{i}",
            occupation=rng.choice(OCCUPATIONS),
            gender=rng.choice(v.GENDERS),
            tone=rng.choice(v.TONES[rng.choice(v.SKINS)]),
            glasses=rng.random() < 0.5,
            sign=rng.choice(v.SIGNS),
            background=rng.choice(v.BACKGROUNDS),
        )
        for i in range(n)
    ]


def labels(looks: Sequence[Look | Item]) -> dict[str, Tensor]:
    """attribute -> (n,) class indices in CLASSES."""
    return {
        name: torch.tensor(
            [
                classes.index(v.skin_band(look.tone) if name == "skin" else getattr(look, name))
                for look in looks
            ]
        )
        for name, classes in CLASSES.items()
    }


def drawn(looks: list[Look]) -> Tensor:
    """(n, 3, 64, 64) bytes."""
    pixels = np.stack([np.asarray(draw(look)) for look in looks])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def as_generated(
    vae: Any, pixels: Tensor, disturbance: float = 0.3, seed: int = 0, batch: int = 64
) -> Tensor:
    """(n, 3, 64, 64) bytes through the autoencoder, latents disturbed by up to `disturbance`."""
    rng = torch.Generator().manual_seed(seed)
    out = []
    for part in torch.split(pixels, batch):
        latent = vae.encode(part.float() / 127.5 - 1).latent_dist.mode() * latents.SCALING_FACTOR
        amount = disturbance * torch.rand(len(part), 1, 1, 1, generator=rng)
        latent = latent + amount * torch.randn(latent.shape, generator=rng)
        decoded = vae.decode(latent / latents.SCALING_FACTOR).sample
        out.append(((decoded + 1) * 127.5).round().clamp(0, 255).byte())
    return torch.cat(out)


def augment(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """(n, 3, 64, 64) bytes to floats in [0, 1], shifted, blurred, noisy, lighter or darker."""
    x = pixels.float() / 255
    n = len(x)
    dx, dy = torch.randint(-2, 3, (2,), generator=rng).tolist()
    x = nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")[
        :, :, 2 + dy : 66 + dy, 2 + dx : 66 + dx
    ]
    blurred = nn.functional.avg_pool2d(nn.functional.pad(x, (1,) * 4, mode="replicate"), 3, 1)
    mix = torch.rand(n, 1, 1, 1, generator=rng) * (torch.rand(n, 1, 1, 1, generator=rng) < 0.4)
    x = torch.lerp(x, blurred, mix)
    noise = 0.06 * torch.rand(n, 1, 1, 1, generator=rng)
    x = x + noise * torch.randn(x.shape, generator=rng)
    x = x * (1 + 0.1 * (torch.rand(n, 1, 1, 1, generator=rng) - 0.5))
    return x.clamp(0, 1)


class Views:
    """n balanced drawings, each plain and as generated, dealt in seeded batches."""

    def __init__(self, looks: list[Look], views: Tensor) -> None:
        self.looks = looks
        self.labels = labels(looks)
        self.views = views

    @classmethod
    def make(cls, store: Path, vae: Any, n: int = 12000) -> Views:
        """Draws them, or takes the (2, n, 3, 64, 64) bytes stored before."""
        looks = balanced("instruments", n)
        if store.exists():
            return cls(looks, torch.load(store, weights_only=True))
        plain = drawn(looks)
        views = torch.stack([plain, as_generated(vae, plain)])
        save(views, store)
        return cls(looks, views)

    def batch(self, step: int, size: int, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(size, 3, 64, 64) augmented pictures in [0, 1], and the look (of `among`) each shows."""
        rng = torch.Generator().manual_seed(step)
        chosen = torch.randint(0, len(self.looks), (size,), generator=rng)
        if among is not None:
            chosen = among[chosen % len(among)]
        view = torch.randint(0, 2, (size,), generator=rng)
        return augment(self.views[view, chosen], rng), chosen
