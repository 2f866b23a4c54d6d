"""The autoencoder's loss: what is left of a picture that is encoded and decoded, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from audit.copies import pixels, ssim
from audit.errors import AuditError
from audit.findings import Finding, judge
from audit.statistics import cluster_mean, rate

from .apart import Apart, picture_files, pictures, stamps
from .drawings import draw, write
from .findings import Asked, not_tested
from .settings import PROBE, Settings

HEIGHTS = (1.0, 0.12)
"""Of letters, as shares of the side; see :func:`probes.limits.drawings.write`."""
MOST_WORDS, MOST_SCENES, MOST_PICTURES = 6, 24, 200
TABLE = "autoencoder"
BATCH = 8
ROUNDING = 10 * float(np.log10(12 * 255**2))
"""PSNR in dB of rounding to 8 bits, whose error is even on ±1/510: 58.9."""
LEAST = 10
"""No verdict below this many pictures: each is measured without sampling noise."""
METRICS: Mapping[str, tuple[Asked, str]] = {
    "psnr": (
        Asked(ROUNDING, "rounding to 8 bits", 10.0, "below"),
        "PSNR in dB of pictures encoded and decoded to what they were",
    ),
    "ssim": (
        Asked(1.0, "the picture itself", 0.01, "below"),
        "SSIM of the luma of pictures encoded and decoded to what they were (Wang et al. 2004)",
    ),
    "clip_distance": (
        Asked(),
        "1 − cosine of the CLIP embeddings of pictures before and after; it stands in for LPIPS, "
        "whose weights come with no package",
    ),
}
SURVIVALS = {
    "writing_survival": ("text", "Signs that the reader reads exactly before and still does after"),
    "portrait_survival": ("faces", "Pictures with a face before in which one is found after"),
}


@dataclass(frozen=True)
class Shown:
    """A picture that goes through the autoencoder.

    Attributes:
        source: ``drawings``, ``writing`` or ``pictures``.
        says: the words that are written on it.
    """

    name: str
    source: str
    image: Image.Image
    says: str = ""


def findings(asked: Settings, apart: Apart) -> Iterator[Finding]:
    """PSNR, SSIM and a distance by CLIP, and whether text and faces are still there; our drawings,
    our writing and the user's pictures apart. An image that the model made is no test: it has come
    out of the decoder already."""
    names = [f"autoencoder_{name}" for name in (*METRICS, *SURVIVALS)]
    try:
        frame = measured(asked, apart)
    except AuditError as error:
        apart.tables[TABLE] = pd.DataFrame({"reason": [str(error)]})
        for name in names:
            yield not_tested(PROBE, name, str(error))
        return
    for name, (reference, said) in METRICS.items():
        for source, rows in frame.groupby("source", sort=False):
            yield _mean(f"autoencoder_{name}", str(source), rows, name, reference, said)
    for name, (detector, said) in SURVIVALS.items():
        before, after = frame[f"{detector}_before"], frame[f"{detector}_after"]
        held = frame[before.eq(True)]
        metric = f"autoencoder_{name}"
        if before.isna().all():
            reason = apart.why_not(detector) or "no picture of one was shown"
            yield not_tested(PROBE, metric, reason)
            continue
        if held.empty:
            yield not_tested(PROBE, metric, "in no picture is one found before")
            continue
        found = rate(after[held.index].astype(bool).to_numpy())
        yield Finding(
            PROBE,
            metric,
            {},
            found.estimate,
            found.ci,
            n=found.n,
            method="Wilson, pictures as independent",
            reference=1.0,
            reference_name="before",
            threshold=0.1,
            verdict=judge(found.ci, 1.0, 0.1, side="below", n=found.n, least=LEAST),
            note=f"{said} (of {int(before.notna().sum())} shown).",
            detail={"kept": found.events},
        )


def measured(asked: Settings, apart: Apart) -> pd.DataFrame:
    """The table ``autoencoder``: a row per picture, or the reason why there are none.

    A run whose model is not here is analysed by the table that it holds.

    Raises:
        AuditError: the model has no autoencoder here, or there are no pictures to show it.
    """
    if apart.study.model_path is None and not (kept := apart.kept(TABLE)).empty:
        if "reason" in kept:
            raise AuditError(str(kept["reason"].iloc[0]))
        apart.tables[TABLE] = kept
        return kept
    own = picture_files(asked.pictures)[:MOST_PICTURES] if asked.pictures else []
    scenes = [d for one in asked.contrasts for d in one.captions.values() if d][:MOST_SCENES]
    words = list(dict.fromkeys(word.says for word in asked.words))[:MOST_WORDS]
    if not asked.drawn:
        scenes, words = [], []
    if not (own or scenes or words):
        raise AuditError("the suite has nothing to draw and no pictures were given")
    folder = _folder(apart)
    made = apart.study.request("", 0)
    size = (made.width, made.height)
    readers = {name: apart.why_not(name) is None for name in ("clip", "text", "faces")}

    def compute() -> pd.DataFrame:
        shown = [
            Shown(f"scene {i}", "drawings", draw(d, i, min(size))) for i, d in enumerate(scenes)
        ]
        shown += [
            Shown(
                f"{text}, {'light' if dark else 'dark'}, {height:g}",
                "writing",
                write(text, min(size), height, dark=dark),
                text,
            )
            for text in words
            for height in HEIGHTS
            for dark in (False, True)
        ]
        shown += [Shown(path.name, "pictures", image) for path, image in pictures(own)]
        framed = [
            Image.fromarray((pixels(one.image, size) * 255).round().astype(np.uint8))
            for one in shown
        ]
        return _compared(shown, framed, _decoded(folder, framed, apart), readers, apart)

    depends = [_weights(folder), size, scenes, words, HEIGHTS, stamps(own), readers]
    return apart.measured(TABLE, [*depends, apart.clip_identity], compute)


def _compared(
    shown: Sequence[Shown],
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    readers: Mapping[str, bool],
    apart: Apart,
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for one, x, y in zip(shown, before, after, strict=True):
        a, b = pixels(x), pixels(y)
        error = float(((a - b) ** 2).mean())
        row: dict[str, Any] = {"picture": one.name, "source": one.source}
        row["psnr"] = 10 * float(np.log10(1 / error)) if error else 100.0
        row["ssim"] = ssim(a, b)
        row |= dict.fromkeys(("text_before", "text_after", "faces_before", "faces_after"))
        if one.says and readers["text"]:
            row["text_before"], row["text_after"] = (_reads(image, one.says) for image in (x, y))
        if one.source == "pictures" and readers["faces"]:
            row["faces_before"], row["faces_after"] = (_has_face(image) for image in (x, y))
        rows.append(row)
    frame = pd.DataFrame(rows)
    frame["clip_distance"] = np.nan
    if readers["clip"]:
        frame["clip_distance"] = 1 - (apart.embed(before) * apart.embed(after)).sum(axis=1)
    return frame


def _mean(
    metric: str, source: str, rows: pd.DataFrame, column: str, asked: Asked, said: str
) -> Finding:
    values = rows[column].dropna()
    if values.empty:
        return not_tested(PROBE, metric, "no instrument for it is here", {"pictures": source})
    estimate, ci = cluster_mean(values, rows.loc[values.index, "picture"])
    verdict = "inconclusive"
    if asked.reference is not None and asked.margin is not None:
        verdict = judge(
            ci, asked.reference, asked.margin, side=asked.side, n=len(values), least=LEAST
        )
    return Finding(
        PROBE,
        metric,
        {"pictures": source},
        estimate,
        ci,
        n=len(values),
        method="Student's t over pictures",
        reference=asked.reference,
        reference_name=asked.reference_name,
        threshold=asked.margin,
        verdict=verdict,  # type: ignore[arg-type]
        note=f"{said}.",
        detail={"lowest": float(values.min()), "highest": float(values.max())},
    )


def _reads(image: Image.Image, says: str) -> bool:
    from audit.detectors.text import best_character_error_rate, read_text

    return best_character_error_rate([line.text for line in read_text(image)], says) == 0


def _has_face(image: Image.Image) -> bool:
    from audit.detectors.faces import find_faces, largest

    return largest(find_faces(image)) is not None


def _folder(apart: Apart) -> Path:
    """The folder of the model's autoencoder.

    Raises:
        AuditError: the model is elsewhere, or its autoencoder is of another class.
    """
    path = apart.study.model_path
    if path is None:
        raise AuditError("the model is not here: its autoencoder cannot be asked")
    try:
        index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = {}
    if (index.get("vae") or [None, None])[1] != "AutoencoderKL":
        raise AuditError("the model has no autoencoder of the class AutoencoderKL")
    return path / "vae"


def _weights(folder: Path) -> dict[str, str]:
    from audit.backends.checkpoints import sha256_file

    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".bin")]
    return {path.name: sha256_file(path) for path in files}


def _decoded(folder: Path, images: Sequence[Image.Image], apart: Apart) -> list[Image.Image]:
    """The pictures from the means of their latent distributions, in single precision."""
    import torch
    from diffusers import AutoencoderKL

    from audit.backends.device import choose_device

    allowed = apart.study.spec.backend.get("allow_pickle") is True
    try:
        vae = AutoencoderKL.from_pretrained(folder, use_safetensors=None if allowed else True)
    except (OSError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise AuditError(f"the autoencoder in {folder} cannot be loaded: {line}") from error
    vae = vae.float().eval().to(choose_device(apart.study.spec.device))
    made: list[Image.Image] = []
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            stack = np.stack([pixels(image) for image in images[start : start + BATCH]])
            batch = torch.from_numpy(stack * 2 - 1).float().permute(0, 3, 1, 2).to(vae.device)
            decoded = vae.decode(vae.encode(batch).latent_dist.mode(), return_dict=False)[0]
            values = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
            made += [Image.fromarray((one * 255).round().astype(np.uint8)) for one in values]
    return made
