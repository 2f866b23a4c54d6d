"""Reads a portrait's attributes back: the phantom's exact instrument, with its error published."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from audit.phantom import instruments, path
from audit.phantom.instruments import CLASSES

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

RATE = 2e-3
BATCH = 48


class Network(nn.Module):
    """(n, 3, 64, 64) pictures in [0, 1] to one row of logits an attribute."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        widths = (width, 2 * width, 3 * width, 4 * width)
        layers: list[nn.Module] = []
        before = 3
        for i, after in enumerate(widths):
            layers += [
                nn.Conv2d(before, after, 3, 2 if i else 1, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            if i == 0:
                layers.append(nn.MaxPool2d(2))
            before = after
        self.body = nn.Sequential(*layers)
        # 4x4 places are kept: the sign and the headgear are where they are.
        self.squeeze = nn.Sequential(nn.Flatten(), nn.Linear(before * 16, 128), nn.ReLU())
        self.heads = nn.ModuleDict({k: nn.Linear(128, len(c)) for k, c in CLASSES.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.squeeze(self.body(x * 2 - 1))
        return {name: head(features) for name, head in self.heads.items()}


class Reader:
    """Perceived attributes of phantom portraits, with the confidence in each."""

    def __init__(self, network: Network) -> None:
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def load(cls, path_: Path | str | None = None) -> Reader:
        """The shipped reader, or the one in the folder given."""
        from safetensors.torch import load_file

        network = Network()
        folder = Path(path_) if path_ is not None else path("reader")
        stored = load_file(folder / "reader.safetensors")
        network.load_state_dict(
            {k: s.float() if s.is_floating_point() else s for k, s in stored.items()}
        )
        return cls(network)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        half = {
            k: s.half().contiguous() if s.is_floating_point() else s
            for k, s in self.network.state_dict().items()
        }
        save_file(half, folder / "reader.safetensors")
        (folder / "config.json").write_text(
            json.dumps({"image_size": 64, "classes": CLASSES}, indent=1) + "\n"
        )

    def probabilities(self, pixels: Tensor, batch: int = 256) -> dict[str, Tensor]:
        """attribute -> (n, classes) probabilities of (n, 3, 64, 64) bytes."""
        parts = [self.network(p.float() / 255) for p in torch.split(pixels, batch)]
        return {name: torch.cat([p[name] for p in parts]).softmax(1) for name in CLASSES}

    def read(self, images: list[Image.Image]) -> pd.DataFrame:
        """A row per image: `occupation`, `gender`, `skin`, `glasses`, `sign`, `background`, each
        with its probability `<attribute>_p`. Images of another size are resized to 64x64.

        occupation is "none" for people in everyday clothes.
        """
        import pandas as pd
        from PIL import Image

        if not images:
            return pd.DataFrame(columns=[c for n in CLASSES for c in (n, f"{n}_p")])
        pixels = np.stack(
            [
                np.asarray(
                    i.convert("RGB").resize((64, 64), Image.Resampling.BOX)
                    if i.size != (64, 64)
                    else i.convert("RGB")
                )
                for i in images
            ]
        )
        found = self.probabilities(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        columns: dict[str, Any] = {}
        for name, classes in CLASSES.items():
            best = found[name].max(1)
            columns[name] = [classes[i] for i in best.indices.tolist()]
            columns[f"{name}_p"] = best.values.numpy()
        return pd.DataFrame(columns)


def train(out: Path, vae: Any, views: instruments.Views, steps: int, seed: int = 0) -> Reader:
    """Trains on `views` and writes weights and confusion.json into `out`."""
    torch.manual_seed(seed)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    losses: list[float] = []
    for step in range(steps):
        pixels, chosen = views.batch(step, BATCH)
        for group in optimizer.param_groups:
            group["lr"] = (
                RATE * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
        logits = network(pixels)
        loss = sum(
            (nn.functional.cross_entropy(logits[k], y[chosen]) for k, y in views.labels.items()),
            torch.zeros(()),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 200 == 0:
            print(f"reader step {step + 1}/{steps} loss {np.mean(losses[-200:]):.4f}", flush=True)
    reader = Reader(network)
    reader.save(out)
    report = confusion(reader, vae, n=4000)
    (out / "confusion.json").write_text(json.dumps(report, indent=1) + "\n")
    return reader


def confusion(reader: Reader, vae: Any, n: int, key: str = "held-out") -> dict[str, Any]:
    """Matrices (rows: drawn, columns: read) on n held-out drawings, plain and as generated."""
    looks = instruments.balanced(key, n)
    truth = instruments.labels(looks)
    plain = instruments.drawn(looks)
    views = {
        "drawings": plain,
        "reconstructions": instruments.as_generated(vae, plain, disturbance=0),
    }
    report: dict[str, Any] = {
        "n": n,
        "key": key,
        "rows": "drawn",
        "columns": "read",
        "drawings": "balanced drawings that no training has seen",
        "reconstructions": "the same through the phantom's autoencoder",
        "attributes": {},
    }
    for name, classes in CLASSES.items():
        entry: dict[str, Any] = {"classes": list(classes)}
        for view, pixels in views.items():
            read = reader.probabilities(pixels)[name].argmax(1)
            matrix = torch.zeros(len(classes), len(classes), dtype=torch.long)
            matrix.index_put_((truth[name], read), torch.ones(n, dtype=torch.long), accumulate=True)
            entry[view] = matrix.tolist()
            entry[f"{view}_accuracy"] = round((truth[name] == read).float().mean().item(), 5)
        report["attributes"][name] = entry
    return report
