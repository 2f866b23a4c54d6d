"""Where images come from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from audit import plugins
from audit.errors import AuditError

from .base import SCHEDULERS, Backend, Result

__all__ = ["SCHEDULERS", "Backend", "Result", "open_backend"]

PREFIXES = {"images": "folder", "openai": "openai-images"}
"""What a MODEL may begin with, and the backend that it means."""


def backend_of(model: str, allow_pickle: bool = False) -> str:
    """The name of the backend for MODEL, without loading it.

    Args:
        model: as on the command line.
        allow_pickle: of the backend's options: pickled weights count as weights.

    Raises:
        AuditError: there is no such model.
    """
    prefix, colon, _ = model.partition(":")
    if colon and prefix in PREFIXES:
        return PREFIXES[prefix]
    from .checkpoints import backend_for, resolve
    from .single_file import is_single_file

    if is_single_file(model):
        return "stable-diffusion"
    return backend_for(resolve(model, allow_pickle=allow_pickle))


def open_backend(
    model: str,
    device: str = "auto",
    dtype: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> Backend:
    """Load MODEL with the backend that it needs.

    Args:
        model: as on the command line.
        device, dtype: where and in which precision.
        options: keyword arguments of the backend; ``name`` chooses another backend.

    Raises:
        AuditError: there is no such model, it cannot be loaded, or an option is unknown.
    """
    given = dict(options or {})
    name = given.pop("name", None) or backend_of(model, bool(given.get("allow_pickle")))
    factory = plugins.load("backends", name)
    known = set(inspect.signature(factory).parameters) - {"model", "device", "dtype"}
    for option in given:
        if option not in known:
            raise AuditError(
                f"backend {name} has no option '{option}'"
                f"{plugins.did_you_mean(option, known)}; there are: "
                f"name, {', '.join(sorted(known))}"
            )
    backend: Backend = factory(model, device, dtype, **given)
    return backend
