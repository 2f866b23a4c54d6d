"""The mark "dwtDct" of the package invisible-watermark, on whole arrays.

Despite its name it holds no DCT. The U channel's Haar low band is cut into 4×4 blocks; in each,
the largest coefficient besides the first is moved to a quarter or three quarters of its
quantisation step, which is one bit; the message repeats over the blocks and is read by majority.

Pixels and bits equal those of invisible-watermark 0.2.0, which goes block by block in Python, for
uint8 pixels and for float32 ones (0 to 255), as diffusers hands them over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.bool_]
Floats = NDArray[Any]
"""float64 for uint8 pixels, float32 for float32 ones: the last bit decides at a step's edge."""
Pixels = TypeVar("Pixels", NDArray[np.uint8], NDArray[np.float32])

BLOCK = 4
STEP = 36
U = 1
HAAR = 0.7071067811865476


def embed(bgr: Pixels, bits: Bits) -> Pixels:
    """Mark an image, shape (H, W, 3), with `bits`, shape (n,); the rest beyond 4·⌊·/4⌋ stays."""

    def mark(blocks: Floats) -> Floats:
        each, largest = np.arange(len(blocks)), np.abs(blocks[:, 1:]).argmax(axis=1) + 1
        values = blocks[each, largest]
        moved = quantised(np.abs(values), bits)
        blocks[each, largest] = np.where(values >= 0, moved, -moved)
        return blocks

    return with_marked_blocks(bgr, mark)


def read(bgr: Pixels, n: int) -> Bits:
    """The `n` bits of images of one size, shape (images, H, W, 3), by the majority of their blocks.

    Returns:
        Shape (images, n); a bit that no block holds is False.
    """
    blocks = low_blocks(bgr)
    flat = blocks.reshape(BLOCK * BLOCK, *blocks.shape[2:])
    largest = np.abs(flat[1])
    for values in flat[2:]:
        np.maximum(largest, np.abs(values), out=largest)
    return majority(largest % STEP > 0.5 * STEP, n)


def quantised(values: Floats, bits: Bits) -> Floats:
    """`values` ≥ 0, shape (blocks,), moved within their steps to the bit of each block."""
    wanted = bits[np.arange(len(values)) % len(bits)]
    moved: Floats = (values // STEP + 0.25 + 0.5 * wanted) * STEP
    return moved


def majority(votes: Bits, n: int) -> Bits:
    """The bits for which most blocks vote, shape (images, n), of votes in reading order."""
    images, blocks = votes.shape
    whole = blocks // n * n
    ones = votes[:, :whole].reshape(images, -1, n).sum(axis=1)
    ones[:, : blocks - whole] += votes[:, whole:]
    voters = np.bincount(np.arange(blocks) % n, minlength=n)
    # 255 and 127 are the original's: a tie is a one.
    bits: Bits = ones / np.maximum(voters, 1) * 255 > 127
    return bits


def low_blocks(bgr: Pixels) -> Floats:
    """The Haar low band of U in blocks, shape (4, 4, images, blocks), in reading order."""
    images, height, width = bgr.shape[:3]
    # One tall image: the conversion goes pixel by pixel.
    tall = cv2.cvtColor(bgr.reshape(images * height, width, 3), cv2.COLOR_BGR2YUV)
    u = np.asarray(tall)[:, :, U].reshape(images, height, width)
    u = u[:, : height // 4 * 4, : width // 4 * 4]
    scaled = u * _haar(u)
    # Rows before columns, as PyWavelets adds them up.
    low = scaled[:, ::2] + scaled[:, 1::2]
    low *= _haar(u)
    low = low[:, :, ::2] + low[:, :, 1::2]
    rows, columns = low.shape[1] // BLOCK, low.shape[2] // BLOCK
    cut = low[:, : rows * BLOCK, : columns * BLOCK].reshape(images, rows, BLOCK, columns, BLOCK)
    return np.ascontiguousarray(cut.transpose(2, 4, 0, 1, 3)).reshape(
        BLOCK, BLOCK, images, rows * columns
    )


def with_marked_blocks(bgr: Pixels, mark: Callable[[Floats], Floats]) -> Pixels:
    """An image, shape (H, W, 3), after `mark` went over its blocks, shape (blocks, 16)."""
    yuv: Pixels = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV))
    inside = slice(yuv.shape[0] // 4 * 4), slice(yuv.shape[1] // 4 * 4), U
    lower, upper = _split(yuv[inside])
    (low, vertical), (horizontal, diagonal) = _split(lower.T), _split(upper.T)
    low = low.T
    rows, columns = low.shape[0] // BLOCK, low.shape[1] // BLOCK
    cut = low[: rows * BLOCK, : columns * BLOCK]
    blocks = cut.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2)
    marked = mark(blocks.reshape(rows * columns, BLOCK * BLOCK))
    cut[:] = marked.reshape(blocks.shape).swapaxes(1, 2).reshape(cut.shape)
    # The original hands two bands back in the wrong order and cuts to whole numbers instead of
    # rounding; a mark made so is the mark that is in use.
    yuv[inside] = _join(_join(low.T, horizontal).T, _join(vertical, diagonal).T)
    return np.asarray(cv2.cvtColor(yuv, cv2.COLOR_YUV2BGR))


def _haar(channel: NDArray[Any]) -> Any:
    return np.float32(HAAR) if channel.dtype == np.float32 else np.float64(HAAR)


def _split(signal: NDArray[Any]) -> tuple[Floats, Floats]:
    even, odd = signal[::2] * _haar(signal), signal[1::2] * _haar(signal)
    return even + odd, even - odd


def _join(low: Floats, high: Floats) -> Floats:
    signal = np.empty((2 * low.shape[0], low.shape[1]), low.dtype)
    low, high = low * _haar(low), high * _haar(low)
    signal[::2], signal[1::2] = low + high, low - high
    return signal
