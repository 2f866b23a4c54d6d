"""The fast mode: the same model with nothing computed twice, compiled where that pays.

It holds no approximation. Its predictions differ from the reference mode's by rounding alone
(at most 1e-5 of the prediction's scale in float32, tested for every variant of the family).
Compiled on a GPU it was written against the documentation of torch 2.15 and has not run there yet.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from audit.errors import AuditError

from .unet_forward import UNetForward, check_covered

Predict = Callable[[torch.Tensor, Any], torch.Tensor]
"""(latents (batch, channels, height, width), timestep) → prediction."""


class FastUNet:
    """A UNet of the Stable Diffusion family, to be bound to the text of a batch.

    Args:
        unet: diffusers' ``UNet2DConditionModel``, on its device and in its dtype. Its weights are
            used, not copied (the self-attentions' projections apart), and become channels-last.
        compile: with ``torch.compile`` for one static shape; ``None``: on a GPU only, since
            on a CPU compiling takes longer than most runs save.

    Raises:
        AuditError: the UNet has a part that the fast mode does not cover.
    """

    def __init__(self, unet: Any, compile: bool | None = None) -> None:
        self._unet = unet
        self._forward = UNetForward(unet)
        self._device = next(unet.parameters()).device
        self.compiled = self._device.type == "cuda" if compile is None else compile
        self._run: Callable[..., torch.Tensor] = self._forward
        self._shapes: set[tuple[int, ...]] = set()
        if self.compiled:
            # CUDA graphs take the launches off the CPU: small batches are bound by them.
            mode = "reduce-overhead" if self._device.type == "cuda" else None
            self._run = torch.compile(self._forward, fullgraph=True, dynamic=False, mode=mode)

    def bind(
        self, text: torch.Tensor, guided: bool, class_labels: torch.Tensor | None = None
    ) -> Predict:
        """The prediction as a function of the latents and the timestep alone.

        Args:
            text: (rows, tokens, channels); twice the batch when `guided`, unconditional half first.
            guided: classifier-free guidance: both halves start from the same latents.
            class_labels: of `rows` samples, for models that have them (upscaler, unCLIP).

        Returns:
            ``predict(latents, t)``: (rows, channels, height, width), unconditional half first.

        Raises:
            AuditError: the shapes do not fit, or something was attached to the UNet meanwhile.
        """
        check_covered(self._unet)
        rows = text.shape[0]
        if guided and rows % 2:
            raise AuditError(f"guidance needs an even number of text rows, not {rows}")
        batch = rows // 2 if guided else rows
        with torch.no_grad():
            keys_and_values = self._forward.project_text(text)
            class_embedding = self._class_embedding(text, guided, class_labels)

        @torch.no_grad()
        def predict(latents: torch.Tensor, t: Any) -> torch.Tensor:
            if latents.shape[0] != batch:
                raise AuditError(f"bound to a batch of {batch}, called with {latents.shape[0]}")
            # One type of timestep, so that no scheduler makes a second graph.
            t = torch.as_tensor(t, dtype=torch.float32, device=self._device).reshape(1)
            given = (latents, t, keys_and_values, class_embedding, rows)
            return self._run_compiled(*given) if self.compiled else self._run(*given)

        return predict

    def _run_compiled(self, latents: torch.Tensor, *given: Any) -> torch.Tensor:
        _, text, class_embedding, rows = given
        labels = 0 if class_embedding is None else class_embedding.shape[0]
        shape = (*latents.shape, text[0][0].shape[2] if text else 0, labels, rows)
        if shape not in self._shapes:
            self._compile(shape, latents, *given)
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        # The graph writes its next prediction to the same place, and some schedulers keep them.
        return self._run(latents, *given).clone()

    def _compile(self, shape: tuple[int, ...], *given: Any) -> None:
        what = (torch.__version__, self._device_name(), given[0].dtype, self._unet.config, shape)
        path = _cache_folder() / hashlib.sha256(repr(what).encode()).hexdigest()[:32]
        known = _load_artifacts(path)
        try:
            # Each shape is a graph of its own, on purpose: not a sign of needless recompiling.
            with torch._dynamo.config.patch(recompile_limit=256):
                self._run(*given)
        except torch._dynamo.exc.TorchDynamoException as error:
            line = " ".join(str(error).split())[:300]
            raise AuditError(f"torch.compile failed: {line}; use mode=reference") from error
        self._shapes.add(shape)
        if not known:
            _save_artifacts(path)

    def _device_name(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"

    def _class_embedding(
        self, text: torch.Tensor, guided: bool, labels: torch.Tensor | None
    ) -> torch.Tensor | None:
        if self._unet.class_embedding is None:
            return None
        if labels is None:
            raise AuditError("this model needs class labels (a noise level or an image embedding)")
        # As few rows as tell them apart: equal halves leave the shared prefix shared.
        if bool((labels == labels[:1]).all()):
            labels = labels[:1]
        elif guided and torch.equal(*labels.chunk(2)):
            labels = labels.chunk(2)[0]
        embedding: torch.Tensor = self._unet.get_class_embed(sample=text, class_labels=labels)
        return embedding


def fast_decoder(vae: Any, compile: bool | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The decoder of an ``AutoencoderKL``, channels-last: (batch, channels, height, width) scaled
    latents → images in [-1, 1]. Its weights become channels-last; slicing and tiling stay as set.

    Args:
        vae: on its device and in its dtype.
        compile: as for :class:`FastUNet`.
    """
    vae = vae.to(memory_format=torch.channels_last)
    on_gpu = next(vae.parameters()).device.type == "cuda"
    if on_gpu if compile is None else compile:
        vae.decoder.compile(dynamic=False)

    @torch.no_grad()
    def decode(latents: torch.Tensor) -> torch.Tensor:
        latents = latents.contiguous(memory_format=torch.channels_last)
        images: torch.Tensor = vae.decode(latents, return_dict=False)[0]
        return images

    return decode


def _cache_folder() -> Path:
    return Path(os.environ.get("T2I_AUDIT_CACHE", "~/.cache/t2i-audit")).expanduser() / "compile"


def _load_artifacts(path: Path) -> bool:
    """Whether compiled code of an earlier process was found. It is code: only the user's own."""
    try:
        if path.stat().st_uid != os.getuid():
            return False
        return torch.compiler.load_cache_artifacts(path.read_bytes()) is not None
    except FileNotFoundError:
        return False
    except Exception:  # damaged, or of another machine: torch promises no class; compile anew
        return False


def _save_artifacts(path: Path) -> None:
    artifacts = torch.compiler.save_cache_artifacts()
    if artifacts is None:
        return
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.write_bytes(artifacts[0])
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a cache that cannot be written costs time, no images
