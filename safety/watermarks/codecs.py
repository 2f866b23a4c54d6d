"""Codecs: what marks an image and what reads the mark, behind one interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.stats import binom

from audit.errors import AuditError

from . import dwtdct, dwtdctsvd

Bits = NDArray[np.bool_]
Domain = Literal["uint8", "float32"]


class Codec(Protocol):
    """A watermark with a fixed message.

    Attributes:
        name: unique among the codecs in use.
        bits: the message, shape (n,); shape (0,) where it is not known.
        domains: number formats in which an image is read, such as ``uint8`` and ``float32``:
            encoders and decoders in use disagree, so each is a test of its own.
        smallest: the least number of pixels that it can be read from.
    """

    name: str
    bits: Bits
    domains: tuple[str, ...]
    smallest: int

    def embed(self, image: Image.Image) -> Image.Image:
        """A marked copy, RGB.

        Raises:
            AuditError: only the mark's owner can embed it, or the image is too small.
        """

    def decode(self, images: Sequence[Image.Image]) -> Bits:
        """The bits read from images of any sizes, marked or not, shape (images, domains, n).

        Without a known message n is the number of bits that the mark holds.

        Raises:
            AuditError: an image has fewer than `smallest` pixels.
        """


class SelfChecking(Codec, Protocol):
    """A mark whose bits say by themselves whether it is there, message known or not.

    Attributes:
        chance: how often random bits say so: the p-value of an image that has the mark.
        note: what to tell whoever relies on it, one sentence.
    """

    chance: float
    note: str

    def present(self, decoded: Bits) -> Bits:
        """Whether the mark is there, of bits as `decode` gives them, shape (images,)."""


@dataclass(frozen=True)
class Match:
    """How well decoded bits agree with a message, or with many.

    Every array has the shape (images,), or (images, keys) for many.

    Attributes:
        matches: agreeing bits in the domain and polarity in which most agree.
        domain: its index into the codec's `domains`.
        inverted: the opposite of the message was read. An inverted mark is a mark: encoder and
            decoder disagree on a sign or an offset, as diffusers' SDXL watermarker and the uint8
            decoders do.
        p: P(M ≥ matches), M ~ Binomial(n, ½), times the tests made (domains × 2 polarities;
            Bonferroni), at most 1. It is nominal: the bits of real, unmarked images are no fair
            coins, so a key's true rate is measured on clean images.
    """

    matches: NDArray[np.int64]
    domain: NDArray[np.int64]
    inverted: NDArray[np.bool_]
    p: NDArray[np.float64]


def agreement(decoded: Bits, keys: Bits) -> NDArray[np.int64]:
    """Agreeing bits for each domain, upright only.

    Args:
        decoded: shape (images, domains, n).
        keys: messages, shape (n,) or (keys, n).

    Returns:
        Shape (images, domains) or (images, domains, keys).

    >>> agreement(np.array([[[True, False, True]]]), np.array([True, True, True]))
    array([[2]])
    """
    # #(a = b) = (n + ⟨±a, ±b⟩) / 2: one product of matrices for all images and keys.
    read, wanted = 2.0 * decoded - 1, 2.0 * keys - 1
    agreeing: NDArray[np.int64] = np.rint((decoded.shape[-1] + read @ wanted.T) / 2).astype(int)
    return agreeing


def binomial_p(matches: ArrayLike, n: int, domains: int) -> NDArray[np.float64]:
    """P(M ≥ matches), M ~ Binomial(n, ½), corrected for the domains × 2 polarities that were tried.

    >>> binomial_p([16, 30, 32], 32, 1).round(9).tolist()
    [1.0, 2.46e-07, 0.0]
    """
    p: NDArray[np.float64] = 2 * domains * binom.sf(np.asarray(matches) - 1, n, 0.5)
    return np.minimum(1.0, p)


def surest(upright: ArrayLike, n: int) -> Match:
    """The surest of the tests that an image gets, and its p-value corrected for all of them.

    Args:
        upright: bits that agree with the message, shape (images, domains) or
            (images, domains, keys).
        n: bits of the message.

    >>> found = surest([[16, 3], [31, 16]], 32)
    >>> found.matches.tolist(), found.domain.tolist(), found.inverted.tolist()
    ([29, 31], [1, 0], [True, False])
    """
    counts = np.asarray(upright, np.int64)
    domains = counts.shape[1]
    tests = np.concatenate([counts, n - counts], axis=1)
    best = tests.argmax(axis=1)
    matches = np.take_along_axis(tests, np.expand_dims(best, 1), axis=1).squeeze(1)
    return Match(matches, best % domains, best >= domains, binomial_p(matches, n, domains))


def match(decoded: Bits, keys: Bits) -> Match:
    """Decoded bits, shape (images, domains, n), against a message (n,) or many (keys, n).

    >>> found = match(np.zeros((1, 2, 32), bool), np.ones(32, bool))
    >>> int(found.matches[0]), bool(found.inverted[0]), float(found.p[0]) == 4 * 2.0**-32
    (32, True, True)
    """
    return surest(agreement(decoded, keys), decoded.shape[-1])


def matched(codec: Codec, decoded: Bits) -> Match:
    """What `codec.decode` gave against the codec's own message; of a mark without one that checks
    itself 1 match where it says that it is there, with its own chance, else 0.

    Raises:
        AuditError: it has neither.
    """
    if len(codec.bits):
        return match(decoded, codec.bits)
    check_message(codec)
    checking = cast(SelfChecking, codec)
    there = checking.present(decoded)
    nothing = np.zeros(len(there), np.int64)
    p = np.where(there, checking.chance, 1.0)
    return Match(there.astype(np.int64), nothing, nothing.astype(bool), p)


def check_message(codec: Codec) -> None:
    """That a mark can be told from none.

    Raises:
        AuditError: it has no message to compare with and does not check itself.
    """
    if not len(codec.bits) and not hasattr(codec, "present"):
        raise AuditError(f"the mark '{codec.name}' has no message to compare with: give one")


def is_black(image: Image.Image) -> bool:
    """Whether no pixel lies above :data:`BLACK`: a blacked-out image holds nothing to decode."""
    rgb = image.convert("RGB")
    # One pixel tells nearly every image apart.
    if max(rgb.getpixel((image.width // 2, image.height // 2))) > BLACK:  # type: ignore[arg-type]
        return False
    extrema: Any = rgb.getextrema()
    return all(high <= BLACK for _, high in extrema)


def by_size(
    images: Sequence[Image.Image], smallest: int, name: str, limit: int = 1 << 18
) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Places and RGB pixels, shape (k, H, W, 3), of images of one size, some `limit` pixels a time.

    Raises:
        AuditError: an image has fewer than `smallest` pixels, which the codec `name` needs.
    """
    sizes: dict[tuple[int, int], list[int]] = {}
    for place, image in enumerate(images):
        refuse_small(image, smallest, name)
        sizes.setdefault(image.size, []).append(place)
    for (width, height), places in sizes.items():
        step = max(1, limit // (width * height))
        for start in range(0, len(places), step):
            part = places[start : start + step]
            yield part, np.stack([np.asarray(images[place].convert("RGB")) for place in part])


def refuse_small(image: Image.Image, smallest: int, name: str) -> None:
    """One clear line where an image has too few pixels for the mark `name`."""
    if image.width * image.height < smallest:
        side = int(np.ceil(np.sqrt(smallest)))
        raise AuditError(
            f"an image of {image.width}×{image.height} pixels is too small for the watermark "
            f"'{name}': it needs {side}×{side}; deliver it larger"
        )


def unpacked(message: bytes) -> Bits:
    """The bits of bytes, most significant first, shape (8 · bytes,)."""
    return np.unpackbits(np.frombuffer(message, np.uint8)).astype(bool)


BLACK = 16
"""An image without a pixel above this is taken for one that a safety checker blacked out."""
LEAST_PIXELS = 256 * 256
"""invisible-watermark refuses smaller images: too few blocks for the message."""

METHODS: Mapping[str, ModuleType] = {"dwtDct": dwtdct, "dwtDctSvd": dwtdctsvd}


class InvisibleWatermark:
    """A mark of the package invisible-watermark, on blocks of the image.

    Args:
        name: of the codec.
        message: what is embedded: bytes, most significant bit first, or bits, shape (n,).
        method: ``dwtDct``, as in the Stable Diffusion scripts, or the sturdier ``dwtDctSvd``.
        embeds: the domain in which images are marked: ``uint8`` as in the scripts, or ``float32``
            as diffusers' SDXL pipelines do it. OpenCV's chroma has another offset in each, so a
            mark is read in both.
    """

    domains: tuple[str, ...] = ("uint8", "float32")
    smallest = LEAST_PIXELS

    def __init__(
        self, name: str, message: bytes | Bits, method: str = "dwtDct", embeds: Domain = "uint8"
    ) -> None:
        if method not in METHODS or not len(message):
            raise AuditError(f"a watermark needs a message and a method of {', '.join(METHODS)}")
        self.name, self.method, self.embeds = name, method, embeds
        self.bits: Bits = unpacked(message) if isinstance(message, bytes) else message

    def embed(self, image: Image.Image) -> Image.Image:
        """See :class:`Codec`."""
        refuse_small(image, self.smallest, self.name)
        bgr = np.asarray(image.convert("RGB"))[:, :, ::-1]
        if self.embeds == "uint8":
            marked = METHODS[self.method].embed(np.ascontiguousarray(bgr), self.bits)
        else:
            # To −1…1 and back, as a pipeline's images come: the last bit can decide at a step's
            # edge, and plain areas have many.
            signed = 2 * (bgr / np.float32(255)) - 1
            given = np.ascontiguousarray(255 * (signed / 2 + np.float32(0.5)))
            signed = 2 * (METHODS[self.method].embed(given, self.bits) / 255 - np.float32(0.5))
            shares = (signed.clip(-1, 1) * np.float32(0.5) + np.float32(0.5)).clip(0, 1)
            marked = (shares * 255).round().astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(marked[:, :, ::-1]))

    def decode(self, images: Sequence[Image.Image]) -> Bits:
        """See :class:`Codec`."""
        n = len(self.bits)
        bits = np.zeros((len(images), len(self.domains), n), bool)
        for places, rgb in by_size(images, self.smallest, self.name):
            bgr = np.ascontiguousarray(rgb[..., ::-1])
            for place, domain in enumerate(self.domains):
                bits[places, place] = METHODS[self.method].read(bgr.astype(domain, copy=False), n)
        return bits
