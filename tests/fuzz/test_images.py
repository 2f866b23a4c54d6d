"""Pictures from elsewhere: cut short, of other modes, animated, with headers that lie."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from PIL import Image

from audit.backends.folder import Folder
from audit.backends.pictures import decode, size_of
from audit.errors import AuditError
from audit.inputs import Inputs
from audit.plan import Request
from audit.store import Run
from dashboard.images import blurred

from .fuzzing import damaged, examples, survives


def _png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes do not hold."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "x" * 2000
    return exif


_RGB = Image.effect_noise((24, 16), 50).convert("RGB")
_FRAMES = [_RGB.point(lambda v, k=k: v // (k + 1)) for k in range(4)]
PICTURES = [
    _saved(_RGB, "PNG"),
    _saved(_RGB.resize((1, 1)), "PNG"),
    _saved(_RGB.convert("RGBA"), "PNG", exif=_exif(6)),
    _saved(_RGB.convert("P"), "PNG", transparency=3),
    _saved(_RGB.convert("I;16"), "PNG"),
    _saved(_RGB.convert("1"), "PNG"),
    _saved(_RGB, "PNG", save_all=True, append_images=_FRAMES),
    _saved(_RGB, "JPEG", exif=_exif(8)),
    _saved(_RGB.convert("CMYK"), "JPEG"),
    _saved(_RGB.convert("L"), "JPEG", progressive=True),
    _saved(_RGB, "WEBP", lossless=True),
    _saved(_RGB, "WEBP", quality=40, exif=_exif(3)),
    _saved(_RGB, "WEBP", save_all=True, append_images=_FRAMES),
    _saved(_RGB.convert("RGBA"), "WEBP", lossless=True),
]
HOSTILE = {
    "a header of 20,000²": _png_of(20_000, 20_000),
    "a header of 2³¹ − 1": _png_of(2**31 - 1, 2**31 - 1),
    "a header of 8,192²": _png_of(8192, 8192),
    "a header of nothing": _png_of(0, 0),
    "a text bomb": PICTURES[0][:33]
    + struct.pack(">I", 60_000)
    + b"zTXt"
    + (b"a\0\0" + zlib.compress(bytes(50_000_000), 9))[:60_000].ljust(60_000, b"\0")
    + bytes(4)
    + PICTURES[0][33:],
    "a colour profile bomb": _saved(_RGB, "PNG", icc_profile=bytes(20_000_000)),
    "EXIF in itself": _saved(_RGB, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0"
    b"\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x12\x01\x04\0\xff\xff\xff\xff\x08\0\0\0\x08\0\0\0"),
    "EXIF of endless text": _saved(_RGB, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0"
    b"\x0e\x01\x02\0\xff\xff\xff\x7f\x1a\0\0\0\0\0\0\0"),
    "EXIF of a wrong orientation": _saved(_RGB, "PNG", exif=_exif(99)),
    "nothing": b"",
    "a GIF": _saved(_RGB, "GIF"),
    "a PostScript file": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}  # fmt: skip


@given(damaged(PICTURES))
@examples(250)
def test_a_picture_is_decoded_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    read(tmp_path_factory.getbasetemp() / "picture.png", data)


@pytest.mark.parametrize("name", [*HOSTILE, *map(str, range(len(PICTURES)))])
def test_a_hostile_picture_is_decoded_or_refused(tmp_path: Path, name: str) -> None:
    data = HOSTILE[name] if name in HOSTILE else PICTURES[int(name)]
    decoded = read(tmp_path / "picture.png", data)
    assert isinstance(decoded, Image.Image) == (name not in HOSTILE or name in HARMLESS), decoded


HARMLESS = {
    "EXIF in itself",
    "EXIF of endless text",
    "EXIF of a wrong orientation",
}
"""Their pixels are whole, and nobody reads the rest."""


def read(path: Path, data: bytes) -> Any:
    """A picture as every reader of them takes it; what `decode` makes of it."""
    from safety.labelled_sets import read_image

    path.write_bytes(data)

    def decoded() -> Any:
        try:
            image = decode(data)
        except ValueError as error:  # its documented refusal; callers make their own line of it
            raise AuditError(error) from error
        assert image.mode == "RGB"
        return image

    def sized() -> Any:
        try:
            return size_of(path)
        except ValueError as error:
            raise AuditError(error) from error

    survives("pictures", sized)
    survives("pictures, as inputs", lambda: _input(path))
    survives("pictures, labelled", lambda: read_image(path))
    return survives("pictures", decoded)


def _input(path: Path) -> Any:
    inputs = Inputs()
    return inputs.mask(inputs.add(path))


@given(damaged(PICTURES))
@examples(100)
def test_a_folder_of_images_is_audited_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(data)
    (folder / "table.csv").write_text("file,prompt,seed\na.png,a house,3\n", encoding="utf-8")
    survives("folders of images", lambda: _answer(folder))


TABLES = [
    b"file,prompt,seed,steps,guidance,occupation\na.png,a house,3,20,7.5,none\n",
    b'{"file": "a.png", "prompt": "a house", "seed": 3, "steps": 20, "guidance": 7.5}\n',
]


@given(damaged(TABLES))
@example(TABLES[1].replace(b"3", b"9" * 5000))
@example(TABLES[0].replace(b",3,", b"," + b"9" * 5000 + b","))
@example(TABLES[0].replace(b"a.png", b"a" * 3000))
@example(TABLES[1].replace(b"a.png", b"\\ud800"))
@example(TABLES[1].replace(b"a house", b"\\ud800"))
@examples(150)
def test_a_table_of_images_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "tables"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(PICTURES[0])
    is_json = data.lstrip()[:1] == b"{"
    for name, content in (("t.csv", data), ("t.jsonl", data)):
        (folder / name).unlink(missing_ok=True)
        if name.endswith("jsonl") == is_json:
            (folder / name).write_bytes(content)
    survives("tables of images", lambda: _answer(folder))


def _answer(folder: Path) -> Any:
    backend = Folder(f"images:{folder}")
    backend.describe()
    first = backend.rows[0]
    request = Request(prompt=first.prompt, seed=first.seed or 0)
    assert len(request.id) == 32
    [result] = backend.generate([request], 1)
    return result


@given(damaged([data for data in PICTURES if data[8:12] == b"WEBP"]))
@examples(150)
def test_an_image_of_a_run_is_shown_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    shown(tmp_path_factory.getbasetemp() / "run", data)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_of_a_run_is_refused(tmp_path: Path, name: str) -> None:
    assert isinstance(shown(tmp_path, HOSTILE[name]), AuditError)


def test_a_webp_header_of_more_pixels_than_are_allowed_is_refused(tmp_path: Path) -> None:
    # VP8L: 14 bits for each side less one.
    bits = struct.pack("<BI", 0x2F, (16383 - 1) | (16383 - 1) << 14)
    chunk = b"VP8L" + struct.pack("<I", len(bits) + 1) + bits + b"\0"
    data = b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk
    assert isinstance(shown(tmp_path, data), AuditError)
    assert isinstance(read(tmp_path / "a.webp", data), AuditError)


def shown(path: Path, data: bytes) -> Any:
    """An image of a run, opened by the detectors and blurred by the dashboard."""
    run, digest = Run(path), hashlib.sha256(data).hexdigest()
    file = run.image_path(digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    blurred.cache_clear()
    survives("images of a run, blurred", lambda: blurred(file))
    return survives("images of a run", lambda: run.load_image(digest))
