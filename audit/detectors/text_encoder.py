"""What a prompt becomes before there is a picture: tokens, what is cut, and the text embedding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audit.errors import AuditError

from .base import Batch

if TYPE_CHECKING:
    from audit.study import Study

MOST_TEXTS = 20_000
"""Texts whose embeddings are kept."""
NO_LIMIT = 10**6
"""Tokenizers without a limit declare a larger one."""


@dataclass(frozen=True)
class Text:
    """A text as one encoder reads it.

    Attributes:
        embedding: (dimension,), not normalised.
        tokens: without the marks of start and end.
        cut, cut_text: how many of them did not fit, and what they say.
    """

    embedding: NDArray[np.float32]
    tokens: int
    cut: int
    cut_text: str


class Encoder:
    """A tokenizer and a text encoder of transformers, with a memory.

    The embedding is what stands for the whole text: of CLIP's text model the last hidden state at
    the end of the text, exactly as the diffusion model is given it; of one with a projection its
    projected embedding (Radford et al. 2021, section 2.4), which SDXL and SD3 are given; of any
    other (T5 knows no end that sums up) the mean of the last hidden states of its tokens, encoded
    without padding.
    """

    def __init__(self, tokenizer: Any, model: Any, device: Any) -> None:
        from audit.backends.text import TextEncoder

        self._tokenizer, self._model, self._device = tokenizer, model, device
        self.kind = type(model).__name__
        self._states = (
            TextEncoder(tokenizer, model, device) if self.kind == "CLIPTextModel" else None
        )
        self._known: dict[str, Text] = {}

    def __call__(self, text: str) -> Text:
        """`text`, encoded alone, so that it does not depend on the others."""
        import torch

        if text not in self._known:
            if len(self._known) >= MOST_TEXTS:
                self._known.clear()
            with torch.inference_mode():
                self._known[text] = self._read(text)
        return self._known[text]

    def _read(self, text: str) -> Text:
        whole = self._tokenizer(text, truncation=False, verbose=False).input_ids
        marks = self._tokenizer.num_special_tokens_to_add()
        if self._states is not None:
            encoded = self._states([text])[0]
            vector = encoded.states[encoded.length - 1]
            cut, cut_text = encoded.cut, encoded.cut_text
        else:
            places = int(self._tokenizer.model_max_length)
            room = places if places < NO_LIMIT else len(whole)
            tokens = self._tokenizer(
                text, truncation=True, max_length=room, return_tensors="pt", verbose=False
            ).to(self._device)
            out = self._model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
            vector = (
                out.text_embeds[0]
                if self.kind == "CLIPTextModelWithProjection"
                else out.last_hidden_state[0].mean(dim=0)
            )
            cut = max(0, len(whole) - room)
            ends = len(whole) - 1 if marks else len(whole)
            cut_text = self._tokenizer.decode(whole[ends - cut : ends]).strip() if cut else ""
        return Text(vector.float().cpu().numpy(), len(whole) - marks, cut, cut_text)


class TextEncoderDetector:
    """The audited model's own tokenizer and text encoder, on the prompt and on its English text.

    Options (spec: ``detectors: {text-encoder: {device: cpu}}``): `device`, where the encoders
    compute beside the model; default: as the run.

    Columns, those of a second and third text encoder with ``_2`` and ``_3``:
        drift: 1 − cosine of the embeddings of the prompt and of its English text, 0 to 2.
        tokens, english_tokens: of both, without the marks of start and end.
        cut, english_cut: of these, how many do not fit.
        cut_text: what the cut ones of the prompt say.

    Raises:
        AuditError: a part of the model cannot be read.
    """

    name = "text-encoder"
    sees_images = False

    def __init__(self, study: Study) -> None:
        from audit.backends.device import choose_device, choose_dtype

        reason = self.unavailable(study)
        if reason is not None or study.model_path is None:
            raise AuditError(f"detector {self.name}: {reason}")
        options = study.detector_options(self.name)
        device = choose_device(str(options.get("device", study.spec.device)))
        dtype = choose_dtype(study.spec.dtype)
        pickles = bool(study.spec.backend.get("allow_pickle"))
        self._folder = study.model_path
        self._encoders = [
            _load(self._folder, *names, device, dtype, pickles) for names in _parts(self._folder)
        ]

    @staticmethod
    def unavailable(study: Study) -> str | None:
        """Only a model on this disk has a text encoder that can be read."""
        if study.model_path is None:
            return "the model is not here: its text encoder cannot be read"
        if study.spec.backend.get("lora"):
            return "a LoRA may change the text encoder, and it is read without"
        if not _parts(study.model_path):
            return f"{study.model_path} names no tokenizer and text encoder of transformers"
        return None

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        from audit.backends.checkpoints import weight_hashes

        used = tuple(name for names in _parts(self._folder) for name in names[:2])
        return {
            "encoders": [encoder.kind for encoder in self._encoders],
            "weights": {
                file: digest
                for file, digest in weight_hashes(self._folder).items()
                if file.split("/")[0] in used
            },
            "known_error": None,
        }

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`; the images are not looked at."""
        columns: dict[str, list[Any]] = {}
        for number, encoder in enumerate(self._encoders, start=1):
            end = "" if number == 1 else f"_{number}"
            for item in batch:
                asked, english = encoder(item.prompt), encoder(item.text)
                row = {
                    "drift": _distance(asked.embedding, english.embedding),
                    "tokens": asked.tokens,
                    "english_tokens": english.tokens,
                    "cut": asked.cut,
                    "english_cut": english.cut,
                    "cut_text": asked.cut_text,
                }
                for name, value in row.items():
                    columns.setdefault(f"{name}{end}", []).append(value)
        return columns


def _distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """1 − cosine; 0 for equal vectors, rounding or not."""
    if np.array_equal(a, b):
        return 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(1 - x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _parts(folder: Path) -> list[tuple[str, str, str, str]]:
    """Tokenizer's folder, encoder's folder and the classes of both, in the pipeline's order."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    found = []
    for end in ("", "_2", "_3"):
        names = (f"tokenizer{end}", f"text_encoder{end}")
        parts = [index.get(name) or [None, None] for name in names]
        if all(part[0] == "transformers" and (folder / name).is_dir()
               for part, name in zip(parts, names, strict=True)):  # fmt: skip
            found.append((*names, str(parts[0][1]), str(parts[1][1])))
    return found


def _load(
    folder: Path, tokenizer: str, encoder: str, reader: str, kind: str, device: Any, dtype: Any,
    pickles: bool,
) -> Encoder:  # fmt: skip
    import transformers
    import transformers.utils.logging

    transformers.utils.logging.disable_progress_bar()
    try:
        words = getattr(transformers, reader).from_pretrained(
            folder / tokenizer, local_files_only=True
        )
        model = getattr(transformers, kind).from_pretrained(
            folder / encoder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=None if pickles else True,
        )
    except Exception as error:  # many unrelated classes
        line = " ".join(str(error).split())[:200]
        raise AuditError(f"cannot load the text encoder in {folder / encoder}: {line}") from error
    return Encoder(words, model.eval().to(device), device)
