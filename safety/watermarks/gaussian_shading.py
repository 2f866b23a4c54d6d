"""Gaussian Shading: a message in the signs of the initial noise (Yang et al. 2024).

The message, repeated over the latent, is encrypted with ChaCha20; each bit then says in which half
of the normal distribution a number of the noise is drawn. Without the key the noise is like any
other. Three things differ from the published detector. Its threshold takes P(M > m) for P(M ≥ m),
one match too many. Its vote counts signs and calls a tie 0, so with 64 copies a bit is 0 with
probability .55 instead of ½: here a number counts by its size, which has no ties and errs less.
And many users are corrected for exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from audit.errors import AuditError

from .codecs import Bits, agreement
from .latent import PUBLIC, Floats, Shape, p_of, surprise

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Traced:
    """Whose mark images carry, among N users.

    Attributes:
        user: shape (images,), the index of the user whose message agrees best.
        matches: shape (images,), agreeing bits.
        p: shape (images,), the chance that the best of N random messages agrees as well,
            1 − (1 − P(M ≥ matches))^N: exact, as the users' messages are independent.
    """

    user: NDArray[np.intp]
    matches: NDArray[np.int64]
    p: Floats


@dataclass(frozen=True)
class GaussianShading:
    """A Gaussian Shading mark.

    Attributes:
        message: bits as 0 and 1; where there are none, bits drawn from the key, as many as fit.
        secret, nonce: of ChaCha20, 32 and 12 bytes; one pair for all images, as published. So all
            marked images have the same signs, and who has several can average the mark out.
        copies: into how many parts channels, height and width are cut; the message is repeated in
            each. As published, 64 copies: 256 bits in 4 × 64 × 64, 32 bits in 8 × 16 × 16.
        name: of the mark.
    """

    message: tuple[int, ...] = ()
    secret: bytes = PUBLIC
    nonce: bytes = bytes(12)
    copies: tuple[int, int, int] = (1, 8, 8)
    name: str = "gaussian-shading"
    refusal: str | None = None

    def __post_init__(self) -> None:
        if len(self.secret) != 32 or len(self.nonce) != 12:
            raise AuditError(
                f"Gaussian Shading needs a key of 32 bytes and a nonce of 12, not "
                f"{len(self.secret)} and {len(self.nonce)}"
            )
        if not set(self.message) <= {0, 1}:
            raise AuditError("the message of Gaussian Shading is a sequence of 0 and 1")

    @cached_property
    def key(self) -> str:
        """See :class:`safety.watermarks.latent.LatentMark`."""
        said = self.secret + self.nonce + bytes(self.message) + repr(self.copies).encode()
        return sha256(said).hexdigest()

    def capacity(self, shape: Shape) -> int:
        """How many bits a latent holds.

        Raises:
            AuditError: it cannot be cut into the copies.
        """
        if any(side % parts for side, parts in zip(shape, self.copies, strict=True)):
            raise AuditError(
                f"the mark '{self.name}' cuts a latent into {_times(self.copies)} parts, and "
                f"{_times(shape)} cannot be cut so: choose other copies"
            )
        return math.prod(shape) // math.prod(self.copies)

    def bits(self, shape: Shape) -> Bits:
        """The message in a latent of this shape, (n,).

        Raises:
            AuditError: it does not fit.
        """
        n = self.capacity(shape)
        if not self.message:
            # Another nonce than the noise's: the two streams have nothing in common.
            return _stream(self.secret, sha256(b"message" + self.nonce).digest()[:12], n)
        if len(self.message) != n:
            raise AuditError(
                f"the mark '{self.name}' has a message of {len(self.message)} bits, and a latent "
                f"of {_times(shape)} holds {n}"
            )
        return np.array(self.message, bool)

    def initial_noise(self, shape: Shape, generator: torch.Generator) -> torch.Tensor:
        """Φ⁻¹((u + m)/2) with u uniform and m the encrypted bit: section 3.3, one bit a number.

        That is a number of normal size with m's sign; the sizes are those of the unmarked noise of
        the same seed.
        """
        import torch

        encrypted = self._spread(self.bits(shape), shape) ^ self._encryption(shape)
        size = torch.randn(shape, generator=generator).abs()
        return torch.where(torch.from_numpy(encrypted), size, -size)

    def decode(self, latents: torch.Tensor) -> Bits:
        """The bits that inverted latents hold, (images, channels, height, width) → (images, n).

        Each copy votes with the size of its number: the log-likelihood ratio of its bit where the
        inversion adds normal noise is in proportion to it.
        """
        values = latents.double().cpu().numpy()
        shape: Shape = values.shape[1:]
        self.capacity(shape)
        votes = np.where(self._encryption(shape), -values, values)
        cut = [side // parts for side, parts in zip(shape, self.copies, strict=True)]
        (a, b, c), (x, y, z) = self.copies, cut
        sums = votes.reshape(-1, a, x, b, y, c, z).sum(axis=(1, 3, 5))
        read: Bits = sums.reshape(len(values), -1) > 0
        return read

    def matches(self, latents: torch.Tensor) -> NDArray[np.int64]:
        """How many bits agree with the message, shape (images,)."""
        decoded = self.decode(latents)
        shape: Shape = (latents.shape[1], latents.shape[2], latents.shape[3])
        return agreement(decoded[:, None], self.bits(shape))[:, 0]

    def statistic(self, latents: torch.Tensor) -> Floats:
        """−log₁₀ P(M ≥ matches), M ~ Binomial(n, ½), shape (images,).

        Under a random key each vote's sign is a fair coin, and the copies of two bits have no
        number in common: the distribution is exact for any latent without a 0.
        """
        n = math.prod(latents.shape[1:]) // math.prod(self.copies)
        return surprise(binom.sf(self.matches(latents) - 1, n, 0.5))

    def nominal_p(self, statistic: ArrayLike) -> Floats:
        """See :class:`safety.watermarks.latent.LatentMark`."""
        return p_of(statistic)

    def trace(self, latents: torch.Tensor, messages: Bits) -> Traced:
        """Whose of the messages, shape (users, n), each image carries.

        Raises:
            AuditError: the messages have not as many bits as a latent holds.
        """
        decoded = self.decode(latents)
        n = decoded.shape[1]
        if messages.ndim != 2 or messages.shape[1] != n or not len(messages):
            raise AuditError(
                f"messages of the shape {messages.shape}; a latent of "
                f"{_times(latents.shape[1:])} holds {n} bits: give (users, {n})"
            )
        agreeing = agreement(decoded[:, None], messages)[:, 0]
        user = agreeing.argmax(axis=1)
        matches = agreeing.max(axis=1)
        with np.errstate(divide="ignore"):
            one = np.log1p(-binom.sf(matches - 1, n, 0.5))
        return Traced(user, matches, -np.expm1(len(messages) * one))

    def _spread(self, bits: Bits, shape: Shape) -> Bits:
        cut = [side // parts for side, parts in zip(shape, self.copies, strict=True)]
        return np.tile(bits.reshape(cut), self.copies)

    def _encryption(self, shape: Shape) -> Bits:
        return _stream(self.secret, self.nonce, math.prod(shape)).reshape(shape)


def _stream(secret: bytes, nonce: bytes, n: int) -> Bits:
    """The first `n` bits of ChaCha20's key stream, most significant first (RFC 8439)."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    # Its block counter comes first and starts at 0, as in the published code's library.
    cipher = Cipher(algorithms.ChaCha20(secret, bytes(4) + nonce), mode=None).encryptor()
    stream = np.frombuffer(cipher.update(bytes(-(-n // 8))), np.uint8)
    return np.unpackbits(stream)[:n].astype(bool)


def _times(shape: ArrayLike) -> str:
    return "×".join(str(side) for side in np.asarray(shape).tolist())


def gaussian_shading() -> GaussianShading:
    """A message under a public key: for trying the mark, not for relying on it."""
    return GaussianShading()
