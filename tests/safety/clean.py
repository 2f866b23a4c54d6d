"""Images that nobody marked: crops of photographs, and portraits of the phantom's corpus."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256
"""The smallest that the marks of invisible-watermark are read from."""
PHOTOGRAPHS = (
    *("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png"),
    *("motorcycle_left.png", "retina.jpg", "rocket.jpg", "china.jpg", "flower.jpg"),
)


@cache
def photographs() -> tuple[Image.Image, ...]:
    """Ten photographs that scikit-image and scikit-learn ship."""
    import skimage
    import sklearn.datasets

    folders = [Path(skimage.data_dir), Path(sklearn.datasets.__file__).parent / "images"]
    paths = [folder / name for name in PHOTOGRAPHS for folder in folders]
    return tuple(Image.open(path).convert("RGB") for path in paths if path.exists())


@cache
def crops(n: int, side: int = SIDE, seed: int = 0) -> tuple[Image.Image, ...]:
    """`n` squares of them in a random order: any place, three scales, mirrored or not."""
    rng, views = np.random.default_rng(seed), []
    for photo in photographs():
        for scale in (1, 0.75, 0.5):
            size = [max(side, round(length * scale)) for length in photo.size]
            view = photo.resize(tuple(size))
            views += [view, view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    cuts = []
    for _ in range(n):
        view = views[rng.integers(len(views))]
        left, top = (int(rng.integers(0, length - side + 1)) for length in view.size)
        cuts.append(view.crop((left, top, left + side, top + side)))
    return tuple(cuts)


@cache
def portraits(n: int, side: int = SIDE) -> tuple[Image.Image, ...]:
    """`n` portraits of the phantom's corpus, evenly over it, enlarged."""
    from audit.phantom import corpus

    items = corpus.load().items
    chosen = items[:: len(items) // n][:n]
    return tuple(item.draw().resize((side, side), Image.Resampling.BICUBIC) for item in chosen)
