"""The difference of two images pixel by pixel, and what the images of a prompt have in common.

Both leave the server as pictures. A picture made of a flagged image would show it, so these routes
hold to the rules of :mod:`.images`: ids of the run alone, and nothing of a flagged image before it
is revealed.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit.errors import AuditError
from audit.store import Run

from . import images, reveals, runs

GAINS = (1, 4, 16)
"""How many times larger than it is a difference may be shown."""
HIDDEN = (128, 128, 128)
"""The colour of a picture that would show a flagged image."""

Pixels = NDArray[np.float32]


def routes() -> list[Route]:
    """The routes that the dashboard adds to those of :mod:`.images`."""
    return [Route("/difference/{run:int}/{digest}/{other:int}/{against}", _difference)]


def absolute(image: Image.Image, against: Image.Image) -> Pixels:
    """|image − against| for every pixel and channel, 0 … 1, shape (H, W, 3).

    An image of another size is brought to the size of the first: what it shows is compared then,
    not its resolution.

    >>> white, grey = Image.new("RGB", (4, 4), "white"), Image.new("RGB", (2, 2), (128, 128, 128))
    >>> round(float(absolute(white, grey).mean()), 3)
    0.498
    """
    if against.size != image.size:
        against = against.resize(image.size, Image.Resampling.BICUBIC)
    one, other = (np.asarray(i.convert("RGB"), dtype=np.float32) for i in (image, against))
    found: Pixels = np.abs(one - other) / np.float32(255)
    return found


def mean_difference(run: Run, digest: str, other: Run, against: str) -> float:
    """The mean of :func:`absolute` over pixels and channels.

    Raises:
        AuditError: one of the images is missing, damaged or too large.
    """
    return _mean(run, digest, other, against)


@lru_cache(maxsize=8192)
def _mean(run: Run, digest: str, other: Run, against: str) -> float:
    return float(absolute(_opened(run, digest), _opened(other, against)).mean())


def _opened(run: Run, digest: str) -> Image.Image:
    path = runs.inside(run, run.image_path(digest))
    if path is None or path.stat().st_size > images.MAX_BYTES:
        raise AuditError(f"image {digest} is missing")
    return run.load_image(digest)


def _difference(request: Request) -> Response:
    asked = request.path_params
    sides = [(asked["run"], asked["digest"]), (asked["other"], asked["against"])]
    gain = request.query_params.get("gain", "1")
    if gain not in map(str, GAINS):
        return _missing()
    found = []
    hidden = False
    try:
        for place, digest in sides:
            run = runs.at(place)
            flagged = None if run is None else images.known_images(run).get(digest)
            if run is None or flagged is None:
                return _missing()
            hidden |= flagged and not reveals.granted(request, run, digest)
            found.append((run, digest))
        if hidden:
            return _picture(Image.new("RGB", (64, 64), HIDDEN), "hidden")
        (run, digest), (other, against) = found
        shown = absolute(_opened(run, digest), _opened(other, against)) * int(gain)
        tag = f"{digest[:24]}-{against[:24]}-{gain}"
        return _picture(Image.fromarray((shown.clip(0, 1) * 255).round().astype(np.uint8)), tag)
    except AuditError:
        return _missing()


def _missing() -> Response:
    return Response("there is no such image", 404, images.HEADERS, "text/plain")


def _picture(image: Image.Image, tag: str) -> Response:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, method=0, quality=0)
    headers = images.HEADERS | {"ETag": f'"{tag}"', "Cache-Control": "private, max-age=300"}
    return Response(buffer.getvalue(), media_type="image/webp", headers=headers)
