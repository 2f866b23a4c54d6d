"""Embed images into clip-retrieval's folder format, so that a training set can be searched."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from audit.atomic import replace
from audit.backends.pictures import decode
from audit.detectors.clip import open_clip_model
from audit.errors import AuditError

from .card import CARD, read_card, write_card
from .images import Sample, Source, sources

ROWS = 100_000
OURS = ("image_path", "caption", "sha256", "width", "height")


class Encoder:
    """Images and texts to unit vectors.

    Args:
        model: ``phantom``, a folder with ``open_clip_config.json``, or an open_clip architecture.
        pretrained: an architecture's weights: open_clip's tag, or a file.
        device: ``auto``, ``cpu``, ``cuda`` …
    """

    def __init__(self, model: str, pretrained: str | None = None, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = device
        clip = open_clip_model(model, pretrained, device)
        self.network, self.preprocess = clip.network, clip.preprocess
        self.tokenize, self.identity = clip.tokenize, clip.identity

    @torch.inference_mode()
    def images(self, pixels: list[torch.Tensor]) -> NDArray[np.float32]:
        """Unit embeddings of preprocessed images, shape (n, d)."""
        batch = torch.stack(pixels).to(self.device)
        embedded: torch.Tensor = self.network.encode_image(batch, normalize=True)
        return np.asarray(embedded.float().cpu().numpy())

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit embeddings of texts, shape (n, d)."""
        tokens = self.tokenize(texts).to(self.device)
        embedded: torch.Tensor = self.network.encode_text(tokens, normalize=True)
        return np.asarray(embedded.float().cpu().numpy())


def embed(
    place: Path,
    out: Path,
    encoder: Encoder,
    *,
    dataset: str = "",
    texts: bool = False,
    batch_size: int = 256,
    shard_rows: int = ROWS,
    progress: bool = False,
) -> dict[str, Any]:
    """Embed a folder of images or WebDataset tars; the same call goes on after a kill.

    A tar becomes a shard, or `shard_rows` images of a folder. ``metadata`` gets the columns
    image_path, caption, sha256 (of the image's file), width, height, and the fields of the
    ``.json`` sidecars, renamed ``original_…`` where they are called like one of these. Images that
    cannot be read have no row; ``unreadable/unreadable_N.csv`` lists them with the reason.

    Args:
        dataset: the name that ``index.yaml`` declares; default: the name of `place`.
        texts: embed the captions too; a row without a caption becomes NaN, which no search finds.

    Returns:
        rows, unreadable, without_caption, shards.

    Raises:
        AuditError: there is nothing to embed, a tar is damaged, or `out` holds other embeddings.
        Incomplete: it cannot be written.
    """
    shards = sources(place, shard_rows)
    _declare(out, place, encoder, dataset, texts, shards)
    width = max(4, len(str(len(shards) - 1)))
    counts = {"rows": 0, "unreadable": 0, "without_caption": 0}
    with (
        tqdm(
            desc="embed", unit="image", file=sys.stderr, mininterval=0.5, disable=not progress
        ) as bar,
        ThreadPoolExecutor() as pool,
    ):
        for number, shard in enumerate(shards):
            name = f"{number:0{width}d}"
            state = out / f".done/{name}.json"
            if state.is_file():
                done = json.loads(state.read_text())
            else:
                done = _shard(shard, out, name, encoder, texts, batch_size, pool, bar)
                replace(state, json.dumps(done).encode())
            counts = {key: counts[key] + done[key] for key in counts}
    return {**counts, "shards": len(shards)}


def embed_queries(place: Path, encoder: Encoder) -> tuple[list[str], NDArray[np.float32]]:
    """Names and unit embeddings of one image or a folder of images.

    Raises:
        AuditError: one cannot be read.
    """
    if place.is_file() and place.suffix != ".tar":
        samples = [Sample(place.name, place.read_bytes())]
    else:
        samples = [sample for source in sources(place, ROWS) for sample in source]
    names, embedded = [], []
    for sample in samples:
        row, prepared = _prepare(sample, encoder)
        if isinstance(prepared, str):
            raise AuditError(f"{place}: the query {sample.path} is {prepared}")
        names.append(row["image_path"])
        embedded.append(encoder.images([prepared]))
    return names, np.concatenate(embedded)


