"""A Stable Diffusion folder as a pipeline on its device."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from audit.errors import AuditError

from .variants import Variant


def check_options(options: Mapping[str, Any], device: torch.device) -> None:
    """Whether the options of a backend go together.

    Raises:
        AuditError: naming the one that does not.
    """
    for name, known in {
        "mode": ("reference", "fast"),
        "offload": ("none", "model", "sequential"),
    }.items():
        if options[name] not in known:
            raise AuditError(f"option {name} is '{options[name]}'; it must be {' or '.join(known)}")
    if options["offload"] != "none" and device.type != "cuda":
        raise AuditError(
            f"option offload={options['offload']} moves weights to a GPU while they are needed; "
            f"on {device} leave it away"
        )
    for name, off in {"attention": False, "attention_slicing": False, "offload": "none"}.items():
        if options["mode"] == "fast" and options[name] != off:
            raise AuditError(f"option {name} needs mode=reference")


def load_pipeline(
    folder: Path,
    variant: Variant,
    parts: Mapping[str, Any],
    dtype: torch.dtype,
    allow_pickle: bool = False,
) -> Any:
    """The diffusers pipeline of a folder, in main memory, without its safety checker.

    Raises:
        AuditError: a part cannot be loaded, or the model predicts what its variant cannot.
    """
    import diffusers
    import diffusers.utils.logging
    import transformers.utils.logging

    # Their bars would tear ours.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    factory = getattr(diffusers, variant.pipeline)
    # The safety checker is a detector of its own: the loop never blacks an image out. Nor does it
    # mark one: a watermark is chosen by the request.
    without: dict[str, Any] = {
        part: None for part in ("safety_checker", "watermarker") if part in parts
    }
    without |= {part: None for part in variant.absent if part not in parts}
    if "requires_safety_checker" in inspect.signature(factory.__init__).parameters:
        without["requires_safety_checker"] = False
    try:
        pipe = factory.from_pretrained(
            folder, dtype=dtype, use_safetensors=None if allow_pickle else True, **without
        )
    except Exception as error:  # many unrelated classes
        line = " ".join(str(error).split())[:300]
        raise AuditError(f"cannot load the model in {folder}: {line}") from error
    predicts = pipe.scheduler.config.get("prediction_type", "epsilon")
    if predicts not in variant.predicts:
        raise AuditError(
            f"{folder / 'scheduler'} says that the model predicts '{predicts}'; a model of this "
            f"kind ({variant.name}) predicts {' or '.join(variant.predicts)}"
        )
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe


def place(pipe: Any, device: torch.device, options: Mapping[str, Any]) -> None:
    """Bring a pipeline to its device, with the choices that save memory."""
    if options["attention_slicing"]:
        pipe.enable_attention_slicing()
    if options["vae_slicing"]:
        pipe.vae.enable_slicing()
    if options["vae_tiling"]:
        pipe.vae.enable_tiling()
    if options["offload"] == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif options["offload"] == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
