"""Checkpoints: cut short and altered, as zip files of pickles and as .safetensors."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given

from audit.errors import AuditError

from .fuzzing import DEEP, JUNK, as_json, changed, damaged, examples, survives


def _checkpoint(zipped: bool = True) -> bytes:
    import torch

    buffer = io.BytesIO()
    state = {"a.weight": torch.ones(2, 3), "b.bias": torch.zeros(3, dtype=torch.float16)}
    torch.save({"state_dict": state, "epoch": 3}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


CHECKPOINTS = [_checkpoint(), _checkpoint(zipped=False)]
HEADER: dict[str, Any] = {
    "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b.bias": {"dtype": "F16", "shape": [3], "data_offsets": [24, 30]},
    "__metadata__": {"format": "pt"},
}


def tensors(header: Any) -> bytes:
    """A .safetensors file with this header."""
    text = as_json(header)
    return struct.pack("<Q", len(text)) + text + bytes(30)


@given(damaged(CHECKPOINTS))
@examples(120)
def test_a_pickled_checkpoint_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    from audit.backends.pickles import read_checkpoint

    path = tmp_path_factory.getbasetemp() / "model.ckpt"
    path.write_bytes(data)
    survives("pickled checkpoints", lambda: read_checkpoint(path))


@given(damaged([tensors(HEADER)]))
@example(struct.pack("<Q", 2**63) + b"{}")
@example(b"")
@examples(80)
def test_a_safetensors_file_is_converted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    _converted(tmp_path_factory.getbasetemp() / "model.safetensors", data)


@given(changed([HEADER]).map(tensors))
@examples(80)
def test_a_safetensors_header_is_believed_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    _converted(tmp_path_factory.getbasetemp() / "model.safetensors", data)


def _converted(path: Path, data: bytes) -> None:
    from audit.backends.single_file import converted

    path.write_bytes(data)
    found = survives("safetensors files", lambda: converted(path))
    assert isinstance(found, AuditError)  # two small tensors are no Stable Diffusion


@pytest.mark.parametrize("shape", [[2**40], [2**62, 2**62], [-1], [1.5], ["1"]])
def test_a_header_that_claims_endless_tensors_is_refused(tmp_path: Path, shape: list[Any]) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 30]}
    _converted(tmp_path / "model.safetensors", tensors({"a.weight": entry}))


CONFIGURATION = {"model": {"params": {"parameterization": "v"}, "target": "ldm"}}


@given(
    damaged([json.dumps(CONFIGURATION).encode(), b"model:\n  params:\n    parameterization: v\n"])
)
@example(b"model: 2026-99-99")
@example(b"model: {params: {parameterization: [v]}}")
@example(b"[" * 5000)
@examples(80)
def test_a_training_configuration_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    from audit.backends.single_file import _beside

    path = tmp_path_factory.getbasetemp() / "beside.yaml"
    path.write_bytes(data)
    survives("training configurations", lambda: _beside(path.with_suffix(".ckpt")))


INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "safety_checker": [None, None],
}


@given(changed([INDEX]).map(as_json))
@example(as_json(JUNK[3]))
@example(as_json({**INDEX, "_class_name": []}))
@example(as_json({**INDEX, "unet": DEEP}))
@examples(80)
def test_a_model_index_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    from audit.backends.checkpoints import backend_for, check_folder

    folder = tmp_path_factory.getbasetemp() / "model"
    folder.mkdir(exist_ok=True)
    (folder / "model_index.json").write_bytes(data)
    survives("model indexes", lambda: (backend_for(folder), check_folder(folder)))
