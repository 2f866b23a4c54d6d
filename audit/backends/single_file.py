"""One-file checkpoints (``.safetensors``, ``.ckpt``) made into diffusers folders, offline, once.

What a file is follows from its tensors' shapes (:data:`audit.backends.architectures.ARCHITECTURES`)
and every tensor of that architecture must be there, once, in its shape. What 2.x predicts is in no
tensor; it is, in this order: the option ``prediction_type``; ``parameterization`` of a YAML file of
the same name beside it; or measured: at the last timestep almost all of the input is noise, so a
model that predicts the noise returns its input, and one that predicts v does not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit import yaml_files
from audit.errors import AuditError

from . import ldm
from .architectures import ARCHITECTURES, PREDICTIONS, Architecture
from .conversion import State, write_networks, write_sampling
from .hashes import cache_dir, sha256_file
from .pickles import read_checkpoint

if TYPE_CHECKING:
    import torch

Denoiser = Callable[["torch.Tensor", int], "torch.Tensor"]

SUFFIXES = (".safetensors", ".ckpt")
RECORD = "conversion.json"
VERSION = 1
"""Of the conversion: a folder that another version made is not used again."""

FIRST = f"{ldm.UNET}input_blocks.0.0.weight"


def is_single_file(model: str) -> bool:
    """Whether MODEL names a file rather than a folder or a repository."""
    return model.lower().endswith(SUFFIXES) and not Path(model).expanduser().is_dir()


def converted(
    path: Path, prediction_type: str | None = None, tokenizer: Path | str | None = None
) -> Path:
    """The diffusers folder of a single file, made on the first call.

    It lies in the cache under the file's SHA-256 and is written whole or not at all.

    Args:
        path: the file.
        prediction_type: what it predicts, where that is to be said.
        tokenizer: a folder with the tokenizer; default: CLIP's own vocabulary.

    Raises:
        AuditError: the file is missing, damaged, refused, or of no known architecture; or what it
            predicts is unknown.
    """
    if not path.is_file():
        raise AuditError(f"no file {path}")
    if prediction_type not in (None, *PREDICTIONS):
        raise AuditError(
            f"unknown prediction_type '{prediction_type}'; there are: {', '.join(PREDICTIONS)}"
        )
    told, source = (prediction_type, "option") if prediction_type else _beside(path)
    digest = sha256_file(path)
    own = _tokenizer_files(Path(tokenizer).expanduser()) if tokenizer else {}
    key = json.dumps([VERSION, told, {name: sha256_file(file) for name, file in own.items()}])
    home = cache_dir() / "models" / digest
    folder = home / hashlib.sha256(key.encode()).hexdigest()[:12]
    from filelock import FileLock

    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".lock"):
            if not (folder / RECORD).is_file():
                partial = folder.with_name(f".{folder.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                try:
                    record = convert(_read(path), partial, path, told, source, own)
                    record |= {"file": path.name, "sha256": digest}
                    (partial / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
                    partial.rename(folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise AuditError(
            f"cannot write the converted model to {home}: {error.strerror or error}; "
            "T2I_AUDIT_CACHE names another place"
        ) from error
    return folder


def detect(state: State, path: Path) -> Architecture:
    """What the tensors of a file are.

    Raises:
        AuditError: nothing that we know.
    """
    if any(key.startswith("conditioner.embedders.") for key in state):
        raise AuditError(f"{path} is an SDXL file: give its diffusers folder instead")
    if any(key.startswith((f"{ldm.UNET}label_emb.0.0.", "embedder.")) for key in state):
        raise AuditError(
            f"{path} is an unCLIP file: give its diffusers folder instead (2-1-unclip)"
        )
    cross = next((state[k] for k in sorted(state) if k.endswith("attn2.to_k.weight")), None)
    if FIRST not in state or cross is None:
        lora = any("lora" in key for key in state)
        raise AuditError(
            f"{path} holds a LoRA, not a model: add it with the option lora={path}"
            if lora
            else f"{path} is no Stable Diffusion v1 or 2.x checkpoint: it has no tensor "
            f"'{FIRST}'; a file of one part alone cannot be audited"
        )
    shape = (int(state[FIRST].shape[1]), int(cross.shape[1]))
    if shape not in ARCHITECTURES:
        known = ", ".join(f"{a.name} {key}" for key, a in ARCHITECTURES.items())
        raise AuditError(
            f"{path} has {shape[0]} input channels and text {shape[1]} wide, which fits no known "
            f"model ({known}); give its diffusers folder instead"
        )
    return ARCHITECTURES[shape]


def convert(
    state: State,
    out: Path,
    path: Path,
    prediction_type: str | None = None,
    source: str = "option",
    tokenizer: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Write `state` as a diffusers folder `out`; how it was taken, for the record.

    Weights keep the precision of the file. Of a file that holds averaged (EMA) weights beside the
    others, the others are taken, as the original code does for inference.

    Raises:
        AuditError: see :func:`converted`.
    """
    known = detect(state, path)
    _check_schedule(state, known, path)
    write_networks(state, out, known, path)
    _write_tokenizer(out / "tokenizer", known, tokenizer or {})
    correlation = None
    if prediction_type is None and known.predicts is None:
        correlation = noise_correlation(*denoiser(out))
        prediction_type, source = told_by(correlation, path), "measured"
    elif prediction_type is None:
        prediction_type, source = str(known.predicts), "architecture"
    write_sampling(out, known, prediction_type)
    return {
        "architecture": known.name,
        "prediction_type": prediction_type,
        "prediction_type_from": source,
        "noise_correlation": correlation,
        "averaged_weights_ignored": any(key.startswith("model_ema.") for key in state),
        "tokenizer": "option" if tokenizer else "open_clip's vocabulary",
        "conversion": VERSION,
    }