def _declare(
    out: Path, place: Path, encoder: Encoder, dataset: str, texts: bool, shards: list[Source]
) -> None:
    """Write the card, or check that the one there is of the same embeddings."""
    listing = hashlib.sha256(json.dumps([s.identity for s in shards]).encode()).hexdigest()
    card = {
        "dataset": dataset or place.resolve().name,
        "format": "clip-retrieval",
        "embedded_with": encoder.identity,
        "texts": texts,
        "source_listing_sha256": listing,
    }
    there = read_card(out)
    if there and there != card:
        differing = [name for name in card if there.get(name) != card[name]]
        raise AuditError(
            f"{out / CARD} is of other embeddings ({', '.join(differing) or 'other fields'} "
            "differ): choose another --out"
        )
    if not there and out.is_dir() and any(out.iterdir()):
        raise AuditError(f"{out} is not empty and has no {CARD}: choose another --out")
    write_card(out, card)


def _shard(
    source: Source,
    out: Path,
    name: str,
    encoder: Encoder,
    texts: bool,
    batch_size: int,
    pool: ThreadPoolExecutor,
    bar: Any,
) -> dict[str, int]:
    """Embed one shard and write its files; the numbers of its rows."""
    rows: list[dict[str, Any]] = []
    unreadable: list[tuple[str, str]] = []
    images: list[NDArray[np.float16]] = []
    captions: list[NDArray[np.float16]] = []
    pixels: list[torch.Tensor] = []

    def flush() -> None:
        if pixels:
            images.append(encoder.images(pixels).astype(np.float16))
            if texts:
                captions.append(_captions(encoder, rows[-len(pixels) :]))
        pixels.clear()

    for row, prepared in _prepared(source, encoder, pool, 2 * batch_size):
        bar.update()
        if isinstance(prepared, str):
            unreadable.append((row["image_path"], prepared))
            continue
        rows.append(row)
        pixels.append(prepared)
        if len(pixels) == batch_size:
            flush()
    flush()
    # A shard of which nothing can be read keeps its files: the numbers of the others say their tar.
    dimension = images[0].shape[1] if images else encoder.images([_blank(encoder)]).shape[1]
    empty = [np.zeros((0, dimension), np.float16)]
    _save(out / f"img_emb/img_emb_{name}.npy", np.concatenate(images or empty))
    if texts:
        _save(out / f"text_emb/text_emb_{name}.npy", np.concatenate(captions or empty))
    if unreadable:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("image_path", "reason"), *unreadable])
        replace(out / f"unreadable/unreadable_{name}.csv", table.getvalue().encode())
    frame = _frame(rows)
    data = io.BytesIO()
    frame.to_parquet(data, index=False, row_group_size=10_000)
    replace(out / f"metadata/metadata_{name}.parquet", data.getvalue())
    missing = int(frame.caption.isna().sum())
    return {"rows": len(rows), "unreadable": len(unreadable), "without_caption": missing}


def _prepared(
    source: Source, encoder: Encoder, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[dict[str, Any], torch.Tensor | str]]:
    """Rows of metadata with the preprocessed image, or why there is none; in order."""
    waiting: deque[Future[tuple[dict[str, Any], torch.Tensor | str]]] = deque()
    for sample in source:
        waiting.append(pool.submit(_prepare, sample, encoder))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _prepare(sample: Sample, encoder: Encoder) -> tuple[dict[str, Any], torch.Tensor | str]:
    row: dict[str, Any] = {"image_path": sample.path, "caption": sample.caption}
    if sample.problem:
        return row, sample.problem
    try:
        image = decode(sample.data)
    except ValueError as error:
        return row, str(error)
    row |= {
        "sha256": hashlib.sha256(sample.data).hexdigest(),
        "width": image.width,
        "height": image.height,
    }
    for field, value in sample.fields.items():
        row[f"original_{field}" if field in OURS else field] = value
    return row, encoder.preprocess(image)


def _captions(encoder: Encoder, rows: list[dict[str, Any]]) -> NDArray[np.float16]:
    embedded = encoder.texts([row["caption"] or "" for row in rows])
    embedded[[row["caption"] is None for row in rows]] = np.nan
    return embedded.astype(np.float16)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a table; a field of several types becomes text."""
    frame = pd.DataFrame(rows, columns=None if rows else list(OURS))
    for name in frame.columns:
        kinds = {type(row[name]) for row in rows if row.get(name) is not None}
        if len(kinds) > 1 and not kinds <= {int, float}:
            frame[name] = [None if row.get(name) is None else str(row[name]) for row in rows]
    return frame


def _blank(encoder: Encoder) -> torch.Tensor:
    from PIL import Image

    pixels: torch.Tensor = encoder.preprocess(Image.new("RGB", (64, 64)))
    return pixels


def _save(path: Path, array: NDArray[np.float16]) -> None:
    data = io.BytesIO()
    np.save(data, array)
    replace(path, data.getvalue())
