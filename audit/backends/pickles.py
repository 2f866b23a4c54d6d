"""Pickled checkpoints, read without running anything that they hold.

torch reads them with its restricted unpickler (``weights_only=True``), which builds tensors and
plain containers and nothing else. Training frameworks leave objects of their own classes beside
the weights; those become inert containers here, and are thrown away. A name outside `HARMLESS`
is refused.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from audit.errors import AuditError

if TYPE_CHECKING:
    import torch

HARMLESS = re.compile(
    r"(pytorch_lightning|lightning|lightning_fabric|lightning_utilities|omegaconf|torchmetrics)\..+"
    r"|builtins\.(bool|dict|float|int|list|object|str|tuple)"
    r"|collections\.defaultdict|typing\.Any"
)
"""What is known to lie beside the weights of published checkpoints. None of it is imported."""
HARMLESS_NUMBERS = re.compile(
    r"numpy\.(dtype|ndarray|(core|_core)\.multiarray\.(scalar|_reconstruct)|bool_|float\d+|int\d+)"
)


class _InertContainer:
    """Takes the place of a foreign class: whatever it is called with, an empty mapping results."""

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()


class _InertNumber:
    """Takes the place of numpy's classes, whose state is no mapping."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.ckpt``, ``.pt`` or ``.bin`` file; nothing of it is run.

    Raises:
        AuditError: it is damaged, holds no state dict, or names something that weights do not need.
    """
    import torch
    from torch.serialization import safe_globals

    names = names_in(path)
    inert: list[Any] = [(_InertContainer, name) for name in names if HARMLESS.fullmatch(name)]
    inert += [(_InertNumber, name) for name in names if HARMLESS_NUMBERS.fullmatch(name)]
    try:
        with safe_globals(inert), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mapped = zipfile.is_zipfile(path)
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except Exception as error:  # whatever a damaged or hostile file can make of it
        raise AuditError(_refusal(path, names, error)) from None
    while isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise AuditError(f"{path} holds no state dict: it is not a checkpoint of a model")
    tensors = {
        key: value.detach()
        for key, value in found.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise AuditError(f"{path} holds no tensors: it is not a checkpoint of a model")
    return tensors


def names_in(path: Path) -> set[str]:
    """The names (``module.attribute``) that a checkpoint's pickles refer to, read as text.

    Raises:
        AuditError: the file cannot be read.
    """
    names: set[str] = set()
    try:
        for file in _pickles(path):
            try:
                for opcode, argument, _ in pickletools.genops(file):
                    if opcode.name in ("GLOBAL", "INST"):
                        module, _, name = str(argument).partition(" ")
                        # Protocol 2 has Python 2's names; torch and we look them up as Python 3's.
                        module, name = NAME_MAPPING.get((module, name), (module, name))
                        names.add(f"{IMPORT_MAPPING.get(module, module)}.{name}")
            except Exception:  # not a pickle any more: what follows is weights, or torch refuses it
                return names
    except (OSError, zipfile.BadZipFile) as error:
        raise AuditError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error
    return names


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    with archive.open(name) as file:
                        yield file
        return
    # The format before 2020: magic number, version, system, the object, the storages' keys.
    with path.open("rb") as file:
        for _ in range(5):
            yield file


def _refusal(path: Path, names: set[str], error: Exception) -> str:
    said = re.search(r"GLOBAL (\S+)", str(error))
    if said:
        short = said[1]
        name = next((n for n in sorted(names) if n == short or n.endswith(f".{short}")), short)
        return (
            f"{path} is refused: its pickle refers to {name}, which no weights need; nothing of "
            "it was run. Use the model's .safetensors file"
        )
    line = " ".join(str(error).split())[:160] or type(error).__name__
    return f"cannot read the weights in {path}: it is damaged or not a checkpoint ({line})"
