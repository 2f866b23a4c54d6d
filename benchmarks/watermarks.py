"""How fast marks are read: ``python benchmarks/watermarks.py [--quick] [--json FILE]``.

Our decoding of dwtDct and dwtDctSvd against that of invisible-watermark, which goes block by block
in Python: the same images, uint8 as its decoders read them, taking turns. Marked photographs,
unmarked ones, noise and a plain area; every bit is compared. Beside it what a codec's `decode` does
in all, from PIL images and in both domains, and that memory does not grow with the images.
"""

from __future__ import annotations

import argparse
import sys
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from imwatermark import WatermarkDecoder
from PIL import Image

from benchmarks.common import Row, Timings, at_least, at_most, machine, report
from safety.watermarks.codecs import METHODS, InvisibleWatermark
from safety.watermarks.presets import SDXL_MESSAGE

AIM = 5
LOOP = "invisible-watermark's loop"
QUICK, FULL = ((512,), 3), ((256, 512, 1024), 5)
"""Sides of the images in pixels, and rounds."""


def images(side: int) -> list[Image.Image]:
    """Eight of one size: four photographs, two of them marked; noise, plain, two crops."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    photos = [
        Image.fromarray(pixels).resize((side, side))
        for pixels in (
            load_sample_image("china.jpg"),
            load_sample_image("flower.jpg"),
            data.astronaut(),
            data.coffee(),
        )
    ]
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    cuts = [
        photo.crop((9, 5, 9 + side // 2, 5 + side // 2)).resize((side, side)) for photo in photos
    ]
    marked = [
        InvisibleWatermark("x", SDXL_MESSAGE, method).embed(photo)
        for method, photo in zip(METHODS, photos[:2], strict=True)
    ]
    plain = Image.new("RGB", (side, side), "#306090")
    return [*marked, *photos[2:], Image.fromarray(noise), plain, *cuts[:2]]


def measured(method: str, side: int, rounds: int) -> list[Row]:
    """Images a second of both, and whether every bit is the same."""
    pictures = images(side)
    bgr = np.stack([cv2.cvtColor(np.asarray(p), cv2.COLOR_RGB2BGR) for p in pictures])
    mark, n = InvisibleWatermark("x", SDXL_MESSAGE, method), 8 * len(SDXL_MESSAGE)
    read: dict[str, np.ndarray] = {}

    def loop(_: int) -> None:
        decoder = WatermarkDecoder("bits", n)
        read["loop"] = np.array([decoder.decode(one, method) for one in bgr])

    def ours(_: int) -> None:
        # One image at a time, as `decode` does from 512² on: it stays in the cache.
        step = max(1, (1 << 18) // side**2)
        parts = [METHODS[method].read(bgr[i : i + step], n) for i in range(0, len(bgr), step)]
        read["ours"] = np.concatenate(parts)

    def whole(_: int) -> None:
        read["whole"] = mark.decode(pictures)

    times = Timings({"loop": loop, "ours": ours, "whole": whole}, rounds)
    ratio, spread = times.ratio("loop", "ours")
    both, both_spread = times.ratio("loop", "whole")
    name = f"{method}, {side}²"
    same = np.array_equal(read["loop"], read["ours"])
    same = same and np.array_equal(read["loop"], read["whole"][:, 0])
    return [
        at_least(f"{name}, reading", ratio, AIM, f"{spread}, processor seconds", LOOP),
        Row(f"{name}, `decode` of PIL images in both domains", both, both_spread, f"{LOOP}, one"),
        *(
            Row(f"{name}, {said}", len(bgr) / times.median(key), "images a processor second")
            for said, key in (("ours", "ours"), ("`decode`", "whole"), ("the loop", "loop"))
        ),
        at_least(f"{name}, every bit is the loop's", float(same), 1, "(1: yes)"),
    ]


def memory(count: int) -> Row:
    """What reading more images of 512² adds to the peak of the arrays held."""
    mark, pictures = InvisibleWatermark("x", SDXL_MESSAGE, "dwtDctSvd"), images(512)
    peaks = []
    for number in (len(pictures), count):
        tracemalloc.start()
        mark.decode(pictures * (number // len(pictures)))
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    name = f"peak of the arrays for {count} images of 512²"
    return at_most(name, peaks[1] - peaks[0], 1, f"MB more than {peaks[0]:.0f}", "that for 8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one size, in under two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    described = machine()
    sides, rounds = QUICK if asked.quick else FULL
    rows = [memory(80 if asked.quick else 400)]
    for side in sides:
        for method in METHODS:
            rows += measured(method, side, rounds)
    print(report(rows, described, asked.json))


if __name__ == "__main__":
    main()
