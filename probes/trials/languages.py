"""A language that loses a known amount, and one at parity.

The pool's contents and seeds are a population: a sub-audit draws both with replacement, the same
seeds for all contents and languages, as an audit does. So the interval, which is over contents and
seeds, is held against the mean over all of the pool's pairs. Drawn with the contents as they are
it would be too wide: they would not vary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from audit.calibration.drawn import Design
from audit.calibration.pool import Pool, Size
from audit.calibration.tally import Answer, Effect, Outcome, Read, found
from audit.perception import perceived
from audit.study import Study

from . import detectors

PROBE = "languages"
LOST, PARITY = "sw", "tr"
"""The phantom starves the first; the second is filled from English images of other seeds."""
SEEDS = 8


class LanguagesTrials:
    """See :class:`audit.calibration.pool.Trials`."""

    models = ("phantom",)
    images_of: tuple[str, ...] = ()
    detectors = ("clip", "reader")

    def asked(self, study: Study, size: Size) -> tuple[Mapping[str, Any], int | None]:
        """English and the starved language."""
        return {"prompts": _prompts(study, ("en", LOST))}, size.seeds

    def outcomes(self, pools: Mapping[str, Pool], size: Size) -> Iterator[Answer]:
        """Contents drawn, then contents as they are: a label is recognised of its own content."""
        cells = Cells(pools["phantom"])
        yield from cells.read()
        yield from detectors.unread(PROBE)
        design = Design(
            cells.pool,
            PROBE,
            {"prompts": _prompts(cells.pool.study, ("en", PARITY, LOST))},
            images_per_prompt=SEEDS,
        )
        rng = np.random.default_rng(2)
        for number in range(size.sub_audits):
            yield from _compared(design, cells, number, rng, drawn=True)
            yield from _compared(design, cells, number, rng, drawn=False)


class Cells:
    """The pool's images by language, content and seed; shape (contents, seeds) each."""

    def __init__(self, pool: Pool) -> None:
        self.pool, frame = pool, pool.frame(PROBE)
        self.frame = frame
        self.keys = list(_prompts(pool.study, ("en",)))
        wide = {
            language: rows.pivot_table(
                index="key", columns="index", values=["request", "clip_alignment"], aggfunc="first"
            ).reindex(self.keys)
            for language, rows in frame.groupby("language")
        }
        self.requests = {name: rows["request"].to_numpy() for name, rows in wide.items()}
        self.alignment = {
            name: rows["clip_alignment"].to_numpy(float) for name, rows in wide.items()
        }
        labels = list(pool.study.suite.section("attributes")["occupation"]["labels"])
        right = perceived(frame, "occupation", labels) == frame.key
        self.recognised = {
            name: float(right[frame.language == name].mean()) for name in self.requests
        }

    @property
    def contents(self) -> int:
        """How many there are."""
        return len(self.keys)

    @property
    def seeds(self) -> int:
        """How many each has."""
        return len(self.requests["en"][0])

    def read(self) -> Iterator[Read]:
        """Whether CLIP recognises the occupation that the exact reader sees."""
        labels = list(self.pool.study.suite.section("attributes")["occupation"]["labels"])
        known = self.frame[self.frame.reader_occupation.isin(labels)].drop_duplicates("request")
        right = (perceived(known, "occupation", labels) == known.reader_occupation).to_numpy()
        yield Read("clip", "occupation", "reader", right, known.prompt)


def _prompts(study: Study, languages: tuple[str, ...]) -> dict[str, dict[str, str]]:
    prompts = study.suite.section(PROBE)["prompts"]
    return {
        str(key): {language: str(texts[language]) for language in languages}
        for key, texts in prompts.items()
    }


def _compared(
    design: Design, cells: Cells, number: int, rng: np.random.Generator, *, drawn: bool
) -> Iterator[Outcome]:
    contents = np.arange(cells.contents)
    if drawn:
        contents = rng.choice(cells.contents, cells.contents)
    seeds, others = rng.choice(cells.seeds, (2, SEEDS))
    uses = design.uses
    place = pd.Series(np.arange(len(cells.keys)), index=cells.keys)
    content = contents[uses.key.map(place).to_numpy()]
    index = uses["index"].to_numpy()
    seed = np.where(uses.language == PARITY, others[index], seeds[index])
    language = np.where(uses.language == LOST, LOST, "en")
    donors: list[str | None] = [None] * design.requests
    for at, of, c, s in zip(uses.place, language, content, seed, strict=True):
        donors[at] = cells.requests[of][c, s]
    findings = design.findings(donors)
    if drawn:
        lost = float((cells.alignment[LOST] - cells.alignment["en"]).mean())
        margin = abs(found(findings, "alignment_gap", language=LOST).threshold or 0)  # type: ignore[union-attr]
        known = (
            (LOST, lost, "planted" if lost < -2 * margin else "between"),
            (PARITY, 0.0, "null"),
        )
        metric, variant, wide = "alignment_gap", "contents and seeds drawn", False
    else:
        lost = cells.recognised[LOST] - cells.recognised["en"]
        known = ((LOST, lost, "planted"), (PARITY, 0.0, "null"))
        metric, variant, wide = "occupation_accuracy_gap", "seeds drawn, contents as they are", True
    said = {LOST: "a starved language", PARITY: "a language at parity"}
    for code, gap, role in known:
        effect = Effect(PROBE, variant, metric, said[code], role, wide)  # type: ignore[arg-type]
        yield Outcome.of(effect, number, gap, found(findings, metric, language=code))
