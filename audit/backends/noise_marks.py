"""Watermarks that are set in the initial noise, before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from audit import plugins
from audit.errors import AuditError
from audit.plan import Request

if TYPE_CHECKING:
    import torch


class NoiseMark(Protocol):
    """A mark that a model's own start carries; made by a factory without arguments.

    The installed ones are plug-ins of the group ``t2i_audit.latent_watermarks``.
    """

    name: str

    def initial_noise(
        self, shape: tuple[int, int, int], generator: torch.Generator
    ) -> torch.Tensor:
        """Marked noise of unit variance, shape (channels, height, width), float32 on the CPU."""


def noise_mark(request: Request, known: Mapping[str, NoiseMark]) -> NoiseMark | None:
    """The mark that a request wants in its noise; ``None`` for none, or one set on the image.

    Args:
        known: marks by name, looked at before the installed ones.
    """
    name = request.watermark
    if name in known:
        return known[name]
    if not name or name not in plugins.names("latent_watermarks"):
        return None
    factory: Any = plugins.load("latent_watermarks", name)
    mark: NoiseMark = factory()
    return mark


def refuse_noise_mark(request: Request, why: str) -> None:
    """For what does not reach the initial noise of an image.

    Raises:
        AuditError: the request wants a mark there.
    """
    if request.watermark in plugins.names("latent_watermarks"):
        raise AuditError(f"watermark '{request.watermark}' is set in the initial noise: {why}")
