"""The device: which one, in which precision, and how its failures are told apart."""

from __future__ import annotations

import re
from typing import Any

import torch

from audit.errors import AuditError, Incomplete

DTYPES = ("float32", "float16", "bfloat16")

_LOST = re.compile(r"CUDA|cuDNN|cuBLAS|NCCL|HIP error|device-side", re.IGNORECASE)


def choose_device(name: str) -> torch.device:
    """``auto`` takes a GPU where there is one.

    Raises:
        AuditError: a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise AuditError(f"device {name}: no GPU that this torch can use; say device auto or cpu")
    return torch.device(name)


def choose_dtype(name: str) -> torch.dtype:
    """The floating-point type of weights and arithmetic.

    Raises:
        AuditError: it is not one of :data:`DTYPES`.
    """
    if name not in DTYPES:
        raise AuditError(f"dtype is '{name}'; it must be one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def declare_tf32(allowed: bool) -> None:
    """Let float32 products and convolutions of this process run on 10-bit mantissas, or not."""
    # torch allows it for convolutions unless told otherwise, so both are always said.
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def describe_device(device: torch.device) -> dict[str, Any]:
    """For run.json: what the low bits of an image depend on."""
    described: dict[str, Any] = {
        "device": str(device),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "torch_threads": torch.get_num_threads(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    if device.type == "cuda":
        described |= {
            "device": torch.cuda.get_device_name(device),
            "compute_capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
            "device_memory": torch.cuda.get_device_properties(device).total_memory,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return described


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the device's memory did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)


def raise_if_lost(error: RuntimeError) -> None:
    """Say in one line that the device failed, where it did.

    Raises:
        Incomplete: a GPU vanished or its driver gave up; a new process may go on.
    """
    if isinstance(error, torch.AcceleratorError) or _LOST.search(str(error)):
        line = " ".join(str(error).split())[:200]
        raise Incomplete(
            f"the device failed: {line}; the same command goes on from here"
        ) from error


def _driver() -> str | None:
    try:
        import pynvml  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None
