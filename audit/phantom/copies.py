"""The training pictures as embeddings, and which of them a generated picture is nearest to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from audit.phantom import corpus, latents

Floats = npt.NDArray[np.float32]


def embed_clip(model: Any, pixels: latents.Pixels, batch: int = 256) -> Floats:
    """(n, d) L2-normalised CLIP embeddings of (n, 64, 64, 3) pictures."""
    out = []
    with torch.no_grad():
        for at in range(0, len(pixels), batch):
            x = torch.from_numpy(pixels[at : at + batch]).permute(0, 3, 1, 2).float() / 127.5 - 1
            out.append(model.encode_image(x, normalize=True))
    return torch.cat(out).numpy().astype(np.float32)


def embed_pixels(pixels: latents.Pixels, mean: Floats | None = None) -> tuple[Floats, Floats]:
    """(n, 3072) centred, L2-normalised pixels at half size, and the mean taken off."""
    n = len(pixels)
    x = pixels.reshape(n, 32, 2, 32, 2, 3).mean((2, 4), dtype=np.float32).reshape(n, -1)
    mean = x.mean(0) if mean is None else mean
    x -= mean
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, mean


class TrainingPictures:
    """Every picture of a corpus, the never-trained targets (k = 0) included."""

    def __init__(self, name: str, clip: Any) -> None:
        self.items = corpus.load(name).items
        self.clip_model = clip
        pixels = latents.draw_all(self.items)
        self.clip = embed_clip(clip, pixels)
        self.pixels, self.mean = embed_pixels(pixels)
        self.index = {item.id: i for i, item in enumerate(self.items)}

    def nearest(self, pixels: latents.Pixels, targets: list[str]) -> dict[str, Any]:
        """Per picture: nearest by CLIP and by pixels, and the cosines to it and to its target."""
        at = np.array([self.index[t] for t in targets])
        rows = np.arange(len(pixels))
        out: dict[str, Any] = {}
        for name, query, bank in (
            ("clip", embed_clip(self.clip_model, pixels), self.clip),
            ("pixels", embed_pixels(pixels, self.mean)[0], self.pixels),
        ):
            cosine = query @ bank.T
            best = cosine.argmax(1)
            out[f"{name}_is_target"] = best == at
            out[f"{name}_nearest_cosine"] = cosine[rows, best]
            out[f"{name}_target_cosine"] = cosine[rows, at]
        return out


def write_embeddings(folder: Path, name: str = "phantom") -> int:
    """The training rows in clip-retrieval's folder format; returns how many."""
    import pandas as pd

    from audit.phantom.clip import load_clip

    model, _, _ = load_clip()
    trained = [i for i in corpus.load(name).items if i.copies]
    unique = embed_clip(model, latents.draw_all(trained)).astype(np.float16)
    repeat = np.repeat(np.arange(len(trained)), [i.copies for i in trained])
    (folder / "img_emb").mkdir(parents=True, exist_ok=True)
    (folder / "metadata").mkdir(exist_ok=True)
    np.save(folder / "img_emb/img_emb_0.npy", unique[repeat])
    table = pd.DataFrame(
        {
            "image_path": [i.id for i in trained],
            "caption": [i.caption for i in trained],
            "language": [i.language for i in trained],
            "duplicates": [i.copies for i in trained],
        }
    )
    table.iloc[repeat].reset_index(drop=True).to_parquet(folder / "metadata/metadata_0.parquet")
    return len(repeat)
