"""The one interface of all backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from audit.errors import AuditError
from audit.inputs import Inputs
from audit.plan import Request
from audit.plugins import did_you_mean

SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""The samplers of the model cards by name: diffusers class and what is set beside the model's own
configuration. ``model`` names the scheduler that the model itself ships."""


def scheduler_class(name: str) -> tuple[str, Mapping[str, Any]] | None:
    """The diffusers class and settings of a sampler; ``None`` for ``model``.

    Raises:
        AuditError: there is no such sampler.
    """
    if name == "model":
        return None
    if name not in SCHEDULERS:
        raise AuditError(
            f"unknown scheduler '{name}'{did_you_mean(name, SCHEDULERS)}; there are: "
            f"model, {', '.join(sorted(SCHEDULERS))}"
        )
    return SCHEDULERS[name]


@dataclass(frozen=True)
class Result:
    """What came of a request.

    Attributes:
        image: RGB, as delivered; ``None`` unless `outcome` is ``ok``.
        outcome: ``ok`` or ``failed``.
        error: why it failed, in one line.
        telemetry: further columns of the record.
    """

    image: Image.Image | None
    outcome: str = "ok"
    error: str = ""
    telemetry: Mapping[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """A source of images, made by :func:`audit.backends.open_backend`."""

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
