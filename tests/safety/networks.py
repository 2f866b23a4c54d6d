"""Networks in the form of a user's files, with random weights: what they read has no meaning."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safety.watermarks.codecs import Codec
from safety.watermarks.presets import codec
from tests.safety.clean import crops

PATH, IMAGES = Path(__file__).with_name("network_clean_bits.npz"), 2000
BITS = {"stable-signature": 48, "watermark-anything": 32, "trustmark": 100}
KEYS = {"stable-signature": "1101" * 12, "watermark-anything": "01101000" * 4}


class Edges(torch.nn.Module):
    """Random edge detectors on a grid; their sums over the picture, or a map of them."""

    def __init__(self, planes: int, pooled: bool) -> None:
        super().__init__()
        kernels = torch.randn(planes, 3, 9, 9, generator=torch.Generator().manual_seed(planes))
        self.kernels = torch.nn.Buffer(kernels - kernels.mean((1, 2, 3), keepdim=True))
        self.pooled = pooled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.tanh(torch.nn.functional.conv2d(x, self.kernels, stride=16))
        return found.mean((2, 3)) if self.pooled else found


@cache
def network(method: str) -> Codec:
    """A mark that such a network reads; TrustMark's without a message."""
    inside = method == "watermark-anything"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ts"
        torch.jit.script(Edges(BITS[method] + inside, not inside)).save(path)
        settings: dict[str, Any] = {"method": method, "model": str(path), "allow_code": True}
        return codec(settings | ({"bits": KEYS[method]} if method in KEYS else {}))


def kept() -> dict[str, np.ndarray]:
    """Method → what its network reads from ``crops(IMAGES)``, shape (IMAGES, 1, n)."""
    with np.load(PATH) as file:
        return {
            name: np.unpackbits(file[name], axis=1, count=n).astype(bool)[:, None]
            for name, n in BITS.items()
        }


def main() -> None:
    """``python -m tests.safety.networks``: a test run has no minutes for thousands of images."""
    images, found = crops(IMAGES), {}
    for method in BITS:
        parts = [network(method).decode(images[at : at + 50]) for at in range(0, IMAGES, 50)]
        found[method] = np.packbits(np.concatenate(parts)[:, 0], axis=1)
    np.savez_compressed(PATH, **found)


if __name__ == "__main__":
    main()
