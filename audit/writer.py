"""Encoding, hashing and storing, beside the batch that is being made."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from PIL import Image

from .backends.base import Result
from .plan import Placed

AHEAD = 2
"""Batches that may wait for the writer: memory stays flat, and a short stall of the disk is
bridged."""

Row = dict[str, Any]


class Writer:
    """Stores images on several threads and hands on each batch when all its images are stored.

    Batches are handed on one at a time, in the order in which they came.

    Args:
        store: what keeps an image: Pillow image in, what names it out. It runs on threads, where
            WebP encoding does not hold the interpreter.
        finish: called with a batch's number and rows, when every image of it is stored.
        batch_size: of the batches, for their rows.

    Attributes:
        waited: seconds for which :meth:`put` held the generator up.
    """

    def __init__(
        self,
        store: Callable[[Image.Image], Any],
        finish: Callable[[int, list[Row]], None],
        batch_size: int,
    ) -> None:
        self._store, self._finish, self._batch_size = store, finish, batch_size
        self._encoders = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "encode")
        self._finisher = ThreadPoolExecutor(1, "write")
        self._waiting: deque[Future[None]] = deque()
        self.waited = 0.0

    def put(
        self, number: int, members: Sequence[Placed], results: Sequence[Result]
    ) -> Future[None]:
        """Take a batch; wait while :data:`AHEAD` others are not yet written.

        Returns: the batch's own writing.

        Raises:
            AuditError: an earlier batch could not be written. That batch is not counted.
        """
        started = time.perf_counter()
        while self._waiting and (len(self._waiting) >= AHEAD or self._waiting[0].done()):
            self._waiting.popleft().result()
        self.waited += time.perf_counter() - started
        stored = [
            None if result.image is None else self._encoders.submit(self._store, result.image)
            for result in results
        ]
        rows = [
            row(member, result, self._batch_size)
            for member, result in zip(members, results, strict=True)
        ]
        written = self._finisher.submit(self._write, number, rows, stored)
        self._waiting.append(written)
        return written

    def _write(self, number: int, rows: list[Row], stored: list[Future[Any] | None]) -> None:
        for line, image in zip(rows, stored, strict=True):
            line["image"] = None if image is None else image.result()
        self._finish(number, rows)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Whatever stopped the generator, the batches that are made are written.
        try:
            while self._waiting:
                self._waiting.popleft().result()
        except Exception:
            if error is None:
                raise
        finally:
            self._encoders.shutdown(cancel_futures=True)
            self._finisher.shutdown(cancel_futures=True)


def row(member: Placed, result: Result, batch_size: int) -> Row:
    """The record of a request, its image not yet named. ``batch_made`` is the batch's true size
    where the backend had to make it smaller."""
    telemetry: Mapping[str, Any] = result.telemetry
    return {
        "request": member.request.id,
        "image": None,
        "outcome": result.outcome,
        "error": result.error,
        "batch_size": telemetry.get("batch_made", batch_size),
        "pixels_wide": None if result.image is None else result.image.width,
        "pixels_high": None if result.image is None else result.image.height,
        **{name: value for name, value in telemetry.items() if name != "batch_made"},
    }
