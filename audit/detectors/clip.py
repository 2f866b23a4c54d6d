"""CLIP through open_clip: the embedding, its alignment with the English text, zero-shot scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from audit.backends.checkpoints import sha256_file
from audit.errors import AuditError

from .base import Batch

if TYPE_CHECKING:
    from audit.study import Study

DEFAULT_MODEL, DEFAULT_WEIGHTS = "ViT-B-32", "laion2b_s34b_b79k"


class Clip:
    """Cosine similarities with texts.

    Options (spec: ``detectors: {clip: {model: …, pretrained: …}}``): `model` is ``phantom``, a
    folder with ``open_clip_config.json``, or an open_clip architecture; `pretrained` its weights'
    tag or file.

    Columns:
        embedding: unit vector, list of d floats.
        alignment: cosine with the request's English text (Hessel et al. 2021, without the factor
            2.5 and the cut at 0, which an analysis can apply).
        <attribute>_<label>: cosine with the label's texts in the suite's section ``attributes``,
            their unit vectors averaged (Radford et al. 2021, section 3.1.4). Labels that are a
            list, without texts, are left to other instruments.
    """

    name = "clip"

    def __init__(self, study: Study) -> None:
        options = study.detector_options(self.name)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._clip = open_clip_model(
            str(options.get("model", DEFAULT_MODEL)), options.get("pretrained"), self._device
        )
        self._heads: dict[str, NDArray[np.float32]] = {}
        self._vocabulary: dict[str, dict[str, list[str]]] = {}
        for attribute, section in study.suite.section("attributes").items():
            if not isinstance(section["labels"], Mapping):  # only names: another instrument's
                continue
            self._vocabulary[attribute] = {
                str(label): [texts] if isinstance(texts, str) else list(texts)
                for label, texts in section["labels"].items()
            }
            for label, texts in self._vocabulary[attribute].items():
                self._heads[f"{attribute}_{label}"] = self._head(tuple(texts))
        self._texts: dict[str, NDArray[np.float32]] = {}

    def _head(self, texts: tuple[str, ...]) -> NDArray[np.float32]:
        """The mean direction of texts, made once for all that use the model at the same time."""
        known = self._clip.heads
        if texts not in known:
            mean = self.encode_texts(texts).mean(axis=0)
            known[texts] = mean / np.linalg.norm(mean)
        return known[texts]

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`."""
        return {**self._clip.identity, "vocabulary": self._vocabulary, "known_error": None}

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        embeddings = self.embed(batch)
        missing = [text for text in {item.text for item in batch} if text not in self._texts]
        if missing:
            if len(self._texts) > 20_000:
                self._texts.clear()
                missing = list({item.text for item in batch})
            self._texts.update(zip(missing, self.encode_texts(missing), strict=True))
        texts = np.stack([self._texts[item.text] for item in batch])
        columns: dict[str, Sequence[Any]] = {
            "alignment": (embeddings * texts).sum(axis=1).tolist(),
            "embedding": embeddings.tolist(),
        }
        for column, head in self._heads.items():
            columns[column] = (embeddings @ head).tolist()
        return columns

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """Unit image embeddings, shape (len(batch), d), computed once per batch."""
        return batch.share("clip", lambda: self.encode_images(batch.images))

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Any], normalize: bool = True) -> NDArray[np.float32]:
        """Embeddings of PIL images, shape (n, d); unit vectors unless `normalize` is off."""
        pixels = torch.stack([self._clip.preprocess(image) for image in images]).to(self._device)
        embeddings: NDArray[np.float32] = (
            self._clip.network.encode_image(pixels, normalize=normalize).float().cpu().numpy()
        )
        return embeddings

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings of texts, shape (n, d)."""
        chunks = [
            self._clip.network.encode_text(
                self._clip.tokenize(list(texts[start : start + 256])).to(self._device),
                normalize=True,
            )
            .float()
            .cpu()
            .numpy()
            for start in range(0, len(texts), 256)
        ]
        stacked: NDArray[np.float32] = np.concatenate(chunks)
        return stacked


@dataclass(frozen=True, eq=False)
class OpenClip:
    """An open_clip model: its network, the preprocessing of an image, its tokenizer, what it is,
    and the directions of texts that were asked for."""

    network: Any
    preprocess: Any
    tokenize: Any
    identity: Mapping[str, Any]
    heads: dict[tuple[str, ...], NDArray[np.float32]] = field(default_factory=dict)


_in_use: WeakValueDictionary[tuple[str, str, str], OpenClip] = WeakValueDictionary()


def open_clip_model(model: str, pretrained: Any, device: str) -> OpenClip:
    """Load an open_clip model, once for all that use it at the same time.

    Args:
        model: ``phantom``, a folder with ``open_clip_config.json``, or an open_clip architecture.
        pretrained: an architecture's weights: open_clip's tag, or a file.

    Raises:
        AuditError: it cannot be loaded.
    """
    import open_clip

    key = (model, str(pretrained), device)
    if (loaded := _in_use.get(key)) is not None:
        return loaded
    identity: dict[str, Any] = {"model": model, "open_clip": open_clip.__version__}
    if model == "phantom":
        from audit.phantom import path

        name, folder = f"local-dir:{path('clip')}", path("clip")
    elif Path(model).is_dir():
        name, folder = f"local-dir:{Path(model).resolve()}", Path(model)
    else:
        name, folder = model, None
        pretrained = pretrained or (DEFAULT_WEIGHTS if model == DEFAULT_MODEL else None)
        if pretrained is None:
            raise AuditError(
                f"CLIP '{model}' needs weights: say 'pretrained' with a tag or a file "
                "(python -c 'import open_clip; print(open_clip.list_pretrained())')"
            )
        identity["pretrained"] = str(pretrained)
    try:
        arguments = {} if folder else {"pretrained": pretrained}
        network, _, preprocess = open_clip.create_model_and_transforms(
            name, device=device, **arguments
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip and the hub raise many classes
        line = " ".join(str(error).split())[:200]
        raise AuditError(f"cannot load CLIP '{model}': {line}") from error
    files = (
        sorted(folder.glob("*.safetensors"))
        if folder
        else [path for path in [Path(str(pretrained))] if path.is_file()]
    )
    identity["weights"] = {path.name: sha256_file(path) for path in files}
    _in_use[key] = loaded = OpenClip(network.eval(), preprocess, tokenizer, identity)
    return loaded
