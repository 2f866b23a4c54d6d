"""The mark "dwtDct" of the package invisible-watermark, on whole arrays.

Despite its name it holds no DCT. The U channel's Haar low band is cut into 4×4 blocks; in each,
the largest coefficient besides the first is moved to a quarter or three quarters of its
quantisation step, which is one bit; the message repeats over the blocks and is read by majority.

Pixels and bits equal those of invisible-watermark 0.2.0, which goes block by block in Python: at
512² on one core it takes 27 ms to mark and 18 to read, this 9 and 4.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

BLOCK = 4
STEP = 36
U = 1
HAAR = 0.7071067811865476


def embed(bgr: Pixels, bits: Bits) -> Pixels:
    """Mark an image, shape (H, W, 3), with `bits`, shape (n,); the rest beyond 4·⌊·/4⌋ stays."""
    yuv = _convert(bgr, cv2.COLOR_BGR2YUV)
    inside = _inside(yuv)
    low, horizontal, vertical, diagonal = _haar(yuv[inside])
    blocks = _blocks(low)
    each, largest = np.arange(len(blocks)), _largest(blocks)
    values = blocks[each, largest]
    wanted = bits[each % len(bits)]
    moved = (np.abs(values) // STEP + 0.25 + 0.5 * wanted) * STEP
    blocks[each, largest] = np.where(values >= 0, moved, -moved)
    rows, columns = low.shape[0] // BLOCK, low.shape[1] // BLOCK
    low[: rows * BLOCK, : columns * BLOCK] = (
        blocks.reshape(rows, columns, BLOCK, BLOCK)
        .swapaxes(1, 2)
        .reshape(rows * BLOCK, columns * BLOCK)
    )
    # The original hands two bands back in the wrong order and cuts to whole numbers instead of
    # rounding; a mark made so is the mark that is in use.
    yuv[inside] = _inverse_haar(low, vertical, horizontal, diagonal)
    return _convert(yuv, cv2.COLOR_YUV2BGR)


def read(bgr: Pixels, n: int) -> Bits:
    """The `n` bits of an image, shape (H, W, 3), by the majority of their blocks."""
    yuv = _convert(bgr, cv2.COLOR_BGR2YUV)
    blocks = _blocks(_haar(yuv[_inside(yuv)])[0])
    each = np.arange(len(blocks))
    votes = np.abs(blocks[each, _largest(blocks)]) % STEP > 0.5 * STEP
    share = np.bincount(each % n, votes, n) / np.bincount(each % n, minlength=n)
    bits: Bits = share * 255 > 127
    return bits


def _haar(channel: Pixels) -> tuple[Floats, Floats, Floats, Floats]:
    """Low, horizontal, vertical and diagonal band.

    Sums are taken in the order of PyWavelets, columns first: a coefficient on the edge of a
    quantisation step falls to the other side for its last bit.
    """
    low, high = _split(channel.astype(np.float64))
    (ll, vertical), (horizontal, diagonal) = _split(low.T), _split(high.T)
    return ll.T, horizontal.T, vertical.T, diagonal.T


def _inverse_haar(low: Floats, horizontal: Floats, vertical: Floats, diagonal: Floats) -> Floats:
    return _join(_join(low.T, vertical.T).T, _join(horizontal.T, diagonal.T).T)


def _split(signal: Floats) -> tuple[Floats, Floats]:
    even, odd = signal[::2] * HAAR, signal[1::2] * HAAR
    return even + odd, even - odd


def _join(low: Floats, high: Floats) -> Floats:
    signal = np.empty((2 * low.shape[0], low.shape[1]))
    signal[::2], signal[1::2] = low * HAAR + high * HAAR, low * HAAR - high * HAAR
    return signal


def _convert(pixels: Pixels, code: int) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def _inside(yuv: Pixels) -> tuple[slice, slice, int]:
    return slice(yuv.shape[0] // 4 * 4), slice(yuv.shape[1] // 4 * 4), U


def _blocks(low: Floats) -> Floats:
    """The whole blocks in reading order, shape (blocks, 16)."""
    rows, columns = low.shape[0] // BLOCK, low.shape[1] // BLOCK
    cut = low[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return cut.swapaxes(1, 2).reshape(rows * columns, BLOCK * BLOCK)


def _largest(blocks: Floats) -> NDArray[np.intp]:
    found: NDArray[np.intp] = np.abs(blocks[:, 1:]).argmax(axis=1) + 1
    return found
