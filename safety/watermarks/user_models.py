"""Marks that a user's own model file reads: Stable Signature, Watermark Anything, TrustMark.

A file is ONNX, or TorchScript with the user's consent, for it is a program. The pickled weights
that some of these projects hand out are exported by their own code first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from audit.detectors.models import PICKLED, Input, open_file
from audit.errors import AuditError

from .bch import Bch
from .codecs import Bits, by_size

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SIGNED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class _Extractor:
    """A network that reads a mark, with the size it wants; 0×0: the image's own."""

    domains: tuple[str, ...] = ("uint8",)
    smallest = 1
    method: str
    owner: str
    given: Input

    def __init__(self, name: str, bits: Bits, model: Path, allow_code: bool) -> None:
        self.name, self.bits = name, bits
        where = f"watermark {name}"
        if not model.is_file():
            raise AuditError(f"{where}: no model file {model}")
        if model.suffix in PICKLED:
            raise AuditError(
                f"{where}: {model} holds pickled weights, which could run any code; export the "
                "model that reads the mark with torch.onnx.export or torch.jit.trace"
            )
        self._network = open_file(model, self.given, allow_code, where)
        self.identity = self._network.identity

    def embed(self, image: Image.Image) -> Image.Image:
        """Not here.

        Raises:
            AuditError: always; it says who can.
        """
        raise AuditError(f"{self.name}: {self.owner}")

    def _outputs(self, images: Sequence[Image.Image], width: int) -> NDArray[np.float64]:
        """The network's numbers, shape (images, k · width)."""
        rows = self._network.scores(images)
        if not rows.shape[1] or rows.shape[1] % width:
            raise AuditError(
                f"{self.name}: a model for {self.method} gives {width} numbers, and "
                f"{self.identity.get('file')} gives {rows.shape[1]}"
            )
        return rows


