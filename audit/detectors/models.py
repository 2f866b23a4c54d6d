"""Image networks of a user: ONNX, TorchScript, transformers. No pickle is ever opened."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from audit.backends.checkpoints import sha256_file, weight_hashes
from audit.errors import AuditError

ONNX, TORCHSCRIPT = (".onnx",), (".pt", ".ts", ".torchscript")
PICKLED = (".bin", ".ckpt", ".pickle", ".pkl", ".pth")


Run = Callable[[NDArray[np.float32]], list[NDArray[Any]]]
"""Pixels, shape (n, 3, height, width), to every output of the graph, n rows each."""


@dataclass(frozen=True)
class Input:
    """What a network in a file sees: (pixel / 255 − mean) / std, channels first, float32.

    Attributes:
        height, width: pixels; the crop is stretched to them (bilinear).
        mean, std: three numbers each, in the order of `colour`.
        colour: ``RGB`` or ``BGR``.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    colour: str = "RGB"

    def pixels(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Shape (n, 3, height, width)."""
        size = (self.width, self.height)
        small = [image.resize(size, Image.Resampling.BILINEAR) for image in images]
        stacked = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in small]) / 255
        if self.colour == "BGR":
            stacked = stacked[..., ::-1]
        scaled = (stacked - np.array(self.mean)) / np.array(self.std)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


@dataclass(frozen=True)
class Network:
    """A network and what a reader must know of it.

    Attributes:
        scores: images, n of any size, to the raw output, shape (n, width).
        labels: the model's own names of its outputs; empty where it says none.
        independent: the model says that each output is a logit of its own.
        identity: kind, versions, the weights' SHA-256.
    """

    scores: Callable[[Sequence[Image.Image]], NDArray[np.float64]]
    labels: tuple[str, ...]
    identity: Mapping[str, Any]
    independent: bool = False


def onnx_session(path: Path) -> Any:
    """An ONNX graph on the CPU in one thread: the same scores on every machine.

    Raises:
        AuditError: it cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes have no base of their own
        raise AuditError(f"{path} is no ONNX file that can be read: {_line(error)}") from error


def open_file(path: Path, given: Input, allow_code: bool, detector: str = "classifier") -> Network:
    """A network in a file.

    TorchScript is a program: torch's interpreter runs what stands in the file, without Python, but
    with operators that can read and write files. It is opened only where `allow_code` says so.

    Args:
        detector: whose model it is, for messages.

    Raises:
        AuditError: the file cannot be read, is not of these formats, or may not be opened.
    """
    if path.suffix in ONNX:
        run, runtime = _onnx(path), "onnxruntime"
    elif path.suffix in TORCHSCRIPT:
        run, runtime = _torchscript(path, allow_code, detector), "torch"
    else:
        why = "would run the code in it" if path.suffix in PICKLED else "is not possible"
        raise AuditError(
            f"{detector}: opening {path} {why}; give ONNX (.onnx), TorchScript "
            f"({', '.join(TORCHSCRIPT)}), or a transformers folder with .safetensors"
        )

    def scores(images: Sequence[Image.Image]) -> NDArray[np.float64]:
        try:
            outputs = run(given.pixels(images))
        except Exception as error:  # whatever a user's graph may raise
            shape = f"3 × {given.height} × {given.width}"
            raise AuditError(
                f"{path} does not run on an input of {shape} pixels: {_line(error)}"
            ) from error
        return np.concatenate([np.reshape(part, (len(images), -1)) for part in outputs], axis=1)

    identity = {"file": path.name, runtime: version(runtime), "weights": {}}
    identity["weights"] = {path.name: sha256_file(path)}
    return Network(scores, (), identity)


def _onnx(path: Path) -> Run:
    session = onnx_session(path)
    name = session.get_inputs()[0].name

    def run(pixels: NDArray[np.float32]) -> list[NDArray[Any]]:
        # One by one: graphs are often exported for a batch of one.
        rows = [session.run(None, {name: one[None]}) for one in pixels]
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    return run


def _torchscript(path: Path, allow_code: bool, detector: str) -> Run:
    import torch

    if not allow_code:
        raise AuditError(
            f"{detector}: {path} is a TorchScript program, which may read and write files; if you "
            "trust it, add the option 'allow_code: true', or export the model to ONNX"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            # torch advises the exporter of the file, who is not here.
            warnings.simplefilter("ignore", FutureWarning)
            load: Any = torch.jit.load
            module = load(path, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise AuditError(
            f"{path} is no TorchScript file: save the model with torch.jit.save, or export it to "
            "ONNX; a file of torch.save is not opened, because it could run any code"
        ) from error

    def run(pixels: NDArray[np.float32]) -> list[NDArray[Any]]:
        with torch.inference_mode():
            given = module(torch.from_numpy(pixels).to(device))
        parts = list(given.values()) if isinstance(given, dict) else given
        parts = [parts] if isinstance(parts, torch.Tensor) else list(parts)
        return [part.float().cpu().numpy() for part in parts]

    return run


def open_transformers(model: str) -> Network:
    """An image-classification model of transformers: a folder, or a name of the Hub.

    Raises:
        AuditError: there is none, it needs code of its own, it has no ``.safetensors``, or they
            lack the head.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    from transformers.utils.hub import cached_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    safe = {"trust_remote_code": False}
    try:
        network, loaded = AutoModelForImageClassification.from_pretrained(
            model, use_safetensors=True, output_loading_info=True, **safe
        )
        processor = AutoImageProcessor.from_pretrained(model, **safe)
        folder = Path(str(cached_file(model, "config.json"))).parent
    except (OSError, ValueError, ImportError) as error:
        raise AuditError(
            f"classifier: cannot load '{model}' as an image-classification model of transformers "
            f"with .safetensors: {_line(error)}"
        ) from error
    if loaded["missing_keys"]:
        # transformers would fill them with random numbers.
        raise AuditError(
            f"classifier: '{model}' was not trained to classify images: it has no weights for "
            f"{', '.join(sorted(loaded['missing_keys'])[:3])}"
        )
    network = network.eval().to(device)
    named = network.config.id2label
    labels = tuple(str(named[index]) for index in sorted(named))
    if all(label == f"LABEL_{index}" for index, label in enumerate(labels)):
        labels = ()  # transformers' placeholders

    def scores(images: Sequence[Image.Image]) -> NDArray[np.float64]:
        given = processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        with torch.inference_mode():
            rows = network(pixel_values=given["pixel_values"].to(device)).logits
        found: NDArray[np.float64] = rows.double().cpu().numpy()
        return found

    identity = {
        "class": type(network).__name__,
        "transformers": version("transformers"),
        "revision": getattr(network.config, "_commit_hash", None),
        "weights": weight_hashes(folder),
    }
    several = network.config.problem_type == "multi_label_classification"
    return Network(scores, labels, identity, several or len(named) == 1)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
