"""Low-rank adaptations (Hu et al. 2021) added to a Stable Diffusion pipeline."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from audit.errors import AuditError

from .hashes import sha256_file

DOWN = re.compile(
    r"\.lora_A\.|\.lora_down\.|\.lora\.down\.|_lora\.down\.|lora_linear_layer\.down\."
)
"""The first factor of a pair, in the forms of peft, kohya and diffusers."""


def load_lora(
    pipe: Any, files: Sequence[str | Path], scales: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Add local LoRA files to `pipe`, one adapter each; name, SHA-256 and scale of every one.

    Args:
        pipe: a pipeline with ``load_lora_weights``.
        files: ``.safetensors`` in the form of kohya, peft or diffusers.
        scales: one a file, 1 by default; 0 leaves the model as it was.

    Raises:
        AuditError: peft is not installed; a file is missing, damaged, pickled or made for another
            model; or the numbers of files and scales differ.
    """
    if not files:
        return []
    weights = [1.0] * len(files) if scales is None else [float(scale) for scale in scales]
    if len(weights) != len(files):
        raise AuditError(f"{len(files)} LoRA files need as many scales, not {len(weights)}")
    if find_spec("peft") is None:
        raise AuditError("LoRA files need peft: pip install 't2i-audit[lora]'")
    added = []
    for index, file in enumerate(files):
        path = Path(file).expanduser()
        state = _read(path)
        name = f"lora{index}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that there is more than one is meant
                pipe.load_lora_weights(state, adapter_name=name)
        except Exception as error:  # a file for another model raises many unrelated classes
            line = " ".join(str(error).split())[:200]
            raise AuditError(f"{path} does not fit this model: {line}") from error
        wanted = sum(1 for key in state if DOWN.search(key))
        loaded = _layers(pipe, name)
        if loaded == 0 or loaded != wanted:
            raise AuditError(
                f"{path} does not fit this model: {loaded} of its {wanted} layers found their place"
            )
        added.append({"name": path.name, "sha256": sha256_file(path), "scale": weights[index]})
    pipe.set_adapters([f"lora{index}" for index in range(len(files))], weights)
    return added


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() != ".safetensors":
        raise AuditError(f"{path} is refused: LoRA files are loaded as .safetensors only")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise AuditError(f"cannot read the LoRA file {path}: {error}") from error
    return state


def _layers(pipe: Any, adapter: str) -> int:
    return sum(
        adapter in getattr(module, "lora_A", ())
        for part in (pipe.unet, pipe.text_encoder)
        for module in part.modules()
    )
