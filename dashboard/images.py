"""Routes for images and the card: by id, never by path; what a filter flagged leaves blurred."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageFilter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit.errors import AuditError
from audit.store import MAX_PIXELS, Run

from . import reveals, runs

HEADERS = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
MAX_BYTES = 256 << 20
"""Of a file that is sent; the largest image that is stored needs less."""
CARD_FILES = {
    "README.md": "text/markdown",
    "card.html": "text/html",
    "card.json": "application/json",
    "cyclonedx.json": "application/json",
    "eval_results.yaml": "application/yaml",
}
# The card is a document from the run: it runs no script and loads nothing from anywhere.
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"


def routes() -> list[Route]:
    """The routes that the dashboard adds to Streamlit's own."""
    return [
        Route("/image/{run:int}/{digest}", _image),
        Route("/thumb/{run:int}/{digest}", _thumb),
        Route("/document/{run:int}/{name}", _document),
    ]


class Known:
    """The images of a run that may be shown, and whether a filter flagged them."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def get(self, digest: str | None) -> bool | None:
        """Whether an image is flagged; ``None`` where the run has no such image."""
        with self.run.connect() as database:
            found = database.execute(
                "SELECT flagged FROM idx.digests WHERE image = ?", [digest]
            ).fetchone()
        return None if found is None else bool(found[0])


def known_images(run: Run) -> Known:
    """What the run says of its images now."""
    return Known(run)


def _image(request: Request) -> Response:
    return _serve(request, thumbnail=False)


def _thumb(request: Request) -> Response:
    return _serve(request, thumbnail=True)


def _serve(request: Request, *, thumbnail: bool) -> Response:
    run, digest = runs.at(request.path_params["run"]), request.path_params["digest"]
    if run is None:
        return _missing()
    try:
        flagged = known_images(run).get(digest)
        if flagged is None:
            return _missing()
        path = runs.inside(run, run.image_path(digest, thumbnail=thumbnail))
        if path is None or path.stat().st_size > MAX_BYTES:
            return _missing()
        hidden = flagged and not reveals.granted(request, run, digest)
        headers = HEADERS | {
            "ETag": f'"{digest[:32]}{"-blurred" if hidden else ""}"',
            "Cache-Control": "private, max-age=300",
        }
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        data = blurred(path) if hidden else path.read_bytes()
    except AuditError:
        return _missing()
    return Response(data, media_type="image/webp", headers=headers)


@lru_cache(maxsize=256)
def blurred(path: Path) -> bytes:
    """The image made unrecognisable: shrunk to 5 × 5 pixels and blurred before it is sent.

    Raises:
        AuditError: it is damaged or too large.
    """
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise AuditError(f"{path} has {image.width}×{image.height} pixels: refused")
            scale = 256 / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            small = image.convert("RGB").resize((5, 5), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AuditError(f"image {path} is missing or damaged: {error}") from error
    hidden = small.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(20))
    buffer = io.BytesIO()
    hidden.save(buffer, "WEBP", quality=60)
    return buffer.getvalue()


def _document(request: Request) -> Response:
    run, name = runs.at(request.path_params["run"]), request.path_params["name"]
    path = runs.inside(run, run.path / "card" / name) if run and name in CARD_FILES else None
    if path is None or path.stat().st_size > MAX_BYTES:
        return _missing()
    headers = HEADERS | {"Content-Security-Policy": SANDBOX, "Cache-Control": "private, no-cache"}
    if request.query_params.get("download") == "1":
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return Response(path.read_bytes(), media_type=CARD_FILES[name], headers=headers)


def _missing() -> Response:
    return Response("there is no such image or document", 404, HEADERS, "text/plain")
