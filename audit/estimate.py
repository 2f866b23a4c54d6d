"""What a run would cost: counted images, measured seconds, assumed bytes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from .backends.base import Backend
from .plan import Placed, Use

BYTES_PER_PIXEL = 2.1
"""Lossless WebP of a photo-like 512² image (545 KiB), thumbnail and scores included."""


def estimate(
    backend: Backend, placed: Sequence[Placed], batch_size: int, uses: Mapping[str, Sequence[Use]]
) -> dict[str, Any]:
    """Images, batches, minutes and megabytes of a plan.

    The time is measured: one batch of two steps is made and thrown away, its cost scaled to the
    plan's steps. Detection is not in it. A server is not asked, for an answer may cost money: its
    time is ``None``.
    """
    import dataclasses

    by_shape: dict[tuple[Any, ...], list[Placed]] = {}
    for place in placed:
        by_shape.setdefault(place.request.shape, []).append(place)
    asked = backend.describe().get("mode") != "server"
    seconds = 0.0
    for members in by_shape.values() if asked else ():
        request = dataclasses.replace(members[0].request, steps=2, deliver_size=0, watermark="")
        started = time.perf_counter()
        backend.generate([request], batch_size)
        batches = len({member.batch for member in members})
        seconds += (time.perf_counter() - started) / 2 * members[0].request.steps * batches
    pixels = sum((p.request.deliver_size**2 or p.request.height * p.request.width) for p in placed)
    return {
        "uses": {probe: len(listed) for probe, listed in uses.items()},
        "images": len(placed),
        "batches": len({p.batch for p in placed}),
        "minutes": seconds / 60 if asked else None,
        "megabytes": pixels * BYTES_PER_PIXEL / 1e6,
    }
