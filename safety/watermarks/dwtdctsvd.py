"""The mark "dwtDctSvd" of the package invisible-watermark, on whole arrays.

As in :mod:`.dwtdct`, but the bit of a 4×4 block of the Haar low band is the half of its
quantisation step in which its largest singular value lies. (The DCT before the decomposition is
orthogonal, so it changes no singular value.)

Bits equal those of invisible-watermark 0.2.0. Reading decomposes hardly any block: a Rayleigh
quotient bounds the singular value from both sides, and only where a bound reaches over the edge of
a half step is it computed as the original does, rounding included.
"""

from __future__ import annotations

import cv2
import numpy as np

from .dwtdct import (
    BLOCK,
    STEP,
    Bits,
    Floats,
    Pixels,
    low_blocks,
    majority,
    quantised,
    with_marked_blocks,
)

ROUNDING = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 3e-5}
"""How far, as a share of it, the original's singular value may lie from the true one: many times
the error of its transforms (Anderson et al. 1999, LAPACK Users' Guide, section 4.9)."""
ITERATIONS = 2
"""Power iterations. After two, three blocks of a thousand stay doubtful at most in photographs."""


def embed(bgr: Pixels, bits: Bits) -> Pixels:
    """Mark an image, shape (H, W, 3), with `bits`, shape (n,); the rest beyond 4·⌊·/4⌋ stays."""

    def mark(blocks: Floats) -> Floats:
        u, s, v = _decomposed(blocks)
        s[:, 0] = quantised(s[:, 0], bits)
        moved = u @ (s[:, :, None] * v)
        return np.stack([cv2.idct(block) for block in moved])

    return with_marked_blocks(bgr, mark)


def read(bgr: Pixels, n: int) -> Bits:
    """The `n` bits of images of one size, shape (images, H, W, 3), by the majority of their blocks.

    Returns:
        Shape (images, n); a bit that no block holds is False.
    """
    blocks = low_blocks(bgr)
    votes = upper_half(blocks.reshape(BLOCK, BLOCK, -1)).reshape(blocks.shape[2:])
    return majority(votes, n)


def upper_half(blocks: Floats) -> Bits:
    """Whether s mod `STEP` > `STEP` / 2 for the largest singular value s, shape (4, 4, blocks)."""
    rounding = ROUNDING[blocks.dtype]
    low, high = _bounds(blocks.astype(np.float64, copy=False))
    halves = np.floor(low * (1 - rounding) / (STEP / 2))
    bits: Bits = halves % 2 == 1
    doubtful = np.flatnonzero(~(halves == np.floor(high * (1 + rounding) / (STEP / 2))))
    if len(doubtful):
        rest = np.ascontiguousarray(blocks[:, :, doubtful].reshape(BLOCK * BLOCK, -1).T)
        # Plain areas repeat one block many times.
        distinct, places = np.unique(rest, axis=0, return_inverse=True)
        largest = _decomposed(distinct)[1][:, 0]
        bits[doubtful] = (largest % STEP > STEP * 0.5)[places.reshape(-1)]
    return bits


def _bounds(blocks: Floats) -> tuple[Floats, Floats]:
    """Below and above the largest singular value of each block B, shape (4, 4, blocks).

    With M = BᵀB, the Rayleigh quotient θ of a vector v and its residual r = ‖Mv − θv‖, ‖v‖ = 1:
    θ ≤ λ₁ ≤ θ + r² / (θ − λ₂) (Kato–Temple), where λ₂ ≤ trace M − θ for M is positive. Without a
    gap the trace itself is the bound. A block whose rows cancel out has NaN.
    """
    trace = np.einsum("ijk,ijk->k", blocks, blocks)
    vectors = blocks.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(ITERATIONS):
            start = vectors / np.sqrt(_dot(vectors, vectors))
            image = _dot(blocks.swapaxes(0, 1), start[:, None])
            vectors = _dot(blocks, image[:, None])
        quotient = _dot(image, image)
        residual = np.maximum(_dot(vectors, vectors) - quotient**2, 0)
        gap = 2 * quotient - trace
        upper = np.where(gap > 0, np.minimum(quotient + residual / gap, trace), trace)
    return np.sqrt(quotient), np.sqrt(upper)


def _dot(a: Floats, b: Floats) -> Floats:
    """Σᵢ aᵢ bᵢ over the first axis, one block at every last place."""
    total: Floats = a[0] * b[0]
    for left, right in zip(a[1:], b[1:], strict=True):
        total += left * right
    return total


def _decomposed(blocks: Floats) -> tuple[Floats, Floats, Floats]:
    """The singular value decompositions of blocks, shape (blocks, 16), as the original's."""
    square = blocks.reshape(-1, BLOCK, BLOCK)
    u, s, v = np.linalg.svd(np.stack([cv2.dct(block) for block in square]))
    return u, s, v
