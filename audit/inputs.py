"""Pictures that a request starts from: named by the SHA-256 of their file, kept with the run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from .errors import AuditError

MAX_BYTES = 256 * 2**20
MAX_PIXELS = 8192 * 8192


@dataclass
class Inputs:
    """SHA-256 → file. A file is hashed when it is added and checked again when it is read.

    Attributes:
        files: where each input lies.
    """

    files: dict[str, Path] = field(default_factory=dict)

    def add(self, path: Path) -> str:
        """Take a file in; its SHA-256.

        Raises:
            AuditError: it cannot be read, is too large, or is neither a picture nor an array.
        """
        digest = hashlib.sha256(_read(path)).hexdigest()
        self.files[digest] = path
        if path.suffix == ".npy":
            self.array(digest)
        else:
            self.image(digest)
        return digest

    def image(self, digest: str) -> Image.Image:
        """A picture, upright and RGB.

        Raises:
            AuditError: it is unknown, has changed, or is no picture.
        """
        path = self._path(digest)
        try:
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise AuditError(f"{path} has {image.width}×{image.height} pixels: refused")
                return ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise AuditError(f"{path} is not a picture that can be read: {error}") from error

    def mask(self, digest: str) -> Image.Image:
        """A mask as 8-bit grey: white is painted anew."""
        return self.image(digest).convert("L")

    def array(self, digest: str) -> npt.NDArray[np.float32]:
        """A depth map or embedding from a ``.npy`` file; a picture counts by its grey, 0 to 1.

        Raises:
            AuditError: it is unknown, has changed, or holds no finite numbers.
        """
        path = self._path(digest)
        if path.suffix != ".npy":
            return (np.asarray(self.mask(digest)) / 255).astype(np.float32)
        try:
            values = np.load(path, allow_pickle=False).astype(np.float32)
        except (OSError, ValueError, EOFError) as error:
            raise AuditError(f"{path} is not an array that can be read: {error}") from error
        if values.size == 0 or not np.isfinite(values).all():
            raise AuditError(f"{path} holds no numbers, or some that are not finite")
        return np.asarray(values)

    def _path(self, digest: str) -> Path:
        if digest not in self.files:
            raise AuditError(f"no input with the SHA-256 {digest[:80]!r} is at hand")
        path = self.files[digest]
        if hashlib.sha256(_read(path)).hexdigest() != digest:
            raise AuditError(f"{path} has changed since it was taken in; choose another --out")
        return path


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise AuditError(f"{path} has {size:,} bytes; an input may have {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise AuditError(f"cannot read the input {path}: {error.strerror}") from error
