"""From the name a user types to a folder of weights, with their hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from audit.errors import AuditError

BUILT_IN = {
    "phantom": "the small model with planted, known answers that ships with the toolkit",
    "null": "the phantom's balanced twin: an audit must accuse it of nothing",
}


def resolve(model: str) -> Path:
    """The diffusers folder of a model: built-in name, folder, or a Hub name in the local cache.

    Raises:
        AuditError: there is no such model here; the message says what was tried.
    """
    if model in BUILT_IN:
        from audit.phantom import path

        return path(model)
    if model.startswith(("images:", "openai:")) or model.endswith((".ckpt", ".safetensors")):
        raise AuditError(
            f"cannot open '{model}': this version audits diffusers Stable Diffusion folders, "
            f"Hub names and {', '.join(BUILT_IN)}"
        )
    folder = Path(model).expanduser()
    if folder.exists():
        return folder
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return _from_hub(model)
    raise AuditError(
        f"no model '{model}': not a folder and not a built-in ({', '.join(BUILT_IN)}); "
        "give a diffusers folder or a Hub name such as owner/model"
    )


def backend_for(folder: Path) -> str:
    """The backend that audits the model in `folder`."""
    return "stable-diffusion"


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.txt", "*.safetensors", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub raises many unrelated classes
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "no answer"
        raise AuditError(
            f"cannot get '{name}' from the Hub or its local cache ({type(error).__name__}: "
            f"{reason}); fetch it elsewhere with: hf download {name}"
        ) from error


def check_folder(folder: Path) -> dict[str, Any]:
    """The `model_index.json` of a Stable Diffusion folder, every part that it names being there.

    Raises:
        AuditError: naming the part that is missing.
    """
    index_path = folder / "model_index.json"
    if not index_path.is_file():
        raise AuditError(f"{folder} is not a diffusers folder: it has no model_index.json")
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        parts = {k: v for k, v in index.items() if isinstance(v, list) and v[0] is not None}
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, IndexError) as error:
        raise AuditError(f"{index_path} is damaged: {error}") from error
    needed = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    for part in [*needed, *(name for name in parts if name not in needed)]:
        if part not in parts or not (folder / part).is_dir():
            raise AuditError(
                f"{folder} lacks its part '{part}': a Stable Diffusion folder has "
                f"{', '.join(needed)}; copy it from where the model came from"
            )
        if part in ("unet", "vae", "text_encoder", "safety_checker") and not any(
            (folder / part).glob("*.safetensors")
        ):
            raise AuditError(
                f"{folder / part} holds no .safetensors file (pickled weights are not loaded)"
            )
    return parts


def weight_hashes(folder: Path) -> dict[str, str]:
    """File → SHA-256 of everything that shapes an image: weights, configurations, tokenizer."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        described = path.parent == folder and path.name in ("truth.json", "confusion.json")
        if path.suffix in (".safetensors", ".json", ".txt", ".model") and not described:
            hashes[path.relative_to(folder).as_posix()] = sha256_file(path)
    return hashes


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