def noise_correlation(denoise: Denoiser, shape: tuple[int, int, int, int]) -> float:
    """Cosine of a model's output with its input, noise at the last timestep.

    With x_t = √ᾱ x₀ + √(1−ᾱ) ε and ᾱ ≈ 0.005, ε is 0.998 of x_t; v = √ᾱ ε − √(1−ᾱ) x₀ has 0.07
    of it (Salimans and Ho 2022, appendix D).

    Args:
        denoise: latents and a timestep → the model's prediction.
        shape: of the latents.
    """
    import torch

    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    predicted = denoise(noise, 999)
    return float(torch.cosine_similarity(predicted.flatten(), noise.flatten(), dim=0))


def denoiser(folder: Path) -> tuple[Denoiser, tuple[int, int, int, int]]:
    """The UNet of a folder without a prompt, in single precision, and its latent's shape."""
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32).eval()

    @torch.inference_mode()
    def denoise(latents: torch.Tensor, timestep: int) -> torch.Tensor:
        ids = tokenizer("", padding="max_length", return_tensors="pt").input_ids
        predicted: torch.Tensor = unet(latents, timestep, text(ids)[0]).sample
        return predicted

    side = int(unet.config["sample_size"])
    return denoise, (1, int(unet.config["in_channels"]), side, side)


def told_by(correlation: float, path: Path) -> str:
    if correlation > 0.8:
        return "epsilon"
    if abs(correlation) < 0.4:
        return "v_prediction"
    raise AuditError(
        f"cannot tell what {path} predicts: its output at the last timestep correlates "
        f"{correlation:.2f} with the noise (epsilon near 1, v near 0); give the option "
        "prediction_type=epsilon or prediction_type=v_prediction"
    )


def _beside(path: Path) -> tuple[str | None, str]:
    """What a YAML file of the same name says, and that it said so."""
    for beside in (path.with_suffix(".yaml"), path.with_suffix(".yml")):
        if not beside.is_file():
            continue
        try:
            given = yaml_files.parsed(beside.read_text(encoding="utf-8"), str(beside))
            said = given["model"]["params"].get("parameterization", "eps")
            return {"v": "v_prediction", "eps": "epsilon"}[said], beside.name
        except (OSError, AuditError, *yaml_files.WRONG) as error:
            raise AuditError(
                f"{beside} does not say what the model predicts (model: params: parameterization: "
                "v or eps); correct or remove it, or give the option prediction_type"
            ) from error
    return None, ""


def _read(path: Path) -> State:
    if path.suffix.lower() == ".ckpt":
        return read_checkpoint(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise AuditError(f"{path} is damaged or no safetensors file: {error}") from error
    return state


def _check_schedule(state: State, known: Architecture, path: Path) -> None:
    import torch

    kept = state.get("alphas_cumprod")
    if kept is None:
        return
    start, end = known.betas
    betas = torch.linspace(start**0.5, end**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1 - betas, 0)
    if kept.shape != expected.shape or not torch.allclose(kept.double(), expected, atol=1e-3):
        raise AuditError(
            f"{path} was trained with another noise schedule than {known.name}: give its "
            "diffusers folder, whose scheduler says which"
        )


def _tokenizer_files(folder: Path) -> dict[str, Path]:
    inside = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    files = {file.name: file for file in sorted(inside.glob("*")) if file.suffix in _TEXT_FILES}
    if not {"tokenizer.json", "vocab.json"} & set(files):
        raise AuditError(
            f"{folder} is no tokenizer folder: it has neither tokenizer.json nor vocab.json"
        )
    return files


_TEXT_FILES = (".json", ".txt")


def _write_tokenizer(folder: Path, known: Architecture, own: Mapping[str, Path]) -> None:
    if own:
        folder.mkdir(parents=True)
        for name, file in own.items():
            shutil.copyfile(file, folder / name)
        return
    from .clip_tokenizer import clip_tokenizer

    clip_tokenizer(known.pad_token).save_pretrained(folder)
