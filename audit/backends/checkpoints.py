"""From the name a user types to a folder of weights, with their hashes."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from audit.errors import AuditError

from . import hub
from .aliases import aliases, published
from .digests import published_as
from .hashes import sha256_file

__all__ = [
    "BUILT_IN",
    "aliases",
    "backend_for",
    "check_folder",
    "origin",
    "resolve",
    "sha256_file",
    "weight_hashes",
]

BUILT_IN = {
    "phantom": "the small model with planted, known answers that ships with the toolkit",
    "null": "the phantom's balanced twin: an audit must accuse it of nothing",
}

FAMILY = {
    f"Stable{kind}Pipeline"
    for kind in (
        "Diffusion",
        "DiffusionImg2Img",
        "DiffusionInpaint",
        "DiffusionDepth2Img",
        "DiffusionUpscale",
        "UnCLIPImg2Img",
    )
}
"""The pipelines of Stable Diffusion v1 and 2.x, which our own loop runs."""
NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WITHOUT_WEIGHTS = re.compile("Tokenizer|Scheduler|Processor|FeatureExtractor")


def resolve(
    model: str,
    prediction_type: str | None = None,
    allow_pickle: bool = False,
    tokenizer: str | Path | None = None,
) -> Path:
    """The diffusers folder of a model.

    Args:
        model: a built-in name, a folder, a ``.safetensors`` or ``.ckpt`` file (converted once, see
            :mod:`audit.backends.single_file`), or a name of the Hub, old and short names included.
        prediction_type: what a single file predicts: ``epsilon`` or ``v_prediction``.
        allow_pickle: accept parts that only have ``.bin`` weights.
        tokenizer: folder of the tokenizer for a single file; default: CLIP's.

    Raises:
        AuditError: there is no such model here; the message says what was tried.
    """
    from .single_file import converted, is_single_file

    if is_single_file(model):
        return converted(Path(model).expanduser(), prediction_type, tokenizer)
    if prediction_type or tokenizer:
        raise AuditError(
            "the options prediction_type and tokenizer are for single files; "
            f"'{model}' says both in its own folder"
        )
    if model in BUILT_IN:
        from audit.phantom import path

        return path(model)
    folder = Path(model).expanduser()
    if folder.exists():
        return folder
    if published(model) or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
        return hub.find(model, lambda found: check_folder(found, allow_pickle), allow_pickle)
    raise AuditError(
        f"no model '{model}': not a folder or file, and not a name ({', '.join(BUILT_IN)}, "
        f"{', '.join(aliases())}); give a diffusers folder, a .safetensors or .ckpt file, or a "
        "Hub name such as owner/model"
    )


def backend_for(folder: Path) -> str:
    """The backend that audits the model in `folder`.

    Raises:
        AuditError: it is no diffusers folder.
    """
    return "stable-diffusion" if _index(folder)["_class_name"] in FAMILY else "pipelines"


def origin(folder: Path) -> dict[str, Any]:
    """Where the weights in `folder` came from: repository and revision, single file, or path.

    Of a single file also which published one it is, by its SHA-256.
    """
    from .single_file import RECORD

    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return hub.origin(folder) or {"path": str(folder)}
    return record | {"published_as": published_as(str(record.get("sha256"))) or "not recognised"}


def check_folder(folder: Path, allow_pickle: bool = False) -> dict[str, Any]:
    """The parts of a diffusers folder, name → [library, class]; everything that it names is there.

    Args:
        folder: with a ``model_index.json``.
        allow_pickle: accept weights in ``.bin`` files that refer to nothing but tensors.

    Raises:
        AuditError: naming the part that is missing, damaged or refused.
    """
    index = _index(folder)
    parts = {
        name: value
        for name, value in index.items()
        if isinstance(value, list) and value[:1] != [None]
    }
    if index.get("_class_name") in FAMILY:
        for part in NEEDED:
            if part not in parts:
                raise AuditError(_lacks(folder, part))
    for part, named in parts.items():
        if part.startswith("_"):
            continue
        _check_named(folder, part, named)
        if not (folder / part).is_dir():
            raise AuditError(_lacks(folder, part))
        if not WITHOUT_WEIGHTS.search(named[1]):
            _check_weights(folder / part, allow_pickle)
    return parts


def weight_hashes(folder: Path) -> dict[str, str]:
    """File → SHA-256 of everything that shapes an image: weights, configurations, tokenizer."""
    from .single_file import RECORD

    hashes = {}
    for path in sorted(folder.rglob("*")):
        described = path.parent == folder and path.name in ("truth.json", "confusion.json", RECORD)
        used = path.suffix in (".safetensors", ".json", ".txt", ".model") or (
            path.suffix == ".bin" and not any(path.parent.glob("*.safetensors"))
        )
        if used and not described:
            hashes[path.relative_to(folder).as_posix()] = sha256_file(path)
    return hashes


def _index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.is_file():
        raise AuditError(f"{folder} is not a diffusers folder: it has no model_index.json")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AuditError(f"{path} is damaged: {error}") from error
    if not isinstance(index, dict):
        raise AuditError(f"{path} is damaged: it holds no mapping")
    return index | {"_class_name": str(index.get("_class_name"))}


def _check_named(folder: Path, part: str, named: list[Any]) -> None:
    """A model may name classes of diffusers and transformers, not files or modules of its own."""
    path = folder / "model_index.json"
    if (
        not re.fullmatch(r"\w+", part)
        or len(named) != 2
        or not all(isinstance(value, str) and re.fullmatch(r"\w+", value) for value in named)
    ):
        raise AuditError(f"{path} is refused: part {part!r} names {named!r}, which is no class")
    library = named[0]
    spec = find_spec("diffusers")
    inside = Path(spec.origin).parent / "pipelines" / library if spec and spec.origin else None
    known = library in ("diffusers", "transformers") or bool(inside and inside.is_dir())
    if not known or (folder / part / f"{library}.py").exists():
        raise AuditError(
            f"{path} is refused: part '{part}' needs code from '{library}', and only classes of "
            "diffusers and transformers are run"
        )


def _check_weights(part: Path, allow_pickle: bool) -> None:
    if any(part.glob("*.safetensors")):
        for listing in part.glob("*.safetensors.index.json"):
            _check_shards(listing)
        return
    pickled = sorted(part.glob("*.bin"))
    if not pickled:
        raise AuditError(
            f"{part} holds no weights (.safetensors): copy them from where the model came from"
        )
    if not allow_pickle:
        raise AuditError(
            f"{part} holds no .safetensors file, only {pickled[0].name}; pickled weights are "
            "loaded only with the option allow_pickle=true"
        )
    from .pickles import read_checkpoint

    for path in pickled:
        read_checkpoint(path)


def _check_shards(listing: Path) -> None:
    try:
        names = set(json.loads(listing.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise AuditError(f"{listing} is damaged: {error}") from error
    for name in sorted(map(str, names)):
        if Path(name).name != name:
            raise AuditError(f"{listing} is refused: it names {name!r}, outside its folder")
        if not (listing.parent / name).is_file():
            raise AuditError(f"{listing.parent} lacks {name}, a part of its weights")


def _lacks(folder: Path, part: str) -> str:
    return f"{folder} lacks its part '{part}': copy it from where the model came from"
