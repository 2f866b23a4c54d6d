"""Captions of which a known share was memorized, and captions that nobody trained on.

A sub-audit's captions are drawn with replacement from the phantom's named people, with the planted
probability from those whose picture was trained on 300 times and more, else from those of never; of
each caption its seeds. Never-trained captions that are in no list are the negatives. Whether an
image gives back its own training picture is told by the pixels alone, without search and threshold
of the probe.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audit import plugins, suites
from audit.calibration.drawn import Design
from audit.calibration.pool import Pool, Size
from audit.calibration.tally import Answer, Check, Effect, Outcome, Read, found
from audit.findings import Finding
from audit.phantom import corpus
from audit.study import Study

from . import detectors

PROBE = "memorization"
MEMORIZED = (300, 1000)
NEGATIVES = 20
CAPTIONS = 24
IMAGES = 2
PLANTED = 0.5
ALIKE = 0.8
"""Cosine of centred pixels at half size with the own training picture. In the phantom's truth.json
the median of memorized captions is .97 and that of captions never trained on is .07."""
SWITCHED_OFF = {"other_prompts": 0, "mitigation": {}, "most_duplicated": 0, "neighbours": 3}
Row = tuple[str, str, int | str]
"""Caption, training picture, copies or nothing."""


class MemorizationTrials:
    """See :class:`audit.calibration.pool.Trials`."""

    models = ("phantom",)
    images_of: tuple[str, ...] = ()
    detectors = ("clip",)

    def asked(self, study: Study, size: Size) -> tuple[Mapping[str, Any], int | None]:
        """All captions of never and of often."""
        path = Path(tempfile.mkdtemp()) / "captions.csv"
        items = [*_never(), *_often()]
        _write(path, [(item.caption, item.id, item.copies) for item in items])
        return {"captions": str(path), **SWITCHED_OFF}, IMAGES

    def outcomes(self, pools: Mapping[str, Pool], size: Size) -> Iterator[Answer]:
        """Half of the captions memorized, none, and the same by approximate scores."""
        world = World(pools["phantom"])
        yield world.read()
        yield from captions(world, size, np.random.default_rng(7))
        yield approximate(world, np.random.default_rng(8))
        yield from detectors.of_copies()
        yield from detectors.unread(PROBE)


def _never() -> list[corpus.Item]:
    return corpus.load("phantom").named(0)


def _often() -> list[corpus.Item]:
    return [item for copies in MEMORIZED for item in corpus.load("phantom").named(copies)]


class World:
    """The pool's images by caption, and whether each is a copy of the caption's own picture."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.frame = pool, pool.frame(PROBE)
        # Held, for then the analysis of every sub-audit shares its network.
        self.clip = plugins.load("detectors", "clip")(pool.study)
        self.requests = {
            str(target): rows.request.to_numpy() for target, rows in self.frame.groupby("target")
        }
        self.copied = pd.Series(
            [
                _cosine(pool.run.load_image(image), target) >= ALIKE
                for image, target in zip(self.frame.image, self.frame.target, strict=True)
            ],
            index=self.frame.request,
        )
        never = [item.id for item in _never() if item.id in self.requests]
        self.negatives, self.never = never[:NEGATIVES], never[NEGATIVES:]
        self.often = [item.id for item in _often() if item.id in self.requests]

    def drawn(self, share: float, rng: np.random.Generator) -> list[str]:
        """Training pictures of the captions of one sub-audit."""
        return [
            (part := self.often if rng.random() < share else self.never)[rng.integers(len(part))]
            for _ in range(CAPTIONS)
        ]

    def rate(self, targets: list[str]) -> float:
        """Images of these captions that are copies."""
        return float(np.mean([self.copied[self.requests[t]].mean() for t in targets]))

    def captions(self, targets: list[str]) -> float:
        """Captions of these with a copy among `IMAGES` images that are drawn with replacement."""
        rates = np.array([self.copied[self.requests[t]].mean() for t in targets])
        return float((1 - (1 - rates) ** IMAGES).mean())

    def read(self) -> Read:
        """Whether a picture that was trained on often comes back, and no other one does."""
        often = self.frame.target.isin(self.often).to_numpy()
        right = self.copied.to_numpy() == often
        return Read("pixels", "memorized captions", "training copies", right, self.frame.text)

    def findings(
        self, folder: Path, targets: list[str], rng: np.random.Generator, **options: Any
    ) -> list[Finding]:
        """One sub-audit. A caption that is drawn again is another one of the same picture."""
        rows: list[Row] = [
            (f"{corpus.item(t).caption} ({n})", t, "") for n, t in enumerate(targets)
        ]
        below: list[Row] = [(corpus.item(t).caption, t, 0) for t in self.negatives]
        _write(folder / "list.csv", rows)
        _write(folder / "negatives.csv", below)
        asked = {
            "captions": str(folder / "list.csv"),
            "negatives": str(folder / "negatives.csv"),
            **SWITCHED_OFF,
            **options,
        }
        design = Design(self.pool, PROBE, asked, images_per_prompt=IMAGES)
        uses = design.uses.drop_duplicates("place").sort_values("place")
        target_of = {caption: target for caption, target, _ in rows + below}
        parts = [self.requests[target_of[caption]] for caption in uses.text]
        donors = [part[rng.integers(len(part))] for part in parts]
        return design.findings(donors)


