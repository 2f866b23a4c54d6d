"""Tree-Ring: a pattern among the low frequencies of the initial noise (Wen et al. 2023).

The published p-value takes every Fourier coefficient in the disc for two free numbers of one
variance. The noise is real, so half of them are conjugates of the other half: counted twice, the
statistic varies twice as much as its distribution says, and at a promised rate of 1% it fires at
about 2%. Of a pattern of rings the imaginary half can never be set at all. Here each number is
counted once, and the p-value needs no distribution of the image: it is that of the angle between
what is found and a key whose direction is random.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256, shake_256
from math import prod
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri
from scipy.stats import t as student

from audit.errors import AuditError

from .latent import PUBLIC, Floats, Shape, p_of, surprise

if TYPE_CHECKING:
    import torch

Pattern = Literal["rand", "ring", "zeros"]
RADIUS = 10
"""As published, for latents of 64 × 64."""
LEAST = 8
"""Numbers that a key must have: in few dimensions chance brings an angle near 0."""

NO_POWER = (
    "the pattern 'zeros' holds no key, only silence: its published p-value takes the noise's "
    "variance from the silent coefficients themselves and is about 0.5 for every image, and any "
    "image whose inverted latent is quiet at low frequencies has the mark; use 'ring' or 'rand'"
)


@dataclass(frozen=True)
class TreeRing:
    """A Tree-Ring mark.

    The disc is of frequencies 0 < |k| ≤ radius, in cycles per picture; the mean, k = 0, is the
    picture's own. All that is not in the disc comes from the image's seed.

    Attributes:
        pattern: ``rand``: every coefficient is the key's. ``ring``: one number of the key for each
            ring of width 1 and each channel, around the picture's centre (the published rings
            lie around a corner), so that mirroring and turning the picture keep it. ``zeros``: all
            are 0.
        secret: bytes that the key is drawn from.
        radius: of the disc; at most a third of the latent's shorter side.
        channels: those that are marked; all where there are none.
        name: of the mark.
    """

    pattern: Pattern = "ring"
    secret: bytes = PUBLIC
    radius: int = RADIUS
    channels: tuple[int, ...] = ()
    name: str = "tree-ring"

    def __post_init__(self) -> None:
        if self.pattern not in get_args(Pattern):
            raise AuditError(
                f"Tree-Ring has no pattern '{self.pattern}'; there are "
                f"{', '.join(get_args(Pattern))}"
            )

    @property
    def key(self) -> str:
        """See :class:`safety.watermarks.latent.LatentMark`."""
        said = f"tree-ring {self.pattern} {self.radius} {self.channels} "
        return sha256(said.encode() + self.secret).hexdigest()

    @property
    def refusal(self) -> str | None:
        """See :class:`safety.watermarks.latent.LatentMark`."""
        return NO_POWER if self.pattern == "zeros" else None

    def initial_noise(self, shape: Shape, generator: torch.Generator) -> torch.Tensor:
        """See :class:`safety.watermarks.latent.LatentMark`."""
        import torch

        noise = torch.randn(shape, generator=generator)
        chosen, disc = self._channels(shape[0]), self.rings(shape) > 0
        spectrum = torch.fft.fft2(noise)
        marked = spectrum[chosen]
        marked[:, disc] = self._target(shape)[:, disc]
        spectrum[chosen] = marked
        found: torch.Tensor = torch.fft.ifft2(spectrum).real
        return found

    def statistic(self, latents: torch.Tensor) -> Floats:
        """−log₁₀ p of the angle between the latents' disc and the key, shape (images,).

        With y the coordinates found and g the key's, both of d numbers, cos = ⟨y, g⟩ / |y||g|, and
        √(d − 1) cos/√(1 − cos²) has Student's distribution with d − 1 degrees of freedom where the
        direction of g is random and independent of y (Fisher 1915): for any y.

        Raises:
            AuditError: the mark is refused, or the latent is too small for it.
        """
        if self.refusal:
            raise AuditError(f"the mark '{self.name}' is refused: {self.refusal}")
        shape: Shape = (latents.shape[1], latents.shape[2], latents.shape[3])
        found, key = self._coordinates(latents), self._key(shape)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(key)
        if not lengths.all():
            raise AuditError("a latent has nothing in the disc: it was not inverted from an image")
        cosine = (found @ key / lengths).clip(-1, 1)
        with np.errstate(divide="ignore"):
            ratio = cosine * np.sqrt((len(key) - 1) / (1 - cosine**2))
        return surprise(student.sf(ratio, len(key) - 1))

    def nominal_p(self, statistic: ArrayLike) -> Floats:
        """See :class:`safety.watermarks.latent.LatentMark`."""
        return p_of(statistic)

    def rings(self, shape: Shape) -> torch.Tensor:
        """The ring that each frequency is in, 1 and up; 0 outside the disc. Shape (height, width).

        Raises:
            AuditError: a latent of this shape has too few frequencies for the mark.
        """
        import torch

        height, width = shape[1:]
        radius = min(self.radius, min(height, width) // 3)
        y, x = _frequencies(height, width)
        distance = torch.sqrt(y**2 + x**2)
        rings = torch.where(distance <= radius, distance.ceil(), 0).long()
        channels = len(self._channels(shape[0]))
        numbers = int(rings.max()) if self.pattern == "ring" else int((rings > 0).sum())
        if channels * numbers < LEAST:
            raise AuditError(
                f"the mark '{self.name}' has {channels * numbers} numbers in a latent of "
                f"{shape[0]}×{height}×{width}, and needs {LEAST}: raise the radius or mark more "
                "channels"
            )
        return rings

    def _channels(self, count: int) -> list[int]:
        chosen = list(self.channels) or list(range(count))
        if not set(chosen) <= set(range(count)):
            raise AuditError(
                f"the mark '{self.name}' is set in the channels {chosen} of a latent, which has "
                f"{count}"
            )
        return chosen

    def _drawn(self, *shape: int) -> torch.Tensor:
        """Normal numbers of the secret's own.

        Not from a generator seeded with it: images are seeded too, and a key that is the noise of
        an image's seed finds its mark in every image made with that seed.
        """
        import torch

        stream = shake_256(b"tree-ring" + self.secret).digest(8 * prod(shape))
        share = (np.frombuffer(stream, "<u8") / 2**64 + 2**-54).clip(max=1 - 2**-53)
        numbers: torch.Tensor = torch.from_numpy(ndtri(share)).float().reshape(shape)
        return numbers

    def _target(self, shape: Shape) -> torch.Tensor:
        """The marked channels' coefficients, (channels, height, width); only the disc counts."""
        import torch

        channels, (height, width) = len(self._channels(shape[0])), shape[1:]
        if self.pattern == "zeros":
            return torch.zeros(channels, height, width, dtype=torch.complex64)
        if self.pattern == "rand":
            whole: torch.Tensor = torch.fft.fft2(self._drawn(channels, height, width))
            return whole
        # Real but for the phase: F(−k) is the conjugate of F(k) and in the same ring. √HW is the
        # size of white noise.
        rings = self.rings(shape)
        values = torch.cat([torch.zeros(channels, 1), self._drawn(channels, int(rings.max()))], 1)
        target: torch.Tensor = values[:, rings] * _centred(height, width)
        target = target * (height * width) ** 0.5
        return target.to(torch.complex64)

    def _coordinates(self, latents: torch.Tensor) -> Floats:
        """Independent numbers of unit variance where the latents are white noise of unit variance,
        (images, d)."""
        import torch

        shape: Shape = (latents.shape[1], latents.shape[2], latents.shape[3])
        rings, chosen = self.rings(shape), self._channels(shape[0])
        spectrum = torch.fft.fft2(latents[:, chosen].double().cpu())
        spectrum = spectrum / (shape[1] * shape[2]) ** 0.5
        if self.pattern == "ring":
            around = (spectrum * _centred(*shape[1:]).conj()).real
            sums = [
                around[..., rings == ring].sum(-1) / (rings == ring).sum() ** 0.5
                for ring in range(1, int(rings.max()) + 1)
            ]
            found = torch.stack(sums, -1)
        else:
            inside = spectrum[..., _half(rings > 0)] * 2**0.5
            found = torch.cat([inside.real, inside.imag], -1)
        coordinates: Floats = found.flatten(1).numpy()
        return coordinates

    def _key(self, shape: Shape) -> Floats:
        """The key in the coordinates of `_coordinates`, (d,), its direction uniform over keys."""
        channels = len(self._channels(shape[0]))
        if self.pattern == "ring":
            count = int(self.rings(shape).max())
            drawn: Floats = self._drawn(channels, count).double().flatten().numpy()
            return drawn
        marked = TreeRing("rand", self.secret, self.radius)
        key: Floats = marked._coordinates(self._drawn(1, channels, *shape[1:]))[0]
        return key


def _frequencies(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cycles per picture downwards, (height, 1), and to the right, (1, width)."""
    import torch

    return (
        torch.fft.fftfreq(height, 1 / height, dtype=torch.float64)[:, None],
        torch.fft.fftfreq(width, 1 / width, dtype=torch.float64)[None],
    )


def _centred(height: int, width: int) -> torch.Tensor:
    """The spectrum of a point in the picture's centre, between the pixels where sides are even."""
    import torch

    y, x = _frequencies(height, width)
    turns = y * (height - 1) / (2 * height) + x * (width - 1) / (2 * width)
    point: torch.Tensor = torch.exp(-2j * torch.pi * turns)
    return point


def _half(disc: torch.Tensor) -> torch.Tensor:
    """One of each two frequencies k and −k of a disc without 0, as a mask."""
    y, x = _frequencies(*disc.shape)
    half: torch.Tensor = disc & ((y > 0) | ((y == 0) & (x > 0)))
    return half


def tree_ring() -> TreeRing:
    """Rings drawn from a public secret: for trying the mark, not for relying on it."""
    return TreeRing()
