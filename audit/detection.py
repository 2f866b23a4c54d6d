"""The detect step: every image goes to the detectors of the probes that use it, once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import plugins
from .detectors.base import Batch, Detector, Item, unavailable
from .energy import Ledger, Meter, gpu_uuid
from .errors import AuditError
from .generation import COMPACT_AT_END, progress
from .plan import CHUNK, Request, Use, chunks
from .spec import Spec
from .store import Run
from .study import Probe, Study, detectors_of

PART = 256
"""Images per shard of scores."""

Texts = tuple[tuple[str, str], ...]
"""Detectors that an image goes to, each with the text that it is held against there."""


class Sight(NamedTuple):
    """An image that has yet to be seen: its request, its file's hash, and by whom."""

    id: str
    image: str
    request: Request
    texts: Mapping[str, str]


def detect(
    store: Run,
    study: Study,
    probes: Mapping[str, Probe],
    uses: Mapping[str, Iterable[Use]],
    ledger: Ledger | None = None,
    loaded: dict[str, Detector] | None = None,
) -> None:
    """Score every image with the detectors of the probes that use it; only what is missing.

    Args:
        loaded: detectors by name, kept from round to round.
    """
    loaded = {} if loaded is None else loaded
    unseen = Unseen(store)
    for name, probe in probes.items():
        unseen.want(uses[name], detectors_of(probe, study))
    everything = len(unseen)
    detectors: dict[str, Detector] = {}
    status: dict[str, Any] = {}
    for name in unseen.detectors():
        factory = plugins.load("detectors", name)
        reason = unavailable(factory, study)
        if reason is None:
            try:
                detector = loaded[name] = loaded.get(name) or factory(study)
            except AuditError as error:
                if name in study.spec.detectors:
                    raise  # the user asked for exactly this one
                reason = str(error)
        if reason is not None:
            status[name] = {"unavailable": reason}
            unseen.forget(name)
            continue
        described = json.loads(json.dumps(dict(detector.describe())))
        status[name] = described
        folder = f"detections/{name}"
        if store.shards(folder) and store.read_json(f"{folder}/detector.json") != described:
            store.drop(folder)
        store.write_json(f"{folder}/detector.json", described)
        scored = store.read_table(folder, ["request"])
        detectors[name] = detector
        unseen.forget(name, [] if scored.empty else scored.request)
    store.write_json("detectors.json", status)
    left = len(unseen)
    if not left:
        return
    ledger = ledger or Ledger(store, study.spec.energy)
    uuid = gpu_uuid(_device(study.spec))
    meter = Meter([uuid] if uuid else [], study.spec.energy.get("watts"))
    with progress("detect", everything, everything - left) as bar, ledger.step("detect"):
        sights = unseen.take(chain.from_iterable(uses[name] for name in probes))
        for part in chunks(sights, PART):
            _detect_part(store, study.spec.batch_size, part, detectors, bar)
            ledger.add("detect", meter.lap(), len(part))
    for name in detectors:
        store.compact(f"detections/{name}", COMPACT_AT_END)


