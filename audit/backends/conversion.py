"""The tensors of an original checkpoint, named, shaped and written as diffusers has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import AuditError

from . import ldm
from .architectures import Architecture, Config, scheduler

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]
"""The tensors of a checkpoint by their original names."""
PARTS = ("unet", "vae", "text_encoder")
LEFT_OUT = ("position_ids", "logit_scale", "text_projection", ".loss.")
"""Of the three networks, what the pipelines do not use."""


def write_networks(state: State, out: Path, known: Architecture, path: Path) -> None:
    """UNet, autoencoder and text encoder with their configurations, in the file's own precision.

    Raises:
        AuditError: a tensor is missing, of another shape, or not of this architecture.
    """
    from safetensors.torch import save_file

    for part, tensors in _parts(state, known, path).items():
        folder = out / part
        folder.mkdir(parents=True)
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
        _write(folder / "config.json", _configuration(known, part))


def write_sampling(out: Path, known: Architecture, prediction_type: str) -> None:
    """The schedulers and ``model_index.json``."""
    if known.predicts is None and prediction_type == "v_prediction":
        # 2 and 2-1 were trained on at 768 pixels, 2-1 with its attention in single precision.
        larger = {"sample_size": 96, "upcast_attention": True}
        _write(out / "unet" / "config.json", {**_configuration(known, "unet"), **larger})
    schedulers: dict[str, Config] = {"scheduler": scheduler(known, prediction_type)}
    schedulers |= {name: config for name, config in known.extra.items() if config}
    for name, config in schedulers.items():
        (out / name).mkdir(parents=True)
        _write(out / name / "scheduler_config.json", _dated(config))
    index: dict[str, Any] = {
        "_class_name": known.pipeline,
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    index |= {name: ["diffusers", config["_class_name"]] for name, config in schedulers.items()}
    index |= {name: [None, None] for name, config in known.extra.items() if config is None}
    if known.pipeline in ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"):
        index |= {name: [None, None] for name in ("safety_checker", "feature_extractor")}
        index["requires_safety_checker"] = False
    _write(out / "model_index.json", _dated(index))


def _configuration(known: Architecture, part: str) -> dict[str, Any]:
    model_class, config = _class_and_config(known, part)
    if part == "text_encoder":
        return {**model_class.config_class(**config).to_dict(), "architectures": ["CLIPTextModel"]}
    return _dated({"_class_name": model_class.__name__, **config})


def _dated(config: Config) -> dict[str, Any]:
    import diffusers

    # Some pipelines ask for it, to tell old configurations from new ones.
    return {"_diffusers_version": diffusers.__version__, **config}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _parts(state: State, known: Architecture, path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Part → diffusers' name → tensor, everything that the architecture has."""
    used: set[str] = set()
    found = {}
    for part in PARTS:
        original = naming(part, known, state)
        tensors, missing = {}, []
        for name, shape in expected(known, part).items():
            key, third = original(name)
            if key not in state:
                missing.append(key)
                continue
            used.add(key)
            tensors[name] = _fit(state[key], third, shape, key, path)
        if missing:
            raise AuditError(
                f"{path} lacks {len(missing)} tensors of its {part} (first: '{missing[0]}'): "
                f"it is no whole {known.name} checkpoint"
            )
        found[part] = tensors
    _check_rest(set(state) - used, known, path)
    return found


def naming(part: str, known: Architecture, state: State) -> Callable[[str], tuple[str, int | None]]:
    """How a part's tensors are called in the file, and which third of one they are, if any."""
    if part == "unet":
        layers = known.unet["layers_per_block"]
        attends = tuple("CrossAttn" in block for block in known.unet["up_block_types"])
        return lambda name: (ldm.unet_name(name, layers, attends), None)
    if part == "vae":
        blocks = len(known.vae["block_out_channels"])
        return lambda name: (ldm.vae_name(name, blocks), None)
    if known.open_clip:
        return ldm.open_clip_name
    if ldm.EMBEDDED in state:
        return lambda name: (ldm.clip_name(name), None)
    # Some early fine-tunes were saved without the inner name.
    return lambda name: (ldm.clip_name(name).replace("text_model.", ""), None)


def expected(known: Architecture, part: str) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of a part, from the class itself, without memory for it."""
    import torch

    model_class, config = _class_and_config(known, part)
    with torch.device("meta"):
        if part == "text_encoder":
            model = model_class(model_class.config_class(**config))
        else:
            model = model_class.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _class_and_config(known: Architecture, part: str) -> tuple[Any, Config]:
    if part == "text_encoder":
        from transformers import CLIPTextModel

        return CLIPTextModel, known.text_encoder
    import diffusers

    name = "UNet2DConditionModel" if part == "unet" else "AutoencoderKL"
    return getattr(diffusers, name), known.unet if part == "unet" else known.vae


def _fit(
    tensor: torch.Tensor, third: int | None, shape: tuple[int, ...], key: str, path: Path
) -> torch.Tensor:
    import torch

    if third is not None:
        tensor = tensor.chunk(3)[third].clone()  # thirds share memory, which is not written
    # A 1×1 convolution and a linear layer are the same numbers.
    if {tensor.ndim, len(shape)} == {2, 4} and tensor.numel() == torch.Size(shape).numel():
        tensor = tensor.reshape(shape)
    if tuple(tensor.shape) != shape:
        raise AuditError(
            f"{path}: tensor '{key}' is {tuple(tensor.shape)}, but this architecture has {shape}"
        )
    return tensor.contiguous()


def _check_rest(rest: set[str], known: Architecture, path: Path) -> None:
    text = (ldm.OPEN_CLIP if known.open_clip else ldm.CLIP,)
    layers = known.text_encoder["num_hidden_layers"]
    last = f"{ldm.OPEN_CLIP}transformer.resblocks.{layers}."
    strange = sorted(
        key
        for key in rest
        if key.startswith((ldm.UNET, ldm.VAE, *text))
        and not any(part in key for part in LEFT_OUT)
        and not key.startswith(last)
    )
    if strange:
        raise AuditError(
            f"{path} holds {len(strange)} tensors that {known.name} does not have (first: "
            f"'{strange[0]}'): it is another model; give its diffusers folder instead"
        )
