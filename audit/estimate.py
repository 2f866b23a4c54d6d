"""What a run would cost: counted images, measured seconds, assumed bytes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .backends.base import Backend
from .plan import Placed, Request, Uses, place, shared

BYTES_PER_PIXEL = 2.1
"""Lossless WebP of a photo-like 512² image (545 KiB), thumbnail and scores included."""


def estimate(
    backend: Backend, batch_size: int, rounds: Sequence[Mapping[str, Uses]]
) -> dict[str, Any]:
    """Images, batches, minutes and megabytes of a plan.

    The time is measured: batches of two and of four steps are made and thrown away. Detection is
    not in it. A server is not asked, for an answer may cost money: its time is ``None``.

    Args:
        rounds: the uses of each round, those of earlier ones included; most plans have one.

    Returns:
        The figures of the last round; where there are several, under ``least`` those of the first.
    """
    placed: list[Placed] = []
    seconds: dict[tuple[Any, ...], float] | None = {}
    if backend.describe().get("mode") == "server":
        seconds = None
    figures = []
    for uses in rounds:
        wanted = (use.request for listed in uses.values() for use in listed)
        placed = place(shared(wanted), batch_size, placed)
        if seconds is not None:
            for request in {p.request.shape: p.request for p in placed}.values():
                if request.shape not in seconds:
                    seconds[request.shape] = _seconds(backend, request, batch_size)
        figures.append(_figures(uses, placed, seconds))
    return figures[-1] | ({"least": figures[0]} if len(figures) > 1 else {})


def _seconds(backend: Backend, request: Request, batch_size: int) -> float:
    """Of one batch of such requests: what each step costs, and what a batch costs beside."""

    def timed(steps: int) -> float:
        short = dataclasses.replace(request, steps=steps, deliver_size=0, watermark="")
        started = time.perf_counter()
        backend.generate([short], batch_size)
        return time.perf_counter() - started

    timed(2)  # the first batch also pays for what is made once
    two, four = timed(2), timed(4)
    return two + max(0.0, four - two) / 2 * (request.steps - 2)


def _figures(
    uses: Mapping[str, Uses],
    placed: Sequence[Placed],
    seconds: Mapping[tuple[Any, ...], float] | None,
) -> dict[str, Any]:
    batches = {p.batch: p.request.shape for p in placed}
    pixels = sum((p.request.deliver_size**2 or p.request.height * p.request.width) for p in placed)
    return {
        "uses": {probe: len(listed) for probe, listed in uses.items()},
        "images": len(placed),
        "batches": len(batches),
        "minutes": None
        if seconds is None
        else sum(seconds[shape] for shape in batches.values()) / 60,
        "megabytes": pixels * BYTES_PER_PIXEL / 1e6,
    }