def captions(world: World, size: Size, rng: np.random.Generator) -> Iterator[Outcome]:
    """Half of the captions memorized, and none; half as many sub-audits, for they are slow."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-(-size.sub_audits // 2)):
            for share in (PLANTED, 0.0):
                drawn = world.drawn(share, rng)
                yield from _held(world, share, world.findings(Path(folder), drawn, rng), number)


def _write(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["caption", "image_path", "duplicates"])
        writer.writerows(rows)


def _cosine(image: Any, target: str) -> float:
    one, other = (
        _centred(np.asarray(picture, np.float64)) for picture in (image, corpus.item(target).draw())
    )
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def _centred(pixels: np.ndarray) -> np.ndarray:
    """At half size, each colour's own mean over the image taken off."""
    small: np.ndarray = pixels.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    small -= small.mean(axis=(0, 1))
    return small


def _held(world: World, share: float, findings: list[Finding], number: int) -> Iterator[Outcome]:
    variant = "half of the captions memorized" if share else "no caption memorized"
    where = {"source": "list"}
    for metric, of, part in (
        ("copy_rate", world.rate, where),
        ("memorized_share", world.captions, {**where, "kind": "verbatim"}),
    ):
        true = share * of(world.often) + (1 - share) * of(world.never)
        said = "images that are copies" if metric == "copy_rate" else "captions with a copy"
        effect = Effect(
            PROBE, variant, metric, said, "planted" if share else "null", open=not share
        )
        yield Outcome.of(effect, number, true, found(findings, metric, **part))


def approximate(world: World, rng: np.random.Generator) -> Check:
    """An index with approximate scores: candidates are listed, nobody is accused."""
    import faiss

    shipped = suites.datasets() / "phantom_corpus"
    rows = np.load(shipped / "img_emb/img_emb_0.npy").astype(np.float32)
    index = faiss.index_factory(rows.shape[1], "SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        there = folder / "approximate"
        there.mkdir()
        faiss.write_index(index, str(there / "image.index"))
        shutil.copytree(shipped / "metadata", there / "metadata")
        findings = world.findings(folder, world.drawn(PLANTED, rng), rng, index=str(there))
    verdicts = {f.verdict for f in findings if f.metric in ("copy_rate", "memorized_share")}
    return Check(
        PROBE,
        "no threshold is applied to approximate similarities",
        verdicts == {"not_tested"},
        f"verdicts: {', '.join(sorted(verdicts)) or 'none'}",
    )