class _OwnSize(Input):
    """The image as it is."""

    def pixels(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Shape (n, 3, H, W), of images of one size."""
        width, height = images[0].size
        return Input(height, width, self.mean, self.std).pixels(images)


class StableSignature(_Extractor):
    """48 bits by a whitened extractor (Fernandez et al. 2023, The Stable Signature).

    Args:
        bits: the key that the model's decoder was fine-tuned to, shape (n,); 48 in the paper.
        model: such as ``dec_48b_whit.torchscript.pt``: ImageNet-normalised images of their own
            size → n logits.
    """

    method = "stable-signature"
    owner = "only the model's owner can set this mark: it is trained into its image decoder"
    given = _OwnSize(0, 0, *_IMAGENET)

    def decode(self, images: Sequence[Image.Image]) -> Bits:
        """See :class:`Codec`."""
        n = len(self.bits)
        found = np.zeros((len(images), 1, n), bool)
        for places, rgb in by_size(images, self.smallest, self.name):
            logits = self._outputs([Image.fromarray(one) for one in rgb], n)
            found[places, 0] = logits[:, :n] > 0
        return found


class WatermarkAnything(_Extractor):
    """A mask and 32 bits (Sander et al. 2025, Watermark Anything).

    Args:
        bits: the message, shape (32,).
        model: the `detect` of the model, ImageNet-normalised images of 256² → logits, shape
            (n, 1 + 32, h, w): the mask, then the bits at every place.
    """

    method = "watermark-anything"
    owner = "embedding is done by the project's own code"
    given = Input(256, 256, *_IMAGENET)

    def decode(self, images: Sequence[Image.Image]) -> Bits:
        """See :class:`Codec`. A bit is the sign of its mean over the mask.

        An image with an empty mask is read everywhere: the original gives it all zeros, which a
        message of zeros would match.
        """
        mask, logits = self._read(images)
        weights = np.where(mask.any(axis=1, keepdims=True), mask, True)
        found: Bits = (logits * weights[:, None]).sum(axis=2)[:, None] > 0
        return found

    def mask_share(self, images: Sequence[Image.Image]) -> NDArray[np.float64]:
        """How much of each image is marked, 0 to 1, shape (images,)."""
        share: NDArray[np.float64] = self._read(images)[0].mean(axis=1)
        return share

    def _read(self, images: Sequence[Image.Image]) -> tuple[Bits, NDArray[np.float64]]:
        planes = 1 + len(self.bits)
        rows = self._outputs([image.convert("RGB") for image in images], planes)
        maps = rows.reshape(len(images), planes, -1)
        return maps[:, 0] > 0, maps[:, 1:]


@dataclass(frozen=True)
class Payload:
    """What TrustMark's 100 bits say.

    Attributes:
        version: of the schema, as the bits claim.
        data: the payload, shape (`Schema.data`,); ``None``: no code word is near.
    """

    version: int
    data: Bits | None


@dataclass(frozen=True)
class Schema:
    """How TrustMark's first 96 bits are divided; the code's data are padded to whole bytes."""

    data: int
    code: Bch

    @property
    def padding(self) -> int:
        return -self.data % 8

    def word(self, raw: Bits) -> Bits:
        """The code's word, shape (data + padding + checks,), of the raw bits."""
        middle = np.zeros(self.padding, bool)
        return np.concatenate([raw[: self.data], middle, raw[self.data : 96]])


SCHEMAS: Mapping[int, Schema] = {
    0: Schema(40, Bch(8)),
    1: Schema(61, Bch(5)),
    2: Schema(68, Bch(4)),
    3: Schema(75, Bch(3)),
}
"""Version, the last two of the 100 bits → schema."""
RAW = 100


class TrustMark(_Extractor):
    """100 bits, protected by a BCH code (Bui et al. 2023, TrustMark): the mark checks itself.

    Args:
        bits: the payload, shape (40,), (61,), (68,) or (75,) by its schema; shape (0,): not known.
        model: the decoder, such as ``decoder_Q.onnx``: images of 245² (224² for variant P), −1 to
            1 → 100 logits.
        variant: ``Q``, ``B``, ``C``, or ``P``, which reads the middle square.
    """

    method = "trustmark"
    owner = "embedding is done by the package trustmark"
    chance = sum(s.code.chance(96 + s.padding) for s in SCHEMAS.values()) / len(SCHEMAS)
    note = (
        "TrustMark's error correction accepts 2.5% of random bits (8.2% of those that claim schema "
        "3; TrustMark's own reader 2.7% of all): its presence alone is weak evidence."
    )

    def __init__(
        self, name: str, bits: Bits, model: Path, allow_code: bool, variant: str = "Q"
    ) -> None:
        if variant not in "QBCP" or len(variant) != 1:
            raise AuditError(f"{name}: TrustMark's variants are Q, B, C, P, not '{variant}'")
        side = 224 if variant == "P" else 245
        self.given, self._variant = Input(side, side, *_SIGNED), variant
        super().__init__(name, encoded(bits) if len(bits) else bits, model, allow_code)

    def decode(self, images: Sequence[Image.Image]) -> Bits:
        """See :class:`Codec`; the 100 raw bits."""
        logits = self._outputs([self._framed(image.convert("RGB")) for image in images], RAW)
        return logits[:, None, :RAW] > 0

    def present(self, decoded: Bits) -> Bits:
        """See :class:`SelfChecking`."""
        return np.array([payload(raw).data is not None for raw in decoded[:, 0]], bool)

    def _framed(self, image: Image.Image) -> Image.Image:
        short, long = sorted(image.size)
        if self._variant != "P" and long / short <= 2:
            return image
        left, top = (image.width - short) // 2, (image.height - short) // 2
        return image.crop((left, top, left + short, top + short))


def encoded(data: Bits) -> Bits:
    """A payload as TrustMark sets it, shape (data,) → (100,): data, checks, version.

    Raises:
        AuditError: no schema has this length.
    """
    for version, schema in SCHEMAS.items():
        if schema.data == len(data):
            checks = schema.code.checks(np.append(data, np.zeros(schema.padding, bool)))
            end = [False, False, version >= 2, version % 2 == 1]
            return np.concatenate([data, checks, np.array(end)])
    lengths = ", ".join(str(schema.data) for schema in SCHEMAS.values())
    raise AuditError(f"a TrustMark payload has {lengths} bits, not {len(data)}")


def payload(raw: Bits) -> Payload:
    """What 100 raw bits say, after error correction."""
    version = 2 * int(raw[-2]) + int(raw[-1])
    schema = SCHEMAS[version]
    word = schema.code.corrected(schema.word(raw))
    return Payload(version, None if word is None else word[: schema.data])
