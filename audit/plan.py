"""The plan: every image to be made, once, in a fixed order."""

from __future__ import annotations

import hashlib
import json
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields
from itertools import groupby, islice, zip_longest
from typing import Any, TypeVar

from .errors import AuditError

CHUNK = 1024
"""Uses, or rows of a table, that are held as objects at a time."""

Each = TypeVar("Each")


@dataclass(frozen=True, slots=True)
class Request:
    """One image to be made. Every field changes the image, so every field is in the id.

    Attributes:
        prompt: the text given to the model.
        negative_prompt: the text of the unconditional half; empty: none.
        seed: of the CPU generator that draws the initial noise.
        steps: denoising steps asked of the scheduler.
        guidance: classifier-free guidance scale; at 1 or below there is none.
        scheduler: a name of :data:`audit.backends.SCHEDULERS`, or ``model``: its own.
        height, width: in pixels.
        eta: noise that DDIM puts back at each step (Song et al. 2021, eq. 16), 0 to 1.
        init_image: SHA-256 of the picture to start from (:class:`audit.inputs.Inputs`), or empty.
        mask: SHA-256 of the mask of inpainting; empty: none.
        depth: SHA-256 of the depth map; empty: none given.
        strength: how much of the noising an image-to-image model goes through, 0 to 1.
        noise_level: noise that is put on the picture an upscaler or unCLIP model starts from.
        deliver_size: side in pixels to which the image is resized before delivery; 0: as made.
        watermark: the codec that marks the image on delivery; empty: none.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 50
    guidance: float = 7.5
    scheduler: str = "model"
    height: int = 512
    width: int = 512
    eta: float = 0.0
    init_image: str = ""
    mask: str = ""
    depth: str = ""
    strength: float = 1.0
    noise_level: int = 0
    deliver_size: int = 0
    watermark: str = ""

    @property
    def id(self) -> str:
        """The first 128 bits of the SHA-256 of exactly these fields."""
        text = json.dumps(self.as_dict(), sort_keys=True, ensure_ascii=False)
        if not is_text(text):
            raise AuditError(
                f"the prompt {self.prompt[:80]!r} holds half a surrogate pair, which is no text"
            )
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return {name: getattr(self, name) for name in FIELDS}

    @property
    def shape(self) -> tuple[Any, ...]:
        """What all requests of one batch must share."""
        return (
            self.height,
            self.width,
            self.steps,
            self.guidance,
            self.scheduler,
            self.eta,
            self.strength,
            self.noise_level,
            bool(self.init_image),
            bool(self.mask),
            bool(self.depth),
        )


FIELDS = tuple(one.name for one in fields(Request))


def shared(requests: Iterable[Request]) -> Iterator[Request]:
    """The same requests, equal values of a field as one object: a plan holds many of them."""
    known: tuple[dict[Any, Any], ...] = tuple({} for _ in FIELDS)
    for request in requests:
        values = request.as_dict().values()
        yield Request(
            *(of.setdefault(value, value) for of, value in zip(known, values, strict=True))
        )


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold it; half a surrogate pair, as in JSON's ``\\ud800``, it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Use:
    """What a probe needs a request for.

    Attributes:
        request: the image.
        text: what the image is held against, in English; the prompt itself when it is English.
        tags: the probe's own columns (occupation, language, …): slices and evidence are made
            of them. Values are strings, numbers, booleans or ``None``.
        unseen_by: detectors of the probe that need not look at this image for it.
    """

    request: Request
    text: str = ""
    tags: dict[str, Any] = field(default_factory=dict)
    unseen_by: tuple[str, ...] = ()


class Uses(Sized, Iterable[Use]):
    """A probe's uses, in their order and as often as they are gone through.

    A probe is asked once, for that may be costly. What it says is kept packed: most of a use is
    the same as in the use before, so it takes some tens of bytes.
    """

    def __init__(self, uses: Iterable[Use]) -> None:
        self._packed = [
            (len(chunk), zlib.compress(pickle.dumps(chunk), 1)) for chunk in chunks(uses, CHUNK)
        ]

    def __iter__(self) -> Iterator[Use]:
        for _, packed in self._packed:
            yield from pickle.loads(zlib.decompress(packed))

    def __len__(self) -> int:
        return sum(number for number, _ in self._packed)


def chunks(items: Iterable[Each], size: int) -> Iterator[list[Each]]:
    """Lists of `size` items, the last one of what is left.

    >>> list(chunks("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


@dataclass(frozen=True, slots=True)
class Placed:
    """A request with its place: the batch and the slot that it has for good."""

    request: Request
    batch: int
    slot: int


def place(
    wanted: Iterable[Request], batch_size: int, already: Sequence[Placed] = ()
) -> list[Placed]:
    """Give each new request a batch and a slot; those that have one keep it.

    The place is part of an image's provenance: in half precision the slot and the batch's shape
    change low bits, so a resumed run must put every request where it was.
    """
    known = {placed.request for placed in already}
    new = [request for request in dict.fromkeys(wanted) if request not in known]
    batch = max((placed.batch for placed in already), default=-1) + 1
    placed = list(already)
    new.sort(key=lambda request: request.shape)  # stable: the probes' order stays inside a shape
    for _, same in groupby(new, key=lambda request: request.shape):
        group = list(same)
        for start in range(0, len(group), batch_size):
            chunk = group[start : start + batch_size]
            placed += [Placed(request, batch, slot) for slot, request in enumerate(chunk)]
            batch += 1
    return placed


def limited(uses: Mapping[str, Iterable[Use]], limit: int) -> dict[str, Uses]:
    """The first uses of every probe in turn, until `limit` distinct requests are reached."""
    kept: dict[str, list[Use]] = {probe: [] for probe in uses}
    requests: set[Request] = set()
    for row in zip_longest(*uses.values()):
        for probe, use in zip(uses, row, strict=True):
            if use is None or (use.request not in requests and len(requests) >= limit):
                continue
            requests.add(use.request)
            kept[probe].append(use)
    return {probe: Uses(listed) for probe, listed in kept.items()}
