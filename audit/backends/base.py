"""The one interface of all backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from audit.inputs import Inputs
from audit.plan import Request

from .samplers import SCHEDULERS, scheduler_class

__all__ = ["SCHEDULERS", "Backend", "Result", "scheduler_class"]


@dataclass(frozen=True)
class Result:
    """What came of a request.

    Attributes:
        image: RGB, as delivered; ``None`` unless `outcome` is ``ok``.
        outcome: ``ok``, ``failed``, ``blocked`` (by the server's own filter) or ``missing`` (the
            folder has no such image).
        error: why it failed, in one line.
        telemetry: further columns of the record.
    """

    image: Image.Image | None
    outcome: str = "ok"
    error: str = ""
    telemetry: Mapping[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """A source of images, made by :func:`audit.backends.open_backend`.

    Three members are optional: ``check(request)`` raises an AuditError for a request that cannot be
    made, before anything is; ``images_per_prompt`` is how many a source has at most;
    ``harmless_options`` are those that change no image.
    """

    inputs: Inputs
    """The pictures that requests name; the engine sets it."""
    model_path: Path | None
    """The model's folder on disk; ``None`` for a model elsewhere."""
    sampler: Mapping[str, Any]
    """The model's own defaults for the sampler fields of a request."""

    def describe(self) -> Mapping[str, Any]:
        """For run.json: what was loaded, with the SHA-256 of every weight file."""

    def generate(self, requests: Sequence[Request], batch_size: int) -> list[Result]:
        """Make a batch of requests of one shape, padded to `batch_size`; a result for each."""
