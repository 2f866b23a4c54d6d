"""A checkpoint's pickle is never run: hostile files are refused, foreign classes stay inert."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audit.backends.pickles import names_in, read_checkpoint
from audit.errors import AuditError


class Touch:
    """A payload: unpickled by ordinary means, it makes a file."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.args


PAYLOADS = {
    "posix.system": lambda mark: Touch(os.system, f"touch {mark}"),
    "builtins.eval": lambda mark: Touch(eval, f"open({str(mark)!r}, 'w').close()"),
    "builtins.exec": lambda mark: Touch(exec, f"open({str(mark)!r}, 'w').close()"),
    "commands.check_call": lambda mark: Touch(subprocess.check_call, ["touch", str(mark)]),
    "torch.serialization.save": lambda mark: Touch(torch.save, [1], str(mark)),
}


def state() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_a_hostile_checkpoint_is_refused_by_name_and_its_payload_does_not_run(
    tmp_path: Path, name: str, zipped: bool
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.ckpt"
    nested = {"state_dict": state(), "callbacks": {"x": [({"y": PAYLOADS[name](mark)},)]}}
    torch.save(nested, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AuditError, match="refused") as caught:
        read_checkpoint(path)
    assert not mark.exists()
    said = str(caught.value)
    assert "\n" not in said and ".safetensors" in said
    assert name in said


def test_the_payloads_do_run_when_unpickled_by_ordinary_means(tmp_path: Path) -> None:
    for name, payload in PAYLOADS.items():
        path, mark = tmp_path / f"{name}.ckpt", tmp_path / f"{name}.mark"
        torch.save(payload(mark), path)
        with zipfile.ZipFile(path) as archive:
            inside = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            pickle.loads(archive.read(inside))
        assert mark.exists(), name


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_bare_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps(PAYLOADS["posix.system"](mark), protocol=protocol))
    with pytest.raises(AuditError) as caught:
        read_checkpoint(path)
    assert not mark.exists() and "\n" not in str(caught.value)


def test_a_harmless_name_called_with_a_payload_does_not_carry_it(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.ckpt"
    foreign = fake_class("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    try:
        holder = foreign()
        holder.inner = PAYLOADS["posix.system"](mark)
        torch.save({"state_dict": state(), "callbacks": holder}, path)
    finally:
        forget("pytorch_lightning")
    with pytest.raises(AuditError, match=r"posix\.system"):
        read_checkpoint(path)
    assert not mark.exists()


def fake_class(module: str, name: str, base: type = object) -> Any:
    """A class that pickles as `module`.`name`, of a package that is not installed."""
    parts = module.split(".")
    for index in range(len(parts)):
        whole = ".".join(parts[: index + 1])
        sys.modules.setdefault(whole, types.ModuleType(whole))
    made = type(name, (base,), {"__module__": module, "ran": False})
    setattr(sys.modules[module], name, made)
    return made


def forget(package: str) -> None:
    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        del sys.modules[name]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_lightning_checkpoint_loads_through_inert_stubs(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.ckpt"
    checkpoint = fake_class("pytorch_lightning.callbacks", "ModelCheckpoint")
    attributes = fake_class("pytorch_lightning.utilities.parsing", "AttributeDict", dict)
    config = fake_class("omegaconf.dictconfig", "DictConfig")
    try:
        kept = config()
        kept._metadata, kept._content = {"ref_type": Any}, {"lr": 1e-4}
        torch.save(
            {
                "epoch": 3,
                "global_step": 470000,
                "callbacks": {checkpoint: {"best_model_score": torch.tensor(0.1)}},
                "hyper_parameters": attributes(lr=1e-4, config=kept),
                "optimizer": defaultdict(dict, {"a": {"type": int}}),
                "loss": np.float64(0.5),
                "state_dict": state(),
            },
            path,
            _use_new_zipfile_serialization=zipped,
        )
    finally:
        forget("pytorch_lightning")
        forget("omegaconf")
    assert "pytorch_lightning.callbacks.ModelCheckpoint" in names_in(path)
    with pytest.raises(Exception, match="ModelCheckpoint"):
        torch.load(path, weights_only=True)
    allowed = torch.serialization.get_safe_globals()
    loaded = read_checkpoint(path)
    assert set(loaded) == {"a.weight", "a.bias"}
    assert torch.equal(loaded["a.weight"], state()["a.weight"])
    assert "pytorch_lightning" not in sys.modules and "omegaconf" not in sys.modules
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


def test_an_unknown_package_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    foreign = fake_class("strange.things", "Thing")
    try:
        torch.save({"state_dict": state(), "extra": foreign()}, path)
    finally:
        forget("strange")
    with pytest.raises(AuditError, match=r"strange\.things\.Thing"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", b"PK\x03\x04 broken zip", b"\x80\x02}q\x00."],
    ids=["empty", "text", "broken-zip", "empty-dict"],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(AuditError, match=r"model\.ckpt") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(AuditError, match="damaged"):
        read_checkpoint(path)


def test_a_checkpoint_without_tensors_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"epoch": 3}}, path)
    with pytest.raises(AuditError, match="no tensors"):
        read_checkpoint(path)


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", pickle.dumps(()))
        archive.writestr("model/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("model/version", "3\n")
    with pytest.raises(AuditError):
        read_checkpoint(path)
