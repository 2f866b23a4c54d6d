"""The samplers of the model cards: diffusers schedulers by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from audit.errors import AuditError
from audit.plugins import did_you_mean

SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""The samplers of the model cards by name: diffusers class and what is set beside the model's own
configuration. ``model`` names the scheduler that the model itself ships. Clipping is for pixels;
what is denoised here are latents, which a configuration that says nothing would clip."""


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


def make_scheduler(own: Any, name: str) -> Any:
    """A fresh scheduler.

    Args:
        own: the scheduler that the model ships; its configuration is kept.
        name: a name of :data:`SCHEDULERS`, or ``model``.

    Raises:
        AuditError: there is no such sampler, or it cannot run with the model's configuration.
    """
    import diffusers

    chosen = scheduler_class(name)
    try:
        if chosen is None:
            return type(own).from_config(own.config)
        return getattr(diffusers, chosen[0]).from_config(own.config, **chosen[1])
    except (ValueError, NotImplementedError) as error:
        line = " ".join(str(error).split())[:200]
        raise AuditError(
            f"scheduler '{name}' cannot run with this model's configuration: {line}"
        ) from error


def set_steps(scheduler: Any, steps: int, strength: float | None, device: Any) -> Any:
    """Set the timesteps and return those that are run, shape (steps,).

    Args:
        scheduler: a fresh one.
        steps: of the whole noising.
        strength: ``None`` where the start is pure noise. Else only the last int(steps × strength)
            are run: the start is a picture, noised to the first of them (SDEdit, Meng et al. 2022).
        device: of the timesteps.
    """
    scheduler.set_timesteps(steps, device=device)
    if strength is None:
        return scheduler.timesteps
    first = (steps - int(steps * strength)) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler.timesteps[first:]


def takes(scheduler: Any, name: str) -> bool:
    """Whether a step of the scheduler knows the argument `name` (``eta``, ``generator``)."""
    return name in inspect.signature(scheduler.step).parameters
