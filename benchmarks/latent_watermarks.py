"""What marks in the noise are worth on the phantom:
``python benchmarks/latent_watermarks.py [--quick] [--json FILE] [--images N]``.

Tree-Ring (ring, rand) and Gaussian Shading, on images that the phantom makes with and without the
mark from the same seeds: how much is found at a false-positive rate of 1%, what the nominal p-value
really keeps, what is left after the model draws the image anew, and what stronger guidance, another
number of inversion steps, a smaller disc or more bits cost. Its latent is 8×16×16.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image

from audit.backends.inversion import invert
from audit.backends.stable_diffusion import StableDiffusion
from audit.plan import Request
from audit.statistics import rate, tpr_at_fpr
from benchmarks.common import Row, at_least, machine, report
from safety.watermarks.gaussian_shading import GaussianShading
from safety.watermarks.regeneration import regeneration
from safety.watermarks.tree_ring import TreeRing

BATCH, STEPS, ALPHA = 16, 10, 0.01
MARKS: dict[str, Any] = {
    "Tree-Ring ring": TreeRing("ring"),
    "Tree-Ring rand": TreeRing("rand"),
    "Gaussian Shading, 32 bits": GaussianShading(),
}
PEOPLE = ("doctor", "nurse", "farmer", "teacher", "pilot", "baker", "judge", "cook")


def requests(count: int, **changed: Any) -> list[Request]:
    """Portraits, a new seed each."""
    sampler: dict[str, Any] = {"steps": STEPS, "guidance": 3.0, "height": 64, "width": 64}
    return [
        Request(f"a portrait of a {PEOPLE[i % len(PEOPLE)]}", seed=i, **(sampler | changed))
        for i in range(count)
    ]


def made(backend: StableDiffusion, wanted: Sequence[Request], mark: Any = None) -> list[Any]:
    """The requests' images, marked or not."""
    if mark is not None:
        backend.marks["mark"] = mark
        wanted = [dataclasses.replace(request, watermark="mark") for request in wanted]
    return [
        result.image
        for start in range(0, len(wanted), BATCH)
        for result in backend.generate(wanted[start : start + BATCH], BATCH)
    ]


def share(name: str, found: np.ndarray, against: str = "", aim: float | None = None) -> Row:
    """A share of images with its 95% interval."""
    counted = rate(found)
    unit = f"of {len(found)} ({counted.ci[0]:.3f} to {counted.ci[1]:.3f})"
    if aim is None:
        return Row(name, counted.estimate, unit, against)
    return at_least(name, counted.estimate, aim, unit, against)


def measured(
    backend: StableDiffusion, name: str, mark: Any, count: int, clean: torch.Tensor
) -> tuple[list[Row], list[Image.Image]]:
    """A mark unattacked, against the inverted latents of clean images."""
    images = made(backend, requests(count), mark)
    marked, null = mark.statistic(invert(backend, images, STEPS, BATCH)), mark.statistic(clean)
    labels = np.repeat([1, 0], [len(marked), len(null)])
    point = tpr_at_fpr(np.concatenate([marked, null]), labels, ALPHA)
    unit = f"of {count} ({point.ci[0]:.3f} to {point.ci[1]:.3f})"
    what = f"{point.false} of {point.negatives} clean images"
    p = mark.nominal_p(marked)
    return [
        at_least(f"{name}, found at 1% of clean images", point.tpr, 0.95, unit, what),
        share(f"{name}, found at a nominal p of 1%", p <= ALPHA, aim=0.95),
        share(f"{name}, found at a nominal p of 1e-6", p <= 1e-6),
        share(f"{name}, clean images at a nominal p of 1%", mark.nominal_p(null) <= ALPHA),
        Row(f"{name}, median −log₁₀ p", float(np.median(marked)), "of marked images"),
    ], images


def keys(name: str, clean: torch.Tensor, count: int) -> list[Row]:
    """How often random keys fire on the same clean images at a nominal 1%."""
    kinds: dict[str, Any] = {
        "Tree-Ring ring": lambda i: TreeRing("ring", b"%d" % i),
        "Tree-Ring rand": lambda i: TreeRing("rand", b"%d" % i),
        "Gaussian Shading, 32 bits": lambda i: GaussianShading(secret=b"%032d" % i),
    }
    rates = []
    for number in range(count):
        mark = kinds[name](number)
        rates.append((mark.nominal_p(mark.statistic(clean)) <= ALPHA).mean())
    unit = f"of {len(clean)} clean images, {count} random keys"
    return [
        Row(f"{name}, nominal 1%, mean of the keys", float(np.mean(rates)), unit),
        Row(f"{name}, nominal 1%, the worst of the keys", float(np.max(rates)), unit),
    ]


