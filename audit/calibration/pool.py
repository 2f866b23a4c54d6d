"""The images that sub-audits are drawn from: made once by the engine, read exactly, kept as a run.

A pool holds the images of the probes' own prompts, on seeds that no audit has. It is finished by
the same call that began it, as every run is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from audit import engine, plugins
from audit.evidence import Analysis, table
from audit.plan import Use
from audit.spec import Spec
from audit.store import Run
from audit.study import Probe, Study

if TYPE_CHECKING:
    from audit.backends.base import Backend

    from .tally import Outcome

SEED = 900_000
"""The first seed. Audits of the phantom begin at 0, its truth at 70,000, the detector errors at
500,000, the benchmarks at 700,000, and none of them reaches so far."""
MODELS = ("phantom", "null")


@dataclass(frozen=True)
class Size:
    """How much is made and repeated.

    Attributes:
        name: ``quick`` or ``full``.
        images: of each prompt whose images are drawn from.
        seeds: of each prompt whose images are compared in pairs.
        sub_audits: repetitions of each trial.
    """

    name: str
    images: int
    seeds: int
    sub_audits: int


QUICK = Size("quick", images=16, seeds=6, sub_audits=12)
FULL = Size("full", images=100, seeds=24, sub_audits=200)


class Trials(Protocol):
    """What is planted for one probe; found by the entry point ``t2i_audit.trials``, whose name is
    the probe's."""

    models: tuple[str, ...]
    """Of :data:`MODELS`, those whose images are drawn from."""
    images_of: tuple[str, ...]
    """Other probes whose images of the pool are drawn too."""
    detectors: tuple[str, ...]
    """Those that read the pool for this probe; ``reader`` reads exactly."""

    def asked(self, study: Study, size: Size) -> tuple[Mapping[str, Any], int | None]:
        """The probe's options and images per prompt when the pool is made."""

    def outcomes(self, pools: Mapping[str, Pool], size: Size) -> Iterator[Outcome]:
        """Everything that is known beforehand, and what the probe's own analysis found of it."""


@dataclass(frozen=True)
class Pool:
    """A run whose images sub-audits draw.

    Attributes:
        study: the model, the suite and the settings that it was made with.
    """

    run: Run
    study: Study

    @cached_property
    def records(self) -> pa.Table:
        """A row per image."""
        return self._view("records")

    @cached_property
    def detections(self) -> dict[str, pa.Table]:
        """Detector → raw scores."""
        folders = sorted(self.run.path.glob("detections/*/"))
        names = [folder.name for folder in folders if self.run.shards(f"detections/{folder.name}")]
        return {name: self._view(f"detections_{name.replace('-', '_')}") for name in names}

    @cached_property
    def detectors(self) -> dict[str, Any]:
        """What each detector says of itself."""
        return dict(self.run.read_json("detectors.json"))

    def frame(self, probe: str) -> pd.DataFrame:
        """The images made of a probe's prompts, with its tags and all scores but embeddings."""
        found = table(self.run, probe, without=["embedding"])
        return found[found.outcome == "ok"].reset_index(drop=True)

    def _view(self, name: str) -> pa.Table:
        with self.run.connect() as database:
            rows: pa.Table = database.sql(f'SELECT * FROM "{name}"').to_arrow_table()
            return rows


class _Asking:
    """A probe that asks for its images and leaves their analysis to the sub-audits."""

    def __init__(self, name: str, trials: Trials, size: Size) -> None:
        self.name, self._trials, self._size = name, trials, size
        self._probe: Probe = plugins.load("probes", name)()
        self.question, self.reference = self._probe.question, self._probe.reference
        self.detectors = trials.detectors

    def uses(self, study: Study) -> Iterator[Use]:
        """The probe's own."""
        yield from self._probe.uses(asking(study, self.name, self._trials, self._size))

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Nothing yet."""
        return Analysis()


def asking(study: Study, name: str, trials: Trials, size: Size) -> Study:
    """The study as one probe's trials want it."""
    options, images = trials.asked(study, size)
    spec = dataclasses.replace(
        study.spec, probes={**study.spec.probes, name: options}, images_per_prompt=images
    )
    return dataclasses.replace(study, spec=spec)


def make(
    folder: Path,
    model: str,
    trials: Mapping[str, Trials],
    size: Size,
    backend: Backend | None = None,
) -> Pool:
    """Make a pool, or finish it.

    Args:
        trials: probe → its trials, of those that draw from this model.
        backend: instead of the model itself: known images need not be generated.

    Raises:
        AuditError: as :func:`audit.engine.run`.
    """
    detectors = {"watermark": {"codecs": ["sd-v1"], "attacks": {}}}
    spec = Spec(
        model=model,
        seed=SEED,
        probes={name: {} for name in trials},
        backend={"mode": "fast"},
        detectors=detectors,
    )
    study, own, _ = engine.prepare(spec)
    probes = {name: _Asking(name, one, size) for name, one in trials.items()}
    run = engine.run(study, backend or own, probes, folder)
    return Pool(run, study)


def draw(
    rng: np.random.Generator, frame: pd.DataFrame, n: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """`n` requests of a pool's rows with replacement: the pool is the population, so what is true
    of it is known exactly, and each draw is independent of the others.

    Without replacement the draws would tell of each other, their mean would vary less than that of
    independent images by the factor 1 − n/N (Cochran 1977, section 2.6), and intervals made for
    independent images would seem to cover more often than they do.

    Args:
        weights: shape (rows,), sum 1: the population is the weighted pool.
    """
    chosen: np.ndarray = frame["request"].to_numpy()[rng.choice(len(frame), n, p=weights)]
    return chosen
