"""What clean portraits say of marks in the noise, kept in a file: inverting 2,000 takes minutes.

``python -m tests.safety.latent_null`` makes it again, as after a training of the phantom.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safety.watermarks.gaussian_shading import GaussianShading
from safety.watermarks.tree_ring import TreeRing

if TYPE_CHECKING:
    from PIL import Image

    from audit.backends.stable_diffusion import StableDiffusion

PATH = Path(__file__).with_name("latent_clean_statistics.npz")
IMAGES, STEPS, BATCH = 2000, 5, 16
MARKS: dict[str, Any] = {
    "tree-ring": TreeRing("ring"),
    "tree-ring-rand": TreeRing("rand"),
    "gaussian-shading": GaussianShading(),
}


def kept() -> dict[str, np.ndarray]:
    """Mark → its statistics, shape (IMAGES,); ``model``: the hashes of the weights that read."""
    with np.load(PATH) as file:
        return {name: file[name] for name in file.files}


def portraits() -> list[Image.Image]:
    """Of the phantom's corpus at its own size, evenly over it, in a random order."""
    from audit.phantom import corpus

    items = corpus.load().items
    chosen = np.random.default_rng(0).permutation(items[:: len(items) // IMAGES][:IMAGES])
    return [item.draw() for item in chosen]


def opened() -> StableDiffusion:
    """The phantom that ships."""
    from audit.backends.stable_diffusion import StableDiffusion

    return StableDiffusion("phantom", "cpu", mode="fast")


def model(backend: StableDiffusion) -> str:
    """What its latents and its inversion depend on."""
    return repr(sorted(dict(backend.describe()["weights"]).items()))


def read(backend: StableDiffusion, images: list[Image.Image]) -> dict[str, np.ndarray]:
    """The statistics of images."""
    from audit.backends.inversion import invert

    latents = invert(backend, images, STEPS, BATCH)
    return {name: mark.statistic(latents) for name, mark in MARKS.items()}


def main() -> None:
    import torch

    torch.set_num_threads(1)
    backend, images, found = opened(), portraits(), []
    for start in range(0, IMAGES, 10 * BATCH):
        found.append(read(backend, images[start : start + 10 * BATCH]))
        print(f"{min(start + 10 * BATCH, IMAGES)} of {IMAGES}", flush=True)
    together = {
        name: np.concatenate([part[name] for part in found]).astype(np.float32) for name in MARKS
    }
    np.savez_compressed(PATH, model=np.array(model(backend)), **together)


if __name__ == "__main__":
    main()
