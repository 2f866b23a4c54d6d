"""What happens to an image on its way through the world."""

from __future__ import annotations

import io

from PIL import Image

from audit.errors import AuditError


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG at `quality` (1-95), chroma halved both ways (4:2:0) as is usual."""
    if not 1 <= quality <= 95:
        raise AuditError(f"JPEG quality must lie in 1…95, not {quality}")
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    buffer.seek(0)
    with Image.open(buffer, formats=["JPEG"]) as attacked:
        return attacked.convert("RGB")