def attacked(
    backend: StableDiffusion, name: str, mark: Any, images: Sequence[Image.Image]
) -> list[Row]:
    """What is found at a nominal 1% after the model drew the image anew."""
    rows = []
    for attack in regeneration(backend):
        for strength in attack.strengths:
            changed = [attack.apply(image, strength, seed) for seed, image in enumerate(images)]
            p = mark.nominal_p(mark.statistic(invert(backend, changed, STEPS, BATCH)))
            rows.append(share(f"{name}, after {attack.name} {strength:g}", p <= ALPHA))
    return rows


def diversity(name: str, marked: Sequence[Image.Image], clean: Sequence[Image.Image]) -> Row:
    """How far images of one prompt lie apart: the key fixes a part of every image's noise."""

    def apart(images: Sequence[Image.Image]) -> float:
        pixels = np.stack([np.asarray(image, float).ravel() for image in images])
        spreads = [pixels[at :: len(PEOPLE)].std(axis=0).mean() for at in range(len(PEOPLE))]
        return float(np.mean(spreads))

    ratio = apart(marked) / apart(clean[: len(marked)])
    return Row(f"{name}, pixel spread within a prompt", ratio, "of that without the mark")


def sweeps(backend: StableDiffusion, count: int) -> list[Row]:
    """The same with other settings, one at a time."""
    rows = []
    ring, rand = MARKS["Tree-Ring ring"], MARKS["Tree-Ring rand"]
    for name, mark in MARKS.items():
        for guidance in (1.0, 7.5):
            images = made(backend, requests(count, guidance=guidance), mark)
            p = mark.nominal_p(mark.statistic(invert(backend, images, STEPS, BATCH)))
            rows.append(share(f"{name}, guidance {guidance:g}, p of 1%", p <= ALPHA))
    images = made(backend, requests(count), rand)
    for steps in (5, 10, 20, 50):
        found = rand.statistic(invert(backend, images, steps, BATCH))
        row = Row(
            f"Tree-Ring rand, inverted in {steps} steps", float(np.median(found)), "median −log₁₀ p"
        )
        rows.append(row)
    variants: dict[str, Any] = {
        **{f"Tree-Ring ring, radius {r}": dataclasses.replace(ring, radius=r) for r in (2, 3)},
        "Tree-Ring ring, two channels": dataclasses.replace(ring, channels=(3, 4)),
        **{f"Tree-Ring rand, radius {r}": dataclasses.replace(rand, radius=r) for r in (2, 3)},
        "Tree-Ring rand, one channel": dataclasses.replace(rand, channels=(3,)),
        "Gaussian Shading, 8 bits": GaussianShading(copies=(1, 16, 16)),
        "Gaussian Shading, 128 bits": GaussianShading(copies=(1, 4, 4)),
        "Gaussian Shading, 512 bits": GaussianShading(copies=(1, 2, 2)),
    }
    for name, mark in variants.items():
        latents = invert(backend, made(backend, requests(count), mark), STEPS, BATCH)
        p = mark.nominal_p(mark.statistic(latents))
        rows.append(share(f"{name}, p of 1%", p <= ALPHA))
        if isinstance(mark, GaussianShading):
            right = mark.matches(latents) / mark.capacity((8, 16, 16))
            rows.append(Row(f"{name}, bits read right", float(right.mean()), "of all"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few images, in under two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--images", type=int, default=200, help="marked ones of each mark")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    described = machine()
    count = 16 if asked.quick else asked.images
    backend = StableDiffusion("phantom", "cpu", mode="fast")
    unmarked = made(backend, requests(2 * count))
    start = time.process_time()
    clean = invert(backend, unmarked, STEPS, BATCH)
    pace = len(unmarked) / (time.process_time() - start)
    rows = [Row("inversion in 10 steps, batch 16", pace, "images per processor second")]
    for name, mark in MARKS.items():
        found, images = measured(backend, name, mark, count, clean)
        rows += [*found, *keys(name, clean, 20 if asked.quick else 100)]
        rows.append(diversity(name, images, unmarked))
        rows += attacked(backend, name, mark, images[: 2 if asked.quick else count // 4])
        print(report(rows[-20:], {}, None), file=sys.stderr, flush=True)
    if not asked.quick:
        rows += sweeps(backend, count // 4)
    print(report(rows, described, asked.json))


if __name__ == "__main__":
    main()