class Unseen:
    """The images of a run and which detectors have yet to see each of them.

    Columns of fixed width, about a hundred bytes an image: a hundred thousand of them are small.

    Attributes:
        texts: the distinct combinations of detectors and texts; the first is none.
    """

    def __init__(self, store: Run) -> None:
        records = store.read_table("records", ["request", "image", "outcome"])
        made = records[records.outcome == "ok"] if len(records) else records
        ids = _fixed(made.request if len(made) else [], 32)
        order = np.argsort(ids)
        self._ids = ids[order]
        self._images = _fixed(made.image if len(made) else [], 64)[order]
        self._wanted = np.zeros(len(ids), dtype=np.intp)
        self.texts: list[Texts] = [()]
        self._number: dict[Texts, int] = {(): 0}

    def __len__(self) -> int:
        return int(np.count_nonzero(self._wanted))

    def detectors(self) -> list[str]:
        """Those that have an image to see, sorted."""
        there = (self.texts[number] for number in np.unique(self._wanted))
        return sorted({name for texts in there for name, _ in texts})

    def want(self, uses: Iterable[Use], detectors: Sequence[str]) -> None:
        """Show the images of these uses to these detectors; the first use of an image says with
        which text."""
        for use, place in self._made(uses):
            texts = self.texts[self._wanted[place]]
            known = {*use.unseen_by, *(name for name, _ in texts)}
            text = use.text or use.request.prompt
            more = tuple((name, text) for name in detectors if name not in known)
            self._wanted[place] = self._numbered(texts + more)

    def forget(self, detector: str, ids: Iterable[str] | None = None) -> None:
        """A detector need not see these images; default: any."""
        places: Any = slice(None)
        if ids is not None:
            places = self._find(ids)
            places = places[places >= 0]
        rest = [tuple(pair for pair in texts if pair[0] != detector) for texts in self.texts]
        without = np.array([self._numbered(texts) for texts in rest])
        self._wanted[places] = without[self._wanted[places]]

    def take(self, uses: Iterable[Use]) -> Iterator[Sight]:
        """What has yet to be seen, in the order of the uses; from then on it counts as seen."""
        for use, place in self._made(uses):
            if number := self._wanted[place]:
                self._wanted[place] = 0
                image = self._images[place].decode()
                yield Sight(use.request.id, image, use.request, dict(self.texts[number]))

    def _made(self, uses: Iterable[Use]) -> Iterator[tuple[Use, int]]:
        """The uses whose image is made, with its place."""
        for chunk in chunks(uses, CHUNK):
            places = self._find(use.request.id for use in chunk)
            yield from (
                (use, place) for use, place in zip(chunk, places, strict=True) if place >= 0
            )

    def _find(self, ids: Iterable[str]) -> NDArray[np.intp]:
        """The places of requests; -1: not made."""
        wanted = _fixed(ids, 32)
        if not len(self._ids):
            return np.full(len(wanted), -1)
        places = np.searchsorted(self._ids, wanted).clip(max=len(self._ids) - 1)
        return np.where(self._ids[places] == wanted, places, -1)

    def _numbered(self, texts: Texts) -> int:
        if texts not in self._number:
            self._number[texts] = len(self.texts)
            self.texts.append(texts)
        return self._number[texts]


def _fixed(names: Iterable[str], width: int) -> NDArray[np.bytes_]:
    """Hexadecimal names of one width."""
    return np.array([str(name).encode() for name in names], dtype=f"S{width}")


def _detect_part(
    store: Run,
    batch_size: int,
    part: Sequence[Sight],
    detectors: Mapping[str, Detector],
    bar: Any,
) -> None:
    columns: dict[str, list[pd.DataFrame]] = {name: [] for name in detectors}
    for sights in chunks(part, batch_size):
        opened = {sight.id: store.load_image(sight.image) for sight in sights}
        # Detectors that want the same images get the same batch, and with it what is shared.
        batches: dict[tuple[str, ...], Batch] = {}
        for name, detector in detectors.items():
            mine = [sight for sight in sights if name in sight.texts]
            if not mine:
                continue
            ids = tuple(sight.id for sight in mine)
            if ids not in batches:
                batches[ids] = Batch(
                    [
                        Item(
                            sight.id,
                            sight.image,
                            opened[sight.id],
                            sight.request.prompt,
                            sight.texts[name],
                            sight.request,
                        )
                        for sight in mine
                    ]
                )
            scores = detector.detect(batches[ids])
            images = [sight.image for sight in mine]
            columns[name].append(pd.DataFrame({"request": ids, "image": images, **scores}))
        bar.update(len(sights))
    for name, frames in columns.items():
        if frames:
            store.add_part(f"detections/{name}", pd.concat(frames, ignore_index=True))


def _device(spec: Spec) -> str:
    """Where the detectors run."""
    import torch

    if spec.device != "auto":
        return spec.device
    return "cuda" if torch.cuda.is_available() else "cpu"
