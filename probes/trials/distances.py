"""A mix of two guidance scales, and none, held against pictures of the run's own scale.

A sub-audit's images are, each with the planted probability, those of a stronger guidance; the
reference are other images of the own scale, written as an index whose captions are the prompts.
Images are drawn with replacement and the prompts are all there are, so both sets are independent
draws of known populations, and the squared MMD of these is known exactly: that of the two scales,
times the square of the mixed share (the mean embedding of a mixture is the mixture of the mean
embeddings; Gretton et al. 2012, lemma 4).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audit.calibration.drawn import Design
from audit.calibration.pool import Pool, Size
from audit.calibration.tally import Effect, Outcome, found
from audit.evidence import table
from audit.findings import judge
from audit.statistics.distances import CMMD_SCALE, CMMD_SIGMA

PROBE = "quality"
STRONG = 25.0
"""The other guidance scale, of which the pool holds images. The phantom's own is 3, and its images
are much the same for CLIP up to three times that."""
MIXED = 0.9
IMAGES = 8
PICTURES = 160
"""Images of each prompt in a sub-audit, and pictures of the reference."""


def asked(guidance: float, images: int) -> dict[str, Any]:
    """The probe's options for images of one scale."""
    return {"guidance": [guidance], "images": images, "schedulers": [], "reference": {}}


def cmmd(pool: Pool, size: Size, rng: np.random.Generator) -> Iterator[Outcome]:
    """The distance of a mix and of none."""
    own = float(pool.study.sampler["guidance"])
    cells = _cells(pool, own)
    prompts = list(dict.fromkeys(cells[own].prompt))
    between = _squared(*(_embeddings(cells[scale]) for scale in (STRONG, own)))
    design = Design(pool, PROBE, {**asked(own, IMAGES), "prompts": prompts})
    uses = design.uses.drop_duplicates("place").sort_values("place")
    parts = {
        scale: {name: part.request.to_numpy() for name, part in rows.groupby("prompt")}
        for scale, rows in cells.items()
    }
    with tempfile.TemporaryDirectory() as name:
        for number in range(size.sub_audits):
            folder = Path(name) / str(number)
            _write(folder, cells[own].iloc[rng.choice(len(cells[own]), PICTURES)])
            reference = {"index": str(folder), "match": "captions"}
            against = design.with_options(reference=reference)
            for share in (0.0, MIXED):
                donors = []
                for prompt in uses.prompt:
                    mine = parts[STRONG if rng.random() < share else own][prompt]
                    donors.append(mine[rng.integers(len(mine))])
                one = found(against.findings(donors), "cmmd")
                effect = Effect(
                    PROBE,
                    f"{MIXED:.0%} of the images at guidance {STRONG:g}" if share else "none mixed",
                    "cmmd",
                    "a distance to the own guidance" if share else "no distance",
                    "planted" if share else "null",
                    # Of equal sets the jackknife's variance is about twice the true one.
                    open=not share,
                )
                outcome = Outcome.of(effect, number, share**2 * between, one)
                # The probe gives the distance without a margin: found is what lies above none.
                verdict = judge(outcome.ci, 0.0, 0.0, side="above")
                yield dataclasses.replace(outcome, verdict=verdict)


def _cells(pool: Pool, own: float) -> dict[float, pd.DataFrame]:
    """The pool's images of either scale, with their embeddings, every prompt as often; those of
    the own scale are the demographics' of the same prompts."""
    made = {own: ("demographics", "arm", "base"), STRONG: (PROBE, "part", "grid")}
    found = {}
    for scale, (probe, column, value) in made.items():
        frame = table(pool.run, probe)
        frame = frame[(frame.outcome == "ok") & (frame[column] == value)]
        found[scale] = frame[frame.guidance == scale].reset_index(drop=True)
    prompts = set(found[STRONG].prompt)
    found[own] = found[own][found[own].prompt.isin(prompts)].reset_index(drop=True)
    return found


def _embeddings(rows: pd.DataFrame) -> np.ndarray:
    vectors = np.stack(rows.clip_embedding.to_list()).astype(float)
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _squared(a: np.ndarray, b: np.ndarray) -> float:
    """CMMD of two populations: every pair counts, an image with itself too, for it may be drawn
    twice. Written here once more, from the definition alone."""

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        # Of unit vectors the squared distance is twice what the cosine lacks of 1.
        return float(np.exp((x @ y.T - 1) / CMMD_SIGMA**2).mean())

    return CMMD_SCALE * (mean(a, a) + mean(b, b) - 2 * mean(a, b))


def _write(folder: Path, rows: pd.DataFrame) -> None:
    """An index in clip-retrieval's form."""
    for part in ("img_emb", "metadata"):
        (folder / part).mkdir(parents=True)
    np.save(folder / "img_emb/img_emb_0.npy", _embeddings(rows).astype(np.float32))
    names = {"image_path": [str(n) for n in range(len(rows))], "caption": rows.prompt.to_list()}
    pd.DataFrame(names).to_parquet(folder / "metadata/metadata_0.parquet")
