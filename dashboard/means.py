"""What the images of a prompt have in common: their mean picture, their mean colour.

A model that always draws the same person gives a sharp mean; one that varies gives a blur. The mean
is made of the thumbnails of at most :data:`MOST` images, when somebody looks at it; where a face
detector found a face, of the faces, laid over each other. A flagged image is never part of it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit.errors import AuditError
from audit.store import MAX_PIXELS, Run

from . import images, runs
from .table import Table

MOST = 64
"""Images that a mean is made of: the first seeds."""
SIDE = 128
AROUND = 1.5
"""A face is cut out with so many times its size, so that its hair is seen."""
BOX = ("x", "y", "width", "height")
"""Columns of the detector `faces`: where the largest face is, in parts of the image."""

Box = tuple[float, float, float, float]
Pixels = NDArray[np.uint8]


def routes() -> list[Route]:
    """The routes that the dashboard adds to those of :mod:`.images`."""
    return [Route("/mean/{run:int}/{probe}", _mean)]


def address(index: int, probe: str, tags: Mapping[str, str]) -> str:
    """Of the picture of the images that `tags`, column → value, select; not escaped."""
    return f"/mean/{index}/{probe}?{urlencode(tags)}"


def selected(table: Table, tags: Mapping[str, str]) -> list[tuple[str, Box | None]]:
    """The images of a mean, each with the box of its face where there is one."""
    columns = [f"faces_{name}" for name in BOX]
    boxed = set(columns) <= table.columns.keys()
    conditions = [table.shown_as(name, value) for name, value in tags.items()]
    conditions.append(table.equals("outcome", "ok"))
    rows = table.page(
        ["image", *(columns if boxed else [])],
        conditions,
        sort="seed" if "seed" in table.columns else None,
        descending=False,
        limit=MOST,
    )
    found: list[tuple[str, Box | None]] = []
    for row in rows:
        box = [row.get(name) for name in columns] if boxed else []
        known = bool(box) and all(isinstance(v, float) and 0 <= v <= 1 for v in box)
        if row["image"] and not row["flagged"]:
            found.append((row["image"], tuple(box) if known else None))  # type: ignore[arg-type]
    return found


def mean(pictures: Sequence[Image.Image]) -> Image.Image:
    """The mean of pictures, of :data:`SIDE` pixels a side.

    >>> dark, light = (Image.new("RGB", (9, 9), (v, v, v)) for v in (10, 30))
    >>> mean([dark, light]).getpixel((0, 0))
    (20, 20, 20)
    """
    total = np.zeros((SIDE, SIDE, 3))
    for picture in pictures:
        small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        total += np.asarray(small, dtype=float)
    return Image.fromarray((total / max(1, len(pictures))).round().astype(np.uint8))


def face(picture: Image.Image, box: Box) -> Image.Image:
    """The square around a face; what lies outside of the picture is black."""
    wide, high = picture.size
    x, y, w, h = box[0] * wide, box[1] * high, box[2] * wide, box[3] * high
    half = max(1.0, AROUND * max(w, h) / 2)
    middle = x + w / 2, y + h / 2
    edges = [middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half]
    return picture.crop(tuple(round(edge) for edge in edges))  # type: ignore[arg-type]


def drawn(picture: Image.Image, colour: tuple[int, int, int], count: int) -> str:
    """The mean picture above the mean colour, which is named, as SVG."""
    name = "#{:02x}{:02x}{:02x}".format(*colour)
    # Of black and white the one with more contrast (WCAG 2, relative luminance).
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    ink = "#000" if light > 0.179 else "#fff"
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE + 26}">'
        f"<title>mean of {count} images; mean colour {name}</title>"
        f'<clipPath id="round"><rect width="{SIDE}" height="{SIDE}" rx="5"/></clipPath>'
        f'<image width="{SIDE}" height="{SIDE}" clip-path="url(#round)" '
        f'href="data:image/webp;base64,{data}"/>'
        f'<rect y="{SIDE + 4}" width="{SIDE}" height="22" rx="4" fill="{name}"/>'
        f'<text x="{SIDE / 2:g}" y="{SIDE + 19}" text-anchor="middle" font-family="sans-serif" '
        f'font-size="12" fill="{ink}">{name}</text></svg>'
    )


def _mean(request: Request) -> Response:
    run = runs.at(request.path_params["run"])
    if run is None:
        return _missing()
    try:
        with run.connect() as database:
            table = Table(database, request.path_params["probe"])
            tags = {k: v for k, v in request.query_params.items() if k in table.tags}
            chosen = selected(table, tags)
        # The route knows by the run's own list whether an image is flagged, whoever asked for it.
        flagged = images.known_images(run)
        chosen = [(image, box) for image, box in chosen if flagged.get(image) is False]
        if not chosen:
            return _missing()
        made = _made(run, tuple(chosen))
    except AuditError:
        return _missing()
    headers = images.HEADERS | {
        "Cache-Control": "private, max-age=300",
        "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'",
    }
    return Response(made, media_type="image/svg+xml", headers=headers)


@lru_cache(maxsize=512)
def _made(run: Run, chosen: tuple[tuple[str, Box | None], ...]) -> str:
    """The mean picture; the mean colour is that of the whole images."""
    boxed = sum(box is not None for _, box in chosen) * 2 >= len(chosen)
    pictures, whole = [], []
    for digest, box in chosen:
        picture = _thumbnail(run, digest)
        if picture is None:
            continue
        whole.append(np.asarray(picture, dtype=float).mean(axis=(0, 1)))
        if not boxed or box is not None:
            pictures.append(face(picture, box) if boxed and box is not None else picture)
    if not whole:
        raise AuditError("no image of these is there")
    red, green, blue = (round(float(v)) for v in np.mean(whole, axis=0))
    return drawn(mean(pictures), (red, green, blue), len(whole))


def _thumbnail(run: Run, digest: str) -> Image.Image | None:
    path = runs.inside(run, run.image_path(digest, thumbnail=True))
    if path is None:
        return None
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            return image.convert("RGB") if image.width * image.height <= MAX_PIXELS else None
    except (OSError, SyntaxError):
        return None


def _missing() -> Response:
    return Response("there is no such image", 404, images.HEADERS, "text/plain")
